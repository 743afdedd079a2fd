"""What a record is worth, by the one rule that all readers share."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun, rewrite_metrics

from wattcount.cli.main import main
from wattcount.metrics.verdict import Status
from wattcount.records import Record
from wattcount.records.schema import Validity
from wattcount.report.summary import print_summary
from wattcount.result import Result, glance, judge
from wattcount.run.claims import Wanted
from wattcount.sweep.planner import read_index
from wattcount.terminal import PlainConsole
from wattcount.tracking import content

FINDING = {"code": "backlog", "figure": 1, "limit": 0, "unit": "1", "message": "late", "invalidates": True}
MILD = FINDING | {"code": "warm", "invalidates": False}


def judged_by_all(records: Path, path: Path) -> tuple[bool, bool, bool]:
    """Whether the record counts as measured for the planner, for a run, and for `compare`."""
    info = SyntheticRun().info()
    index = read_index(records, keep=False)
    planned = [e.status is Status.valid for entries in index._by_point.values() for e in entries]
    run = Wanted(records, info.point_id, info.seed, info.repeat).finished() == path
    return planned == [True], run, main(["compare", str(path), str(path.parents[2] / "good")]) == 0


def called_valid(found: Result) -> tuple[bool, bool, bool]:
    """Whether the tags in MLflow, the page there, and `show` call the record valid."""
    assert found.record is not None
    out = PlainConsole(file=io.StringIO(), width=200)
    with out.capture() as said:
        print_summary(found, out)
    return (
        content.tags(Record.open(found.record), found)["valid"] == "true",
        "**Invalid**" not in content.note(found),
        "INVALID" not in said.get(),
    )


def record(tmp_path: Path, run: SyntheticRun, **validity: Any) -> Path:
    good = SyntheticRun().write(tmp_path / "good")
    rewrite_metrics(good, validity={"valid": True, "reasons": [], "findings": []})
    point = SyntheticRun().info().point_id[:12]
    path = run.write(tmp_path / "records" / point / "r0-20260901-120000-000-aaaaaa")
    rewrite_metrics(path, validity={"valid": True, "reasons": [], "findings": []} | validity)
    return path


def test_a_valid_one(tmp_path: Path) -> None:
    path = record(tmp_path, SyntheticRun(), findings=[MILD])
    found = judge(path).verdict
    assert (found.status, found.reasons, found.reason, found.message) == (Status.valid, (), None, None)
    assert judged_by_all(tmp_path / "records", path) == (True, True, True)
    assert called_valid(judge(path)) == (True, True, True)


@pytest.mark.parametrize(
    ("run", "validity", "status", "reasons"),
    [
        (SyntheticRun(), {"valid": False, "findings": [MILD, FINDING]}, Status.invalid, ("backlog",)),
        (SyntheticRun(), {"valid": False}, Status.invalid, ("no reason was recorded",)),
        (
            SyntheticRun(validity=Validity(False, ["timeout"], ["too slow"]), complete=False),
            {"valid": False, "reasons": ["timeout"]},
            Status.failed,
            ("timeout",),
        ),
        (SyntheticRun(complete=False), {}, Status.failed, ("incomplete",)),
    ],
)
def test_one_that_is_not(
    tmp_path: Path, run: SyntheticRun, validity: dict[str, Any], status: Status, reasons: tuple[str, ...]
) -> None:
    path = record(tmp_path, run, **validity)
    found = judge(path).verdict
    assert (found.status, found.reasons) == (status, reasons)
    assert judged_by_all(tmp_path / "records", path) == (False, False, False)
    assert called_valid(judge(path)) == (False, False, False)


def test_metrics_of_an_older_version_are_believed_by_nobody(tmp_path: Path) -> None:
    """A check that came with a new version finds nothing in what an older one wrote."""
    path = record(tmp_path, SyntheticRun(), valid=False, findings=[FINDING])
    stored = json.loads((path / "metrics.json").read_text())
    stored |= {"metrics_version": stored["metrics_version"] - 1}
    (path / "metrics.json").write_text(json.dumps(stored))
    assert glance(path) is None
    assert len(set(judged_by_all(tmp_path / "records", path))) == 1


@pytest.mark.parametrize("damage", ["cut", "missing", "link", "fifo"])
def test_a_damaged_one_stands_for_nothing(tmp_path: Path, damage: str) -> None:

    path = record(tmp_path, SyntheticRun())
    file = path / "power.parquet"
    content = file.read_bytes()
    file.unlink()
    if damage == "cut":
        file.write_bytes(content[:100])
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    elif damage == "fifo":
        os.mkfifo(file)
    found = judge(path)
    assert (found.status, found.verdict.reason, found.run_id) == (Status.damaged, "damaged", None)
    assert "power.parquet" in str(found.verdict.message)
    assert judged_by_all(tmp_path / "records", path) == (False, False, False)
