"""`wattcount results` and `wattcount list`: whose results they show, in which shape, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sweep_ledger import PER_TOKEN, make_sweep
from synthetic_record import SyntheticRun

from wattcount.cli.main import main
from wattcount.records.schema import Validity

IDS = ("0a1b2c", "3d4e5f", "6a7b8c")


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Two repeats of one point and an invalid run of another."""
    bad = Validity(False, ["timeout"], ["took too long"])
    for point, number, run in (
        ("aaaa00000001", 0, {}),
        ("aaaa00000001", 1, {}),
        ("bbbb00000002", 2, {"rate_rps": 8.0, "validity": bad}),
    ):
        run_id = f"20260901-12000{number}-000-{IDS[number]}"
        SyntheticRun(run_id=run_id, repeat=number % 2, **run).write(
            tmp_path / point / f"r{number % 2}-{run_id}"
        )
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *args: str | Path, code: int = 0) -> str:
    assert main([str(arg) for arg in args]) == code
    return capsys.readouterr().out


def test_all_records_where_there_is_no_sweep(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "results", "--records-dir", records)
    assert "2 settings, 3 runs" in out
    assert "2 of 2" in out
    assert "INVALID: timeout" in out
    assert max(map(len, out.splitlines())) <= 80


def test_the_sweep_that_was_started_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with make_sweep(tmp_path):
        (row,) = json.loads(shown(capsys, "results", "--records-dir", tmp_path, "--json"))
        assert row["runs"] == row["valid_runs"] == 2
        assert (
            shown(capsys, "results", "big", "--records-dir", tmp_path, "--json")
            == json.dumps([row], indent=2) + "\n"
        )


def test_a_folder_a_point_and_a_run(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for which, runs in ((records / "aaaa00000001", 2), ("aaaa", 2), (IDS[0], 1)):
        (row,) = json.loads(shown(capsys, "results", which, "--records-dir", records, "--json"))
        assert row["runs"] == runs


def test_csv_and_markdown(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "results", "--records-dir", records, "--csv"))))
    assert [row["valid_runs"] for row in rows] == ["2", "0"]
    assert float(rows[0][PER_TOKEN]) > 0
    assert rows[1][PER_TOKEN] == ""
    assert shown(capsys, "results", "--records-dir", records, "--markdown").count("\n| ") == 4


def test_a_matrix_of_what_there_is(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "results", "--records-dir", records, "--matrix")
    assert "2, 2, 1" in out
    assert "0 !1" in out
    cells = json.loads(shown(capsys, "results", "--records-dir", records, "--matrix", "--json"))
    assert [(cell["valid"], len(cell["invalid"])) for cell in cells] == [(2, 0), (0, 1)]
    assert "| 2, 2, 1 |" in shown(capsys, "results", "--records-dir", records, "--matrix", "--markdown")
    assert main(["results", "--records-dir", str(records), "--matrix", "--csv"]) == 2


def test_rows_by_a_field_and_a_field_that_there_is_not(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = json.loads(shown(capsys, "results", "aaaa", "--records-dir", records, "--by", "repeat", "--json"))
    assert [row["repeat"] for row in rows] == ["0", "1"]
    assert main(["results", "--records-dir", str(records), "--by", "modl"]) == 2
    assert "did you mean 'model'" in capsys.readouterr().err


def test_where_nothing_is_valid_there_is_no_result(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "results", IDS[2], "--records-dir", records, code=1)


def test_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("results", "list"):
        assert main([command, "--records-dir", str(tmp_path)]) == 2
        assert "no run in" in capsys.readouterr().err


def test_runs_are_listed_with_ids_that_other_commands_take(
    records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, "list", "--records-dir", records).splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(IDS)
    assert "failed: timeout" in lines[2]
    for name in IDS:
        assert name in shown(capsys, "show", name, "--records-dir", records)
    facts = json.loads(shown(capsys, "list", "--records-dir", records, "--json"))
    assert [fact["id"] for fact in facts] == list(IDS)
    assert [fact["status"] for fact in facts] == ["valid", "valid", "failed"]


def test_a_long_list_shows_its_end_and_says_so(
    records: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.cli.results.LISTED", 1)
    lines = shown(capsys, "list", "--records-dir", records).splitlines()
    assert lines[1].startswith(IDS[2])
    assert lines[2] == "the last 1 of 3 runs; --all shows every one"
    assert len(shown(capsys, "list", "--records-dir", records, "--all").splitlines()) == 4
