"""Which records a folder has, by planned point; that a cache never says otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_record import rewrite_metrics
from witness import Witness

from wattcount.config.identity import planned_point
from wattcount.config.schema import RunConfig
from wattcount.metrics.verdict import Status
from wattcount.records import Record
from wattcount.result import ResultTable
from wattcount.result.table import TABLE_FILE
from wattcount.run.orchestrate import run_point
from wattcount.sweep.index import read_index

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    """A folder with one record."""
    from wattcount.config.composition import compose

    folder = tmp_path_factory.mktemp("index") / "records"
    cfg = compose(
        ["model=tiny", "engine=tiny", "power=emulated", "gpu=h200", "tracking=none", "scenario=batch",
         "scenario.num_requests=4", "scenario.warmup_requests=0", "scenario.lengths.output_tokens=4",
         "scenario.bare_idle_s=0.3", "scenario.loaded_idle_s=0.3", "scenario.bare_idle_after_s=0.3",
         f"records_dir={folder}"]
    )  # fmt: skip
    assert run_point(cfg, Witness()).exit_code == 0
    return folder, cfg


@pytest.fixture
def records(made: tuple[Path, RunConfig], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "records"))


def test_a_record_is_found_by_its_planned_point(records: Path, made: tuple[Path, RunConfig]) -> None:
    point = planned_point(made[1])
    for _ in range(2):  # the second time from the cache
        index = read_index(records)
        assert len(index) == 1
        (entry,) = index.runs(point, 0, 0, {"evidence": "emulated", "device": "cpu"})
        assert entry.status is Status.valid
        assert entry.record is not None
        assert Record.open(entry.record).info.point_id.startswith(entry.record.parent.name)
        assert entry.wall_s == Record.open(entry.record).info.timing["wall_s"]
        assert entry.run_energy_j is not None
        # A busy machine takes its time between the phases, where no energy is counted.
        assert 0 < entry.run_energy_j < 1000 * entry.wall_s
        assert index.valid(point, {}) == [entry]
        assert index.runs(point, 0, 1, {}) == []
        assert index.runs(point, 0, 0, {"evidence": "measured"}) == []
    assert (records / TABLE_FILE).exists()


def test_a_record_that_goes_is_forgotten_and_one_that_changes_is_read_again(
    records: Path, made: tuple[Path, RunConfig]
) -> None:
    point = planned_point(made[1])
    (entry,) = read_index(records).runs(point, 0, 0, {})
    finding = {
        "code": "backlog",
        "figure": 1,
        "limit": 0,
        "unit": "1",
        "message": "too slow",
        "invalidates": True,
    }
    assert entry.record is not None
    rewrite_metrics(entry.record, validity={"valid": False, "reasons": [], "findings": [finding]})
    (entry,) = read_index(records).runs(point, 0, 0, {})
    assert (entry.status, entry.reasons, entry.messages) == (Status.invalid, ("backlog",), ("too slow",))
    shutil.rmtree(entry.record)
    assert len(read_index(records)) == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"config": {}}'])
def test_a_damaged_record_and_a_damaged_cache_stand_for_nothing(damage: str, records: Path) -> None:
    read_index(records)
    (records / TABLE_FILE).write_text(damage)
    assert len(read_index(records)) == 1
    (run,) = records.glob("*/r0-*/run.json")
    run.write_text(damage)
    (records / TABLE_FILE).unlink()
    assert len(read_index(records)) == 0


def test_a_failed_record_is_no_valid_one(tiny_run: Callable[..., RunConfig]) -> None:
    cfg = tiny_run(batch=True, engine={"fail_at_start": "out_of_memory"})
    assert run_point(cfg, Witness()).exit_code == 1
    index = read_index(Path(cfg.records_dir))
    assert index.valid(planned_point(cfg), {}) == []
    assert len(index) == 1


def test_no_folder_is_no_record(tmp_path: Path) -> None:
    assert len(read_index(tmp_path / "nowhere")) == 0


def listing(folder: Path) -> list[tuple[str, int, int]]:
    found = [(str(path), path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(name, facts.st_size, facts.st_mtime_ns) for name, facts in found]


@pytest.mark.parametrize("metrics", ["kept", "missing", "older"])
def test_planning_without_keeping_changes_nothing_on_the_disk(records: Path, metrics: str) -> None:
    (folder,) = records.glob("*/r0-*")
    if metrics == "missing":
        (folder / "metrics.json").unlink()
    elif metrics == "older":
        (folder / "metrics.json").write_text(json.dumps({"metrics_version": 1, "energy": {}}))
    before = listing(records)
    assert len(read_index(records, keep=False)) == 1
    assert listing(records) == before
    assert len(read_index(records)) == 1  # nor is metrics.json written, only what was found is kept
    assert {name for name, *_ in listing(records)} - {name for name, *_ in before} == {
        str(records / TABLE_FILE),
    }


@pytest.mark.parametrize("name", ["power.parquet", "requests.parquet", "steps.parquet", "run.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_record_that_was_damaged_is_set_aside_with_its_reason(
    records: Path, name: str, damage: str
) -> None:
    """Though it was in the index, and its `metrics.json` says that it is valid."""
    assert len(read_index(records)) == 1
    (folder,) = records.glob("*/r0-*")
    file = folder / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:-9] if damage == "cut" else content[:60] + b"\xff" + content[61:])
    for _ in range(2):  # the second time from the cache
        index = read_index(records)
        assert len(index) == 0
        if (name, damage) == ("run.json", "missing"):
            assert index.set_aside == []  # a folder without run.json is no record
            continue
        (entry,) = index.set_aside
        assert name in str(entry.messages)
    file.write_bytes(content)
    assert len(read_index(records)) == 1


def test_a_glance_computes_nothing(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `wattcount status` looks at thousands of records, most of which nothing is known of after an upgrade."""
    (folder,) = (str(path.relative_to(records)) for path in records.glob("*/r0-*"))

    def never(_record: Record) -> None:
        raise AssertionError("metrics were computed")

    monkeypatch.setattr("wattcount.metrics.load.compute", never)
    found = ResultTable(records).glance(folder)
    assert found is not None
    assert found.status in (Status.valid, Status.invalid)
    (records / folder / "metrics.json").unlink()
    table = ResultTable(records)
    assert table.glance(folder) is None
    table.save()
    monkeypatch.setattr("wattcount.result.table.glance", never)
    assert ResultTable(records).glance(folder) is None  # it is known to be whole, and was not read again
    monkeypatch.setattr("wattcount.result.table.MOST_LOOKS", 0)
    (records / folder / "steps.parquet").touch()
    assert ResultTable(records).glance(folder) is None
