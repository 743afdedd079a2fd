"""Several runs on one start of an engine: what is measured once, what each record has, and what ends it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest
from waiting import commands, has_ended, wait_until
from witness import Witness, kill, worker_pid

from wattcount import metrics
from wattcount.config.loader import changed
from wattcount.config.schema import RunConfig
from wattcount.gpu.nvml import NvmlSession, attach_session
from wattcount.records import Record
from wattcount.records.schema import ENGINE_LOG, Phase
from wattcount.result import judge
from wattcount.run.orchestrate import Outcome, run_point
from wattcount.run.session import POWER_W, STEADY_SAMPLES, TEMPERATURE_C, Rest, Session, is_near, is_steady

pytestmark = pytest.mark.timeout(180)

IDLE_SPLIT = ("power/idle_bare_w", "energy/bare_idle_j", "energy/context_idle_j", "energy/dynamic_j")


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, emulated: Any) -> Iterator[None]:
    emulated()
    yield
    left = commands(psutil.Process().children()).values()
    assert [command for command in left if "wattcount.run.worker" in command] == []
    assert list((tmp_path / "records").glob("*/.tmp-*")) == []


def measure(session: Session, cfg: RunConfig, *, last: bool = False, **action: Any) -> tuple[Outcome, Record]:
    """`action`: `at` a phase what to `do` with the process."""
    witness = Witness()
    if action:
        witness.when(action["at"], action["do"])
    outcome = run_point(cfg, witness, session=session, last=last)
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    record.verify()
    return outcome, record


def phases(record: Record) -> list[Phase]:
    return [span.phase for span in record.info.phases]


def session_of(*records: Record) -> list[tuple[str, int]]:
    return [(record.info.session["id"], record.info.session["number"]) for record in records]


def test_bare_idle_and_start_are_measured_once(tiny_run: Callable[..., RunConfig]) -> None:
    with Session() as session:
        _, batch = measure(session, tiny_run(batch=True))
        pid = worker_pid()
        _, slow = measure(session, tiny_run(rate_rps=20.0))
        assert worker_pid() == pid
        _, fast = measure(session, tiny_run(), last=True)
    first = batch.info.run_id
    assert session_of(batch, slow, fast) == [(first, 1), (first, 2), (first, 3)]
    once = [Phase.BARE_IDLE, Phase.ENGINE_START]
    common = [Phase.LOADED_IDLE, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN, Phase.IDLE_AFTER]
    assert phases(batch) == [*once, *common]
    assert phases(slow) == common
    assert phases(fast) == [*common, Phase.BARE_IDLE_AFTER]
    # Each is a point and a repeat like any other.
    assert len({record.info.point_id for record in (batch, slow, fast)}) == 3
    assert all(
        record.info.complete and record.info.engine["name"] == "tiny" for record in (batch, slow, fast)
    )

    for later in (slow, fast):
        told, (uuid,) = later.info.session, [gpu["uuid"] for gpu in later.info.gpus]
        bare, start = told["bare_idle"], told["engine_start"]
        assert bare["run_id"] == start["run_id"] == first
        assert bare["started_utc"] == batch.info.started_utc
        assert batch.metrics is not None
        watts = batch.metrics["metrics"]["power/idle_bare_w"]
        assert bare["gpus"][uuid]["mean_w"] == pytest.approx(watts, rel=1e-9)
        assert bare["gpus"][uuid]["u95_w"] > 0
        assert start["gpus"][uuid]["energy_j"] > 0
        assert start["seconds"] > 0
        assert judge(later.path).session == first


def test_a_later_record_stands_alone(tiny_run: Callable[..., RunConfig], tmp_path: Path) -> None:
    with Session() as session:
        measure(session, tiny_run(batch=True, bare_idle_after_s=1.5))
        _, later = measure(session, tiny_run(bare_idle_after_s=1.5), last=True)
    before = later.metrics
    alone = tmp_path / "elsewhere" / later.path.name
    shutil.copytree(later.path, alone)
    shutil.rmtree(tmp_path / "records")
    (alone / "metrics.json").unlink()
    metrics.write(alone)
    after = Record.open(alone).metrics
    assert after is not None
    assert before is not None
    assert after["metrics"] == before["metrics"]
    values = {name: after["metrics"][name] for name in IDLE_SPLIT}
    assert None not in values.values()
    total = sum(values[name] for name in IDLE_SPLIT[1:])
    assert total == pytest.approx(after["metrics"]["energy/gpu_j"], rel=1e-6)
    assert after["metrics"]["power/idle_bare_drift_percent"] is not None
    log = alone / ENGINE_LOG
    assert log.is_file()
    assert not log.is_symlink()


def test_a_run_that_fails_by_itself_leaves_the_engine_to_the_next(tiny_run: Callable[..., RunConfig]) -> None:
    slow = {"step_base_ms": 40.0}
    with Session() as session:
        failed, first = measure(session, tiny_run(batch=True, engine=slow, time_limit_s=0.1))
        assert failed.reason == "timeout"
        done, second = measure(session, tiny_run(engine=slow), last=True)
    assert done.reason is None
    assert session_of(first, second) == [(first.info.run_id, 1), (first.info.run_id, 2)]
    assert Phase.ENGINE_START not in phases(second)
    assert second.info.session["bare_idle"]["run_id"] == first.info.run_id


def test_an_engine_that_dies_costs_its_run_and_the_next_has_a_new_one(
    tiny_run: Callable[..., RunConfig],
) -> None:
    dies = {"die_after_s": 3.0}
    with Session() as session:
        _, first = measure(session, tiny_run(batch=True, engine=dies))
        died, second = measure(session, tiny_run(engine=dies, window_s=30.0))
        assert died.reason == "engine_died"
        assert not session.is_up
        done, third = measure(session, tiny_run(batch=True, engine=dies), last=True)
    assert done.reason is None
    ids = [first.info.run_id, first.info.run_id, third.info.run_id]
    assert [found for found, _ in session_of(first, second, third)] == ids
    assert Phase.ENGINE_START in phases(third)


def test_a_process_that_is_killed_in_a_run_costs_that_run(tiny_run: Callable[..., RunConfig]) -> None:
    with Session() as session:
        measure(session, tiny_run(batch=True))
        lost, second = measure(session, tiny_run(window_s=30.0), at=Phase.WINDOW, do=kill)
        assert lost.reason == "worker_died"
        assert not second.info.complete
        assert second.info.session["bare_idle"]["seconds"] > 0
        done, third = measure(session, tiny_run(batch=True), last=True)
    assert done.reason is None
    assert session_of(third) == [(third.info.run_id, 1)]


def test_a_process_that_dies_between_two_runs_costs_none(tiny_run: Callable[..., RunConfig]) -> None:
    with Session() as session:
        measure(session, tiny_run(batch=True))
        pid = worker_pid()
        kill(pid)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        done, second = measure(session, tiny_run(), last=True)
    assert done.reason is None
    assert session_of(second) == [(second.info.run_id, 1)]


def test_an_interruption_ends_the_engine(tiny_run: Callable[..., RunConfig]) -> None:
    with Session() as session:
        measure(session, tiny_run(batch=True))
        cfg = tiny_run(window_s=30.0)
        stopped, second = measure(
            session, cfg, at=Phase.WINDOW, do=lambda _: os.kill(os.getpid(), signal.SIGINT)
        )
        assert (stopped.exit_code, stopped.reason) == (130, "interrupted")
        assert not session.is_up
    assert not second.info.complete


def test_a_point_that_was_measured_before_leaves_the_engine_alone(tiny_run: Callable[..., RunConfig]) -> None:
    once = changed(tiny_run(batch=True), {"resume": True})
    with Session() as session:
        _, first = measure(session, once)
        assert run_point(once, Witness(), session=session, last=False).measured_before
        _, second = measure(session, tiny_run(), last=True)
    assert session_of(second) == [(first.info.run_id, 2)]


def test_a_session_that_is_not_gone_on_with_ends_its_engine(tiny_run: Callable[..., RunConfig]) -> None:
    with Session() as session:
        measure(session, tiny_run(batch=True))
        pid = worker_pid()
        session.close()
        assert has_ended(pid)
        _, second = measure(session, tiny_run(), last=True)
    assert session_of(second) == [(second.info.run_id, 1)]


def test_no_run_finds_the_prompts_of_the_one_before(tiny_run: Callable[..., RunConfig]) -> None:
    """The same seed makes the same prompts for each rate."""
    keeps = {"prefix_caching": True}
    with Session() as session:
        _, slow = measure(session, tiny_run(engine=keeps, rate_rps=20.0))
        _, fast = measure(session, tiny_run(engine=keeps), last=True)
    for record in (slow, fast):
        assert pc.sum(record.requests["cached_tokens"]).as_py() == 0
    (first,) = {record.info.session["id"] for record in (slow, fast)}
    assert first == slow.info.run_id


@pytest.fixture
def machine(emulated: Any) -> Any:
    return emulated()


@pytest.fixture
def session(machine: Any) -> Iterator[NvmlSession]:
    assert machine
    with attach_session() as session:
        yield session


def test_an_idle_gpu_is_not_waited_for(session: NvmlSession) -> None:
    rest, told = Rest(), []
    (uuid,) = (gpu.uuid for gpu in session.gpus())
    for _ in range(2):
        found = rest.wait(session, [uuid], 60.0, told.append)
        assert found["ended"] == "back"
        assert found["before"] == rest.before
        assert found["before"][uuid][POWER_W] > 10
        assert 10 < found["after"][uuid][TEMPERATURE_C] < 100
    assert told == []


def test_a_gpu_that_computes_is_waited_for_until_it_is_back(machine: Any, session: NvmlSession) -> None:
    rest, told = Rest(), []
    ((uuid, truth),) = machine.live.items()
    idle_w = rest.wait(session, [uuid], 0.0, told.append)["after"][uuid][POWER_W]
    truth.append_now(5 * idle_w)
    wait_until(lambda: rest.wait(session, [uuid], 0.0, print)["after"][uuid][POWER_W] > 4 * idle_w)

    def idle_again(text: str) -> None:
        told.append(text)
        truth.append_now(idle_w)

    # 15 s of history are the emulated temperature: it is back soon after the power.
    found = rest.wait(session, [uuid], 120.0, idle_again)
    assert found["ended"] == "back"
    assert found["seconds"] > 0
    assert found["after"][uuid][POWER_W] == pytest.approx(idle_w, rel=0.06)
    assert told == ["letting the GPU cool down, at most 120 s"]


@pytest.mark.parametrize("limit_s", [0.0, 0.7])
def test_the_wait_has_a_limit(limit_s: float, machine: Any, session: NvmlSession) -> None:
    ((uuid, truth),) = machine.live.items()
    rest = Rest({uuid: {POWER_W: 20.0}})
    truth.append_now(500.0)
    found = rest.wait(session, [uuid], limit_s, print)
    assert (found["ended"], found["limit_s"]) == ("limit", limit_s)
    assert found["seconds"] >= limit_s


def test_near() -> None:
    before = {POWER_W: 100.0, TEMPERATURE_C: 40.0}
    assert is_near({POWER_W: 104.9, TEMPERATURE_C: 43.0}, before)
    assert is_near({POWER_W: 50.0, TEMPERATURE_C: 20.0}, before)
    assert not is_near({POWER_W: 106.0, TEMPERATURE_C: 40.0}, before)
    assert not is_near({POWER_W: 100.0, TEMPERATURE_C: 44.0}, before)
    assert is_near({POWER_W: 100.0}, {TEMPERATURE_C: 40.0})


def test_steady() -> None:
    random = np.random.default_rng(7)
    power = 75.0 + random.normal(0, 0.5, STEADY_SAMPLES)

    def samples(temperature: Any) -> list[dict[str, float]]:
        return [
            {POWER_W: float(w), TEMPERATURE_C: float(round(t))}
            for w, t in zip(power, np.broadcast_to(temperature, STEADY_SAMPLES), strict=True)
        ]

    assert is_steady(samples(45.0))
    assert not is_steady(samples(np.linspace(49, 45, STEADY_SAMPLES)))
    assert not is_steady(samples(45.0)[1:])
    power = np.linspace(90.0, 80.0, STEADY_SAMPLES)
    assert not is_steady(samples(45.0))
    assert is_steady([{}] * STEADY_SAMPLES)


def test_a_run_says_how_long_it_waited(tiny_run: Callable[..., RunConfig], machine: Any) -> None:
    assert machine
    rest = Rest()
    cfg = tiny_run()
    outcome = run_point(cfg, Witness(), rest=rest)
    assert isinstance(outcome.record_path, Path)
    info = Record.open(outcome.record_path).info
    assert info.cooldown["ended"] == "back"
    assert info.cooldown["before"] == rest.before
    single = run_point(cfg, Witness())
    assert single.record_path is not None
    assert Record.open(single.record_path).info.cooldown == {}
