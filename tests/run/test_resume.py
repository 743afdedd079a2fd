"""What counts as measured before, and who measures what: with records, runs and processes as they are."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun
from witness import Program, Witness, kill

from wattcount import metrics
from wattcount.config.schema import PowerBackend, RunConfig
from wattcount.errors import MeasuredElsewhereError
from wattcount.record import Record
from wattcount.run.orchestrate import run_point
from wattcount.run.resume import Wanted, remove_stale_claims

pytestmark = pytest.mark.timeout(120)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    info = SyntheticRun().info()
    return Wanted(tmp_path / "records", info.point_id, info.seed, info.repeat)


@pytest.fixture
def record(wanted: Wanted) -> Path:
    """A finished valid record of what is wanted."""
    return a_record(wanted, "20260901-120000-000-aaaaaa")


def a_record(wanted: Wanted, run_id: str) -> Path:
    folder = wanted.records_dir / wanted.point_id[:12] / f"r{wanted.repeat}-{run_id}"
    SyntheticRun().write(folder)
    edit(folder / "run.json", complete=True)
    metrics.write(folder)
    content = json.loads((folder / "metrics.json").read_text())
    edit(folder / "metrics.json", validity=content["validity"] | {"valid": True})
    return folder


def test_nothing_is_finished_where_nothing_is(wanted: Wanted) -> None:
    assert wanted.finished() is None


def test_the_latest_valid_record_counts(wanted: Wanted, record: Path) -> None:
    assert wanted.finished() == record
    later = a_record(wanted, "20260902-120000-000-aaaaaa")
    assert wanted.finished() == later
    edit(later / "run.json", complete=False)
    assert wanted.finished() == record


def test_what_is_not_finished(wanted: Wanted, record: Path) -> None:
    valid = json.loads((record / "metrics.json").read_text())["validity"]
    for file, changes in (
        ("run.json", {"complete": False}),
        ("run.json", {"validity": {"valid": False, "reasons": ["timeout"], "messages": ["slow"]}}),
        ("metrics.json", {"validity": valid | {"valid": False}}),
        ("run.json", {"seed": wanted.seed + 1}),
        ("run.json", {"repeat": wanted.repeat + 1}),
        ("run.json", {"point_id": wanted.point_id[:12] + "0" * 52}),
        ("run.json", {"schema_version": 99}),
        ("run.json", {"phases": None}),
    ):
        before = (record / file).read_bytes()
        edit(record / file, **changes)
        assert wanted.finished() is None, changes
        (record / file).write_bytes(before)
        assert wanted.finished() == record
    (record / "run.json").write_text("{")
    assert wanted.finished() is None


def test_a_record_in_the_making_is_not_finished(wanted: Wanted, record: Path) -> None:
    record.rename(record.with_name(".tmp-20260901-120000-000-aaaaaa"))
    assert wanted.finished() is None


def test_damaged_metrics_are_made_afresh(wanted: Wanted) -> None:
    """As after a power cut: the raw files were synced, metrics.json was not."""
    record = a_record(wanted, "20260901-120000-000-aaaaaa")
    (record / "metrics.json").write_bytes(b"")
    found = wanted.finished()
    content = json.loads((record / "metrics.json").read_text())
    assert (found is not None) == content["validity"]["valid"]
    (record / "metrics.json").unlink()
    assert wanted.finished() == found


def test_five_thousand_records_are_looked_through_in_no_time(wanted: Wanted, record: Path) -> None:
    """One point after the other as a sweep does, 5 repeats a point."""
    points = []
    for number in range(1000):
        point_id = f"{number:012d}".ljust(64, "0")
        for repeat in range(5):
            folder = wanted.records_dir / point_id[:12] / f"r{repeat}-20260901-120000-000-aaaaaa"
            folder.mkdir(parents=True)
            (folder / "metrics.json").hardlink_to(record / "metrics.json")
            shutil.copy(record / "run.json", folder / "run.json")
            points.append(Wanted(wanted.records_dir, point_id, wanted.seed, repeat))
    edit(record / "run.json", point_id=points[-1].point_id, repeat=4)
    target = wanted.records_dir / points[-1].point_id[:12] / "r4-20260901-120000-000-aaaaaa"
    shutil.copy(record / "run.json", target / "run.json")
    began = time.process_time()
    found = [point.finished() for point in points]
    assert time.process_time() - began < 3.0  # a third of it on an idle machine
    assert found == [None] * 4999 + [target]


def test_a_finished_point_is_not_measured_again(
    emulated: Any, tiny_run: Callable[..., RunConfig], witness: Witness
) -> None:
    emulated()
    cfg = tiny_run()
    cfg.resume = True
    first = run_point(cfg, witness)
    assert (first.exit_code, first.measured_before) == (0, False)
    assert first.record_path is not None
    _pretend(first.record_path, valid=True)
    other = Witness()
    again = run_point(cfg, other)
    assert (again.exit_code, again.record_path, again.measured_before) == (0, first.record_path, True)
    assert other.cfg is None

    _pretend(first.record_path, valid=False)
    anew = run_point(cfg, Witness())
    assert anew.record_path not in (None, first.record_path)
    assert not anew.measured_before

    _pretend(first.record_path, valid=True)
    cfg.resume = False
    assert not run_point(cfg, Witness()).measured_before
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 3
    assert list((Path(cfg.records_dir) / ".running").iterdir()) == []


def _pretend(record: Path, *, valid: bool) -> None:
    """A run of a second has findings against it, and on a busy machine not always the same ones."""
    content = json.loads((record / "metrics.json").read_text())
    edit(record / "metrics.json", validity=content["validity"] | {"valid": valid})


def test_a_point_has_one_run_at_a_time(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    """Each run has an emulated GPU of its own, so no GPU's lock keeps them apart."""
    cfg = tiny_run(bare_idle_s=1.5)
    cfg.resume = True
    cfg.power.backend = PowerBackend.emulated
    first = Program(cfg, tmp_path)
    first.read_until("bare idle")
    with pytest.raises(
        MeasuredElsewhereError, match=rf"^the same point is being .*\(pid {first.process.pid} on"
    ):
        run_point(cfg, witness, wait_for_others=False)
    cfg.repeat = 1
    assert run_point(cfg, Witness(), wait_for_others=False).exit_code == 0
    assert first.end() == 0
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 1


def test_a_killed_run_frees_its_point_which_is_then_measured_again(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    cfg = tiny_run(bare_idle_s=2.0)
    cfg.resume = True
    cfg.power.backend = PowerBackend.emulated
    first = Program(cfg, tmp_path)
    first.read_until("bare idle")
    kill(first.process.pid)
    first.end()
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.measured_before) == (0, False)
    assert outcome.record_path is not None
    infos = [Record.open(path).info for path in Path(cfg.records_dir).glob("*/r0-*")]
    assert sorted(info.validity.valid for info in infos) == [False, True][-len(infos) :]


def test_a_claim_does_not_keep_from_measuring_once_more(wanted: Wanted) -> None:
    def ask(*, alone: bool) -> list[int]:
        with wanted.claimed("", print, alone=alone, wait=False) as descriptors:
            return descriptors

    with wanted.claimed("", print, alone=True, wait=False) as held:
        assert len(held) == 1
        assert ask(alone=False) == []
        with pytest.raises(MeasuredElsewhereError):
            ask(alone=True)
    assert len(ask(alone=True)) == 1
    assert list((wanted.records_dir / ".running").iterdir()) == []


def test_only_claims_that_nobody_holds_are_removed(wanted: Wanted) -> None:
    with wanted.claimed("", print, alone=True, wait=False):
        (held,) = (wanted.records_dir / ".running").iterdir()
        stale = held.with_name("stale.point")
        stale.write_bytes(held.read_bytes())
        elsewhere = held.with_name("elsewhere.point")
        elsewhere.write_text(json.dumps({"hostname": "other", "machine_id": "1", "boot_id": "2"}))
        remove_stale_claims(wanted.records_dir)
        assert sorted((wanted.records_dir / ".running").iterdir()) == sorted([held, elsewhere])


def test_a_folder_without_locks(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("no folder")
    wanted = Wanted(tmp_path / "records", "ab" * 32, 0, 0)
    with wanted.claimed("", print, alone=True, wait=True) as descriptors:
        assert descriptors == []
