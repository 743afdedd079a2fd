from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount.cli.main import main
from wattcount.metrics import compute, write
from wattcount.records import Record
from wattcount.records.schema import Validity


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return SyntheticRun().write(tmp_path / "point" / "r0-x")


def test_a_record(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(record)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "llama3_8b on NVIDIA H200",
        "18.00 kJ",
        "loaded_idle_after",
        "60.00 s",
        str(record),
        "vllm 0.32.0",
    ):
        assert expected in out
    assert "\x1b" not in out


def test_json_is_metrics_json(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(record), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compute(Record.open(record))
    assert not (record / "metrics.json").exists()  # showing writes nothing


def test_json_of_several_is_by_path(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = SyntheticRun().write(record.parent / "r1-y")
    assert main(["show", str(record.parent), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == [str(record), str(other)]


def test_all_metrics(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(record), "--all"]) == 0
    out = capsys.readouterr().out
    assert "energy/dynamic_j" in out
    assert "not_a_batch: only batch scenarios have it" in out
    # Beside a figure stands over which requests, time and joules it is.
    assert re.search(
        r"energy/gpu_j_per_request +\S+ J\n +E / `requests/completed_in_window`: all energy of the", out
    )


def test_an_invalid_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = SyntheticRun(
        phases=[], requests=[], validity=Validity(False, ["interrupted"], ["stopped by the user"])
    )
    assert main(["show", str(broken.write(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "INVALID" in out
    assert "stopped by the user" in out


@pytest.mark.parametrize("spoil", ["run.json", "steps.parquet", "power.parquet"])
def test_damage_is_one_line_and_exit_code_2(
    record: Path, capsys: pytest.CaptureFixture[str], spoil: str
) -> None:
    write(record)
    (record / spoil).write_bytes(b"{nonsense")
    assert main(["show", str(record)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert spoil in captured.err


def test_a_path_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "/no/such/place"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "wattcount: /no/such/place does not exist; give a run record, a folder with records below it, "
    )


def test_what_it_does_not_need_is_not_imported(record: Path) -> None:
    """Each of these costs a tenth of a second and more."""
    write(record)
    code = (
        "import sys; from wattcount.cli.main import main\n"
        f"sys.argv = ['wattcount', 'show', {str(record)!r}]\n"
        "assert main() == 0\n"
        "print(sorted({'pandas', 'mlflow', 'hydra', 'scipy.stats', 'vllm'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_plot_writes_the_pictures_and_says_where(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(record), "--plot"]) == 0
    written = tmp_path / "wattcount-abcdef.html"
    assert capsys.readouterr().out == f"pictures: {written}\n"
    page = written.read_text()
    assert "Power over time: llama3_8b on NVIDIA H200" in page
    assert "Share of requests by latency" in page
    assert "Energy of the window and its uncertainty" in page
    assert "http://" not in page.partition("<script>")[0]


def test_plot_as_a_picture_goes_where_it_is_told_to(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(record), "--plot", "-o", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"pictures: {tmp_path / 'a.png'}\n"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--plot", "-o", "a.jpg"], "give one of these endings"),
        (["--plot", "-o", "no/such/folder/a.png"], "cannot be written"),
        (["-o", "a.png"], "add --plot"),
    ],
)
def test_a_plot_that_cannot_be_made_is_refused_in_one_line(
    record: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(record), *more]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_one_record_is_drawn_at_a_time(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SyntheticRun().write(record.parent / "r1-y")
    assert main(["show", str(record.parent), "--plot"]) == 2
    assert "there are 2: say which" in capsys.readouterr().err
