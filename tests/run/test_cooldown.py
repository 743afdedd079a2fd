"""How long a sweep waits, on an emulated GPU that is idle, that cools down, and that stays hot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import wait_until
from witness import Witness

from wattcount.config.schema import RunConfig
from wattcount.gpu.nvml import NvmlSession, attach_session
from wattcount.records import Record
from wattcount.run.cooldown import POWER_W, STEADY_SAMPLES, TEMPERATURE_C, Rest, is_near, is_steady
from wattcount.run.orchestrate import run_point

pytestmark = pytest.mark.timeout(200)


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
