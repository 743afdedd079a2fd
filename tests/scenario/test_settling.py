"""When a warm-up may end."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from wattcount.load.generator import RequestRecord
from wattcount.scenario.settling import Settling

S = 1_000_000_000


def record(send_s: float | None, life_s: float | None = None) -> RequestRecord:
    made = RequestRecord("r", 0, "warmup")
    if send_s is not None:
        made.actual_send_ns = round(send_s * S)
        made.status = "cancelled"  # what a running one says
        if life_s is not None:
            made.last_token_ns = made.actual_send_ns + round(life_s * S)
            made.status = "completed"
    return made


def seen(tokens: object, watts: object) -> Settling:
    settling = Settling(0)
    total = 0
    for second, (count, power) in enumerate(zip(tokens, watts, strict=True), 1):  # type: ignore[call-overload]
        total += int(count)
        settling.add(second * S, total, power)
    return settling


ONE = [record(0.0, 1.0)]
STEADY = [1000] * 20


def test_what_does_not_change_has_settled() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.settled(ONE)
    assert settling.verdict(ONE) == {"settled": True, "unsettled": {}, "needed_s": 2.0}


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_too_few_samples_tell_nothing(samples: int) -> None:
    assert not seen([1000] * samples, [500.0] * samples).settled(ONE)


def test_a_server_that_fills_up_has_not_settled_and_later_has() -> None:
    ramp = np.concatenate([np.linspace(100, 1000, 12), np.full(12, 1000.0)])
    early, late = (seen(ramp[:n], 100.0 + ramp[:n] / 2) for n in (12, 24))
    assert early.unsettled()["throughput"] > 20
    # Power follows the tokens: nothing of its own.
    assert "power" not in early.unsettled()
    assert not early.settled(ONE)
    assert late.settled(ONE)


def test_power_that_creeps_up_has_not_settled() -> None:
    settling = seen(STEADY, 500.0 + 8.0 * np.arange(20))
    assert list(settling.unsettled()) == ["power"]
    assert not settling.settled(ONE)
    # By less than 5 % over what is looked at: let pass.
    assert seen(STEADY, 500.0 + 1.0 * np.arange(20)).settled(ONE)


def test_chance_is_let_pass_mostly() -> None:
    random = np.random.default_rng(3)
    passed = 0
    for _ in range(300):
        tokens = random.poisson(16, 20) * 128
        passed += seen(tokens, 300.0 + tokens / 20 + random.normal(0, 5, 20)).settled(ONE)
    assert passed > 290


def test_the_load_must_go_on_for_two_lives() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.settled([record(0.0, 10.0)])
    assert not settling.settled([record(0.0, 10.1)])
    assert settling.needed_s([record(0.0, 4.0), record(1.0, 6.0), record(2.0, 30.0), record(3.0)]) == 12.0


def test_requests_of_which_none_has_ended() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.needed_s([record(0.0), record(None)]) is None
    assert not settling.settled([record(0.0)])


def test_no_requests_at_all_are_waited_for_no_longer() -> None:
    assert seen([0] * 20, [100.0] * 20).settled([record(None)])


def test_a_gpu_that_tells_no_power() -> None:
    assert seen(STEADY, [None] * 20).settled(ONE)
    assert seen(STEADY, [None] * 3 + [500.0] * 17).settled(ONE)


def test_what_settling_needs_is_loaded_before_there_is_a_load() -> None:
    """Loading scipy.stats takes half a second, which would stall the requests of a warm-up; nobody else waits for it."""
    program = (
        "import sys\n"
        "from wattcount.config.schema import BatchConfig, RunConfig, ServerConfig\n"
        "from wattcount.scenario import create\n"
        "for scenario in (BatchConfig(), ServerConfig()):\n"
        "    create(RunConfig(scenario=scenario))\n"
        "    print('scipy.stats' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
