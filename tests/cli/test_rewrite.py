from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, as_version_1

from wattcount.cli.main import main
from wattcount.metrics import compute, to_bytes
from wattcount.metrics.metrics_json import load_metrics, stored_metrics
from wattcount.records import Record, writer


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A record of version 1, with a log and a file that nobody knows."""
    path = as_version_1(SyntheticRun().write(tmp_path / "r0-x"))
    (path / "engine.log").write_text("a line\n")
    (path / "notes.txt").write_text("mine\n")
    return path


def test_records_of_version_1_are_read(tmp_path: Path, old: Path) -> None:
    today, before = Record.open(SyntheticRun().write(tmp_path / "new")), Record.open(old)
    before.verify()
    assert before.info.schema_version == 1
    assert before.requests == today.requests
    assert load_metrics(before) == load_metrics(today)


def test_an_old_record_is_written_anew_and_gives_the_same_figures(
    tmp_path: Path, old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, info = load_metrics(Record.open(old)), json.loads((old / "run.json").read_text())
    assert main(["upgrade", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert str(old) in said
    assert "1 records" in said
    record = Record.open(old)
    record.verify()
    assert sorted(file.name for file in record.files()) == [
        "engine.log", "metrics.json", "notes.txt", "power.parquet", "requests.parquet", "run.json",
        "steps.parquet", "tokens.parquet",
    ]  # fmt: skip
    assert stored_metrics(record) == before
    now = json.loads((old / "run.json").read_text())
    assert now.pop("schema_version") == 3
    assert set(now.pop("files")) == {"power.parquet", "requests.parquet", "steps.parquet", "tokens.parquet"}
    assert now == {key: value for key, value in info.items() if key not in ("schema_version", "files")}
    assert [path.name for path in tmp_path.iterdir()] == ["r0-x"]


def test_a_record_of_today_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = SyntheticRun().write(tmp_path / "r")
    times = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert main(["upgrade", str(path)]) == 0
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == times
    assert "r:" not in capsys.readouterr().out


def test_a_damaged_record_stays_as_it_is(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "steps.parquet").write_bytes(b"PAR1")
    assert main(["upgrade", str(old)]) == 2
    assert "steps.parquet" in capsys.readouterr().err
    assert (old / "requests.parquet").exists()
    assert [path.name for path in old.parent.iterdir()] == ["r0-x"]


def test_a_full_disk_leaves_the_old_record(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer, "write_atomically", full)
    assert main(["upgrade", str(old)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert Record.open(old).info.schema_version == 1
    assert [path.name for path in old.parent.iterdir()] == ["r0-x"]


def test_computes_afresh_whatever_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = SyntheticRun().write(tmp_path / "r")
    (record / "metrics.json").write_text("{damaged")
    assert main(["metrics", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{record / 'metrics.json'}\n"
    there = Record.open(record)
    assert (record / "metrics.json").read_bytes() == to_bytes(compute(there), there.digests)


def test_a_record_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = SyntheticRun().write(tmp_path / "r")
    (record / "metrics.json").mkdir()
    assert main(["metrics", str(record)]) == 2
    assert "cannot write metrics.json" in capsys.readouterr().err


def test_damaged_raw_files_leave_the_old_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = SyntheticRun().write(tmp_path / "r")
    (record / "metrics.json").write_text("old")
    (record / "requests.parquet").write_bytes(b"PAR1")
    assert main(["metrics", str(record)]) == 2
    assert "requests.parquet" in capsys.readouterr().err
    assert (record / "metrics.json").read_text() == "old"
