from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount.cli.main import main
from wattcount.metrics import compute, to_bytes
from wattcount.records import Record


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
