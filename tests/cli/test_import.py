from __future__ import annotations

import json
from pathlib import Path

import importer_samples as samples
import pytest

from wattcount.cli.main import main
from wattcount.importers.file import load


def test_a_source_and_its_file_become_a_parquet_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = samples.write(tmp_path, "mlenergy v2"), tmp_path / "results.parquet"
    assert main(["import", "mlenergy", str(path), "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "gemma2_9b" in shown
    assert "Apache-2.0" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 80
    results, (origin,) = load(out)
    assert len(results) == 2
    assert str(results[0].source) == "file.csv"
    assert origin.source.licence == "Apache-2.0"


def test_auto_tells_by_the_files_and_takes_several_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    out = tmp_path / "results.parquet"
    paths = [str(samples.write(one, "mlenergy v1")), str(samples.write(two, "aiperf"))]
    assert main(["import", "auto", *paths, "-o", str(out)]) == 0
    assert "none stated: the rows must not be published" in capsys.readouterr().out
    results, origins = load(out)
    assert {item.origin for item in results} == {"imported:mlenergy", "imported:aiperf"}
    assert len(origins) == 2
    assert main(["import", "auto", *paths, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_the_list_has_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--list"]) == 0
    shown = capsys.readouterr().out
    for name in ("mlenergy", "watt-counts", "mlperf", "inferencex", "nvidia-smi"):
        assert f"\n{name}\n" in f"\n{shown}"
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch", "FILE"], "no source is named 'nosuch'; there are aiperf,"),
        (["auto", "MISSING"], "does not exist"),
        (["mlenergy", "MISSING"], "does not exist"),
        (["auto", "OTHER"], "is of no source that is known"),
        (["mlperf", "FILE"], "mlperf_log_detail.txt"),
        (["tokenpowerbench", "FILE"], "line 1: no file of TokenPowerBench: the header has no column 'file'"),
        ([], "give a source"),
        (["mlenergy", "FILE", "-o", "FOLDER"], "cannot be written"),
    ],
)
def test_what_cannot_be_done_says_so_and_ends_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    (tmp_path / "other.txt").write_text("hello\n")
    places = {
        "FILE": str(samples.write(tmp_path, "mlenergy v2")),
        "MISSING": str(tmp_path / "none.csv"),
        "OTHER": str(tmp_path / "other.txt"),
        "FOLDER": str(tmp_path / "none" / "out.parquet"),
    }
    assert main(["import", *(places.get(word, word) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_bad_row_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "file.csv", tmp_path / "results.parquet"
    path.write_text(samples.V2.replace(",1000.0,", ",nan,"))
    assert main(["import", "mlenergy", str(path), "-o", str(out)]) == 2
    assert "file.csv, line 2: Token tput (tok/s) is 'nan', no finite number" in capsys.readouterr().err
    assert not out.exists()


def test_text_of_others_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file.csv"
    path.write_text(samples.V2.replace("google/gemma-2-9b-it", "\x1b[31m[b]x[/b]\u202e"))
    assert main(["import", "mlenergy", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert r"\x1b[31m[b]x[/b]" in shown
