"""What counts as measured before, and who measures what: with records, runs and processes as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun, hash_files, rewrite_metrics
from witness import Program, Witness, kill

from wattcount import metrics
from wattcount.config.loader import changed
from wattcount.config.schema import PowerBackend, RunConfig
from wattcount.errors import MeasuredElsewhereError
from wattcount.records import Record
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
    _pretend(folder, valid=True)
    return folder


def test_nothing_is_finished_where_nothing_is(wanted: Wanted) -> None:
    assert wanted.finished() is None


def test_the_latest_valid_record_counts(wanted: Wanted, record: Path) -> None:
    assert wanted.finished() == record
    later = a_record(wanted, "20260902-120000-000-aaaaaa")
    assert wanted.finished() == later
    edit(later / "run.json", complete=False)
    _pretend(later, valid=True)
    assert wanted.finished() == record


def test_what_is_not_finished(wanted: Wanted, record: Path) -> None:
    assert wanted.finished() == record
    before = (record / "run.json").read_bytes()
    for changes in (
        {"complete": False},
        {"validity": {"valid": False, "reasons": ["timeout"], "messages": ["slow"]}},
        {"seed": wanted.seed + 1},
        {"repeat": wanted.repeat + 1},
        {"point_id": wanted.point_id[:12] + "0" * 52},
        {"notes": ["another content, and it was not checked yet"], "complete": False},
    ):
        edit(record / "run.json", **changes)
        _pretend(record, valid=True)
        assert wanted.finished() is None, changes
        (record / "run.json").write_bytes(before)
        _pretend(record, valid=True)
        assert wanted.finished() == record
    _pretend(record, valid=False)
    assert wanted.finished() is None


@pytest.mark.parametrize("changes", [{"schema_version": 99}, {"phases": None}, {"seed": [1]}, {"config": {}}])
def test_a_run_json_of_another_shape_is_not_finished(
    wanted: Wanted, record: Path, changes: dict[str, Any]
) -> None:
    edit(record / "run.json", **changes)
    assert wanted.finished() is None


@pytest.mark.parametrize("name", ["power.parquet", "requests.parquet", "steps.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_record_is_measured_again(wanted: Wanted, record: Path, name: str, damage: str) -> None:
    """With its `metrics.json` as it was, which says that it is valid."""
    hash_files(record)
    _pretend(record, valid=True)
    assert wanted.finished() == record
    file = record / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-10])
    else:
        file.write_bytes(content[:60] + bytes([content[60] ^ 0xFF]) + content[61:])
    assert wanted.finished() is None


def test_a_record_in_the_making_is_not_finished(wanted: Wanted, record: Path) -> None:
    record.rename(record.with_name(".tmp-20260901-120000-000-aaaaaa"))
    assert wanted.finished() is None


@pytest.mark.parametrize("damage", ["empty", "missing", "edited", "older"])
def test_metrics_that_cannot_be_believed_are_computed(wanted: Wanted, damage: str) -> None:
    """As after a power cut, an upgrade, or a hand that knew better: the raw files decide."""
    record = a_record(wanted, "20260901-120000-000-aaaaaa")
    file = record / "metrics.json"
    computed = metrics.compute(Record.open(record))["validity"]["valid"]
    _pretend(record, valid=not computed)
    assert (wanted.finished() is not None) is not computed
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    elif damage == "edited":
        edit(file, evidence="measured, believe me")
    else:
        edit(file, metrics_version=metrics.METRICS_VERSION - 1)
    before = sorted(path.name for path in record.iterdir())
    assert (wanted.finished() is not None) is computed
    assert sorted(path.name for path in record.iterdir()) == before  # looking writes nothing


def test_only_the_folder_of_its_point_is_looked_at(
    wanted: Wanted, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One point after the other as a sweep does, 5 repeats a point."""
    points = []
    for number in range(20):
        point_id = f"{number:012d}".ljust(64, "0")
        for repeat in range(5):
            folder = wanted.records_dir / point_id[:12] / f"r{repeat}-20260901-120000-000-aaaaaa"
            folder.mkdir(parents=True)
            (folder / "metrics.json").hardlink_to(record / "metrics.json")
            shutil.copy(record / "run.json", folder / "run.json")
            points.append(Wanted(wanted.records_dir, point_id, wanted.seed, repeat))
    target = wanted.records_dir / points[-1].point_id[:12] / "r4-20260901-120000-000-aaaaaa"
    shutil.rmtree(target)
    shutil.copytree(record, target)
    edit(target / "run.json", point_id=points[-1].point_id, repeat=4)
    _pretend(target, valid=True)
    opened = []
    real = Record.open

    def counted(path: Path) -> Record:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(Record, "open", counted)
    assert [point.finished() for point in points] == [None] * 99 + [target]
    assert len(set(opened)) == 100


def test_a_finished_point_is_not_measured_again(
    emulated: Any, tiny_run: Callable[..., RunConfig], witness: Witness
) -> None:
    emulated()
    cfg = tiny_run()
    cfg = changed(cfg, {"resume": True})
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
    cfg = changed(cfg, {"resume": False})
    assert not run_point(cfg, Witness()).measured_before
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 3
    assert list((Path(cfg.records_dir) / ".running").iterdir()) == []


def _pretend(record: Path, *, valid: bool) -> None:
    """A run of a second has findings against it, and on a busy machine not always the same ones."""
    rewrite_metrics(record, validity={"valid": valid, "reasons": [], "findings": []})


def test_a_point_has_one_run_at_a_time(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    """Each run has an emulated GPU of its own, so no GPU's lock keeps them apart."""
    cfg = tiny_run(bare_idle_s=1.5)
    cfg = changed(cfg, {"resume": True, "power.backend": PowerBackend.emulated})
    first = Program(cfg, tmp_path)
    first.read_until("bare idle")
    with pytest.raises(
        MeasuredElsewhereError, match=rf"^the same point is being .*\(pid {first.process.pid} on"
    ):
        run_point(cfg, witness, wait_for_others=False)
    cfg = changed(cfg, {"repeat": 1})
    assert run_point(cfg, Witness(), wait_for_others=False).exit_code == 0
    assert first.end() == 0
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 1


def test_a_killed_run_frees_its_point_which_is_then_measured_again(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    cfg = tiny_run(bare_idle_s=2.0)
    cfg = changed(cfg, {"resume": True, "power.backend": PowerBackend.emulated})
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
