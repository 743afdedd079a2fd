"""Which points of a plan go on one start of an engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_record import rewrite_metrics
from witness import Witness

from wattcount.config.composition import compose
from wattcount.config.fields import FrozenDict
from wattcount.config.identity import planned_point
from wattcount.config.schema import RunConfig
from wattcount.metrics.metrics_json import Status
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.result import Result, ResultTable
from wattcount.result.table import TABLE_FILE
from wattcount.run.orchestrate import run_point
from wattcount.run.resolve import Machine, resolve
from wattcount.sweep.machine import Here
from wattcount.sweep.planner import Estimate, Estimator, RecordIndex, predict, read_index, session_of


def session(
    *overrides: str, base: Sequence[str] = ("model=llama3_8b", "gpu=h200", "scenario=server")
) -> str | None:
    cfg: RunConfig = compose([*base, *overrides])
    return session_of(cfg, Here(resolve(cfg, Machine("measured")).config, FrozenDict({})))


def test_loads_share_and_what_the_engine_is_set_up_with_does_not() -> None:
    first = session()
    assert first is not None
    for load in (
        "scenario.rate_rps=4",
        "scenario.window_s=90",
        "scenario.lengths.input_tokens=500",
        "scenario.warmup_s=5",
    ):
        assert session(load) == first, load
    for other in (
        "repeat=1",
        "seed=1",
        "model=qwen3_8b",
        "model.quantization=fp8",
        "gpu=h100",
        "gpu.sm_clock_mhz=1200",
        "engine.max_num_seqs=64",
        "engine.enforce_eager=true",
        "scenario.bare_idle_s=3",
        "power.status_period_ms=500",
    ):
        assert session(other) not in (None, first), other


def test_points_of_other_context_lengths_do_not_share_unless_one_is_set() -> None:
    long = "scenario.lengths.input_tokens=2048"
    assert session(long) != session()
    assert session(long, "engine.max_model_len=4096") == session("engine.max_model_len=4096")


def test_a_batch_and_a_server_share_only_where_the_engine_is_set_up_alike() -> None:
    same = (
        "scenario.lengths.input_tokens=512",
        "scenario.lengths.output_tokens=128",
        "scenario.bare_idle_s=10",
    )
    batch = ("scenario=batch", *same)
    assert session(*batch) != session(*same)  # vLLM's server and its class LLM have other limits
    limits = ("engine.max_num_seqs=256", "engine.max_num_batched_tokens=8192")
    assert session(*batch, *limits) == session(*same, *limits)


@pytest.mark.parametrize(("asked", "shared"), [("null", False), ("true", True), ("false", False)])
def test_an_engine_that_starts_at_once_is_shared_only_when_asked_for(asked: str, shared: bool) -> None:
    tiny = ("model=tiny", "engine=tiny", "power=emulated", "scenario=batch")
    assert (session(f"sweep.share_engine={asked}", base=tiny) is not None) == shared


def test_sharing_can_be_left_out() -> None:
    assert session("sweep.share_engine=false") is None


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

    monkeypatch.setattr("wattcount.metrics.metrics_json.compute", never)
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


def result(wall_s: float, status: Status = Status.valid, evidence: str = "measured") -> Result:
    return Result(
        planned_point="point",
        status=status,
        evidence=Evidence(evidence),
        wall_s=wall_s,
        run_energy_j=10 * wall_s,
    )


def test_of_records_like_it_the_mean() -> None:
    records = [
        result(10.0),
        result(20.0),
        result(900.0, Status.failed),
        result(900.0, evidence="emulated"),
    ]
    estimator = Estimator(RecordIndex(records))
    found = estimator.estimate("point", compose(["model=tiny"]), {"evidence": "measured"})
    assert found == Estimate(15.0, 150.0, "measured")


def test_without_any_by_the_data_sheet() -> None:
    estimator = Estimator(RecordIndex(()))
    found = estimator.estimate("point", compose(["model=llama3_8b", "gpu=h200"]), {})
    assert found.basis == "predicted"


# Mean power measured on an H200 with Llama-3-8B's shape, 512 tokens in and 128 out.
@pytest.mark.parametrize(("rate", "window_w"), [(1.0, 252.0), (4.0, 453.0), (16.0, 567.0)])
def test_a_prediction_is_of_the_right_size(rate: float, window_w: float) -> None:
    overrides = ["model=llama3_8b", "gpu=h200", "scenario=server", f"scenario.rate_rps={rate}"]
    short, long = (
        predict(compose([*overrides, f"scenario.window_s={seconds}"])) for seconds in (60.0, 160.0)
    )
    assert long.wall_s - short.wall_s == pytest.approx(100.0)
    assert short.energy_j is not None
    assert long.energy_j is not None
    assert (long.energy_j - short.energy_j) / 100.0 == pytest.approx(window_w, rel=0.35)


def test_more_gpus_and_slower_gpus_take_their_share() -> None:
    one = predict(compose(["model=llama3_8b", "gpu=h200", "scenario=batch"]))
    slow = predict(compose(["model=llama3_8b", "gpu=l4", "scenario=batch"]))
    assert slow.wall_s > 1.5 * one.wall_s


def test_a_run_on_an_engine_that_is_up_takes_less() -> None:
    cfg = compose(["model=llama3_8b", "gpu=h200", "scenario=server"])
    first, further = predict(cfg), predict(cfg, follows=True)
    scenario = cfg.scenario
    assert first.wall_s - further.wall_s > scenario.bare_idle_s + scenario.bare_idle_after_s + 20.0
    assert (further.energy_j or 0.0) < (first.energy_j or 0.0)
    alone, follower = result(90.0), replace(result(30.0), session="the first", run_id="the second")
    estimator = Estimator(RecordIndex([alone, follower]))
    assert estimator.estimate("point", cfg, {}).wall_s == 90.0
    assert estimator.estimate("point", cfg, {}, follows=True).wall_s == 30.0
    assert Estimator(RecordIndex([alone])).estimate("point", cfg, {}, follows=True) == further
