"""`wattcount report`: pages of a data set, and of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.cli.main import main

RECORDS = Path(__file__).resolve().parents[2] / "data" / "h100" / "records"


def test_pages_of_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two = sorted(RECORDS.glob("*/r*"))[:2]
    assert main(["report", *map(str, two), "-o", str(tmp_path), "--name", "two runs"]) == 0
    assert "pages of 2 results" in capsys.readouterr().out
    assert "two runs" in (tmp_path / "index.html").read_text()


def test_what_has_no_result_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "-o", str(tmp_path / "site")]) != 0
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
