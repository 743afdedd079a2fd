"""The sampler from Python, over the emulated library: what it sees, and what it survives."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from waiting import wait_until

from wattcount.config.schema import PowerConfig
from wattcount.emulation.machine import EmulatedMachine
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.gpu import PowerSampler, _native

Machines = Callable[..., EmulatedMachine]
FAST = PowerConfig(
    energy_counter_period_ms=53.0, power_period_ms=5.0, samples_period_ms=50.0, status_period_ms=50.0
)

LATER = [2**tries for tries in range(20)]
"""How much later a fault comes with each try: on a slow machine the first may come before sampling began."""


def sampled(sampler: PowerSampler, calls: int = 3) -> None:
    """Waits until each source of each GPU was read so often from now on, or is known to be missing."""

    def sources() -> list[tuple[int, bool]]:
        return [
            (source["calls"], source["state"] == "unsupported")
            for health in sampler.health()
            for name, source in health["sources"].items()
            if name in ("energy_counter", "power_instant", "power_usage", "power_samples")
        ]

    before = [count for count, _ in sources()]
    wait_until(
        lambda: all(
            count >= was + calls or missing for was, (count, missing) in zip(before, sources(), strict=True)
        )
    )


def test_a_context_manager_gives_the_energy_of_what_it_enclosed(machine: Machines) -> None:
    epoch_ns = time.monotonic_ns()
    machine(epoch_ns=epoch_ns)
    with PowerSampler(gpus=[0], config=FAST) as sampler:
        sampled(sampler)
        start_ns = time.monotonic_ns()
        time.sleep(2.0)
        end_ns = time.monotonic_ns()
        time.sleep(0.3)
    trace = sampler.trace()
    (uuid,) = trace.gpu_uuids
    estimate = trace.energy(start_ns, end_ns, uuid)
    assert estimate.basis == "energy_counter+power_samples"
    assert estimate.value_j is not None
    assert estimate.u95_j is not None
    assert estimate.u95_method_j is not None
    assert 0.0 < estimate.u95_method_j < estimate.u95_j < 0.5 * estimate.value_j
    t_s = np.clip([0.5, 1.5], (start_ns - epoch_ns) / 1e9, (end_ns - epoch_ns) / 1e9)
    pieces_s = np.diff([(start_ns - epoch_ns) / 1e9, *t_s, (end_ns - epoch_ns) / 1e9])
    true_j = float(pieces_s @ [100.0, 400.0, 200.0])
    assert estimate.value_j == pytest.approx(true_j, abs=1.5 * estimate.u95_j)


def test_events_have_the_documented_layout_and_own_their_memory(machine: Machines) -> None:
    machine()
    sampler = PowerSampler(config=FAST)
    sampler.start()
    sampled(sampler)
    sampler.stop()
    fresh = sampler.drain()
    assert fresh.dtype == EVENT_DTYPE
    assert not fresh.flags.owndata  # a view of what the sampler wrote
    copy = fresh.copy()
    del sampler
    np.testing.assert_array_equal(fresh, copy)
    assert set(fresh["source"]) >= {Source.ENERGY_COUNTER, Source.POWER_INSTANT, Source.POWER_SAMPLES}
    assert (fresh["t1_ns"] >= fresh["t0_ns"]).all()
    assert (fresh["prev_t0_ns"] < fresh["t0_ns"]).all()


def test_several_gpus_have_a_thread_each_and_keep_their_order(machine: Machines) -> None:
    machine("h200", "v100", "l4")
    with PowerSampler(gpus=[2, 0], config=FAST) as sampler:
        sampled(sampler)
    assert [gpu.name for gpu in sampler.gpus] == ["NVIDIA L4", "NVIDIA H200"]
    trace = sampler.trace()
    assert set(trace.events["gpu"]) == {0, 1}
    assert [health["uuid"] for health in sampler.health()] == list(trace.gpu_uuids)


def test_older_gpus_lack_the_newer_fields(machine: Machines) -> None:
    machine("v100")
    with PowerSampler(config=FAST) as sampler:
        sampled(sampler)
    (sensors,) = sampler.sensors().values()
    assert sensors["power_instant"]["state"] == "unsupported"
    assert sensors["power_usage"]["state"] == "ok"
    assert sensors["power_usage"]["unit"] == "mW"
    assert sensors["power_samples"]["ring_depth"] == 120


def test_stop_twice_and_start_twice(machine: Machines) -> None:
    machine()
    sampler = PowerSampler(config=FAST)
    sampler.stop()
    sampler.start()
    with pytest.raises(RunFailedError, match="already running"):
        sampler.start()
    sampler.stop()
    sampler.stop()
    assert len(sampler.trace())


def test_an_exception_inside_still_stops_the_threads(machine: Machines) -> None:
    machine()
    with pytest.raises(ZeroDivisionError), PowerSampler(config=FAST) as sampler:
        raise ZeroDivisionError
    calls = sampler.health()[0]["sources"]["power_instant"]["calls"]
    time.sleep(0.05)
    assert sampler.health()[0]["sources"]["power_instant"]["calls"] == calls


def test_two_samplers_do_not_disturb_each_other(machine: Machines) -> None:
    machine()
    with PowerSampler(config=FAST) as one:
        with PowerSampler(config=FAST) as two:
            sampled(two)
        sampled(one)
        before = len(one.drain())
        wait_until(lambda: len(one.drain()) > 0)
    assert before > 0
    assert len(two.trace()) > 0


def test_gpus_that_are_not_there(machine: Machines) -> None:
    machine()
    with pytest.raises(NotStartedError, match="no GPU 3; NVML shows 0: NVIDIA H200"):
        PowerSampler(gpus=[3])
    with pytest.raises(NotStartedError, match="GPU-none"):
        PowerSampler(gpus=["GPU-none"])


def test_no_gpu_and_the_same_gpu_twice_are_refused(machine: Machines) -> None:
    machine()
    with pytest.raises(NotStartedError, match="no GPU to sample"):
        PowerSampler(gpus=[])
    with PowerSampler(config=FAST) as sampler:
        (uuid,) = sampler.gpu_uuids
    with pytest.raises(NotStartedError, match="named twice"):
        PowerSampler(gpus=[0, uuid])


def test_a_sampler_that_ended_is_not_started_again(machine: Machines) -> None:
    machine()
    with PowerSampler(config=FAST) as sampler:
        time.sleep(0.02)
    with pytest.raises(RunFailedError, match="make a new one"):
        sampler.start()


def test_sensors_say_how_often_each_source_has_news(machine: Machines) -> None:
    machine(curve="t_s,power_w\n-10,100\n" + "".join(f"{t / 20},{100 + 7 * (t % 31)}\n" for t in range(60)))
    with PowerSampler(config=replace(FAST, energy_counter_period_ms=11.0)) as sampler:
        time.sleep(1.5)
    (sensors,) = sampler.sensors().values()
    assert sensors["power_samples"]["new_value_p50_ns"] == pytest.approx(20e6, rel=0.4)
    assert sensors["power_instant"]["new_value_p50_ns"] == pytest.approx(100e6, rel=0.4)
    assert sensors["energy_counter"]["new_value_p50_ns"] == pytest.approx(100e6, rel=0.4)
    assert sensors["power_limit"]["new_value_p50_ns"] is None
    assert sensors["energy_counter"]["errors"] == 0


def test_periods_that_make_no_sense_are_refused(machine: Machines) -> None:
    machine()
    with pytest.raises(ValueError, match="power_period_ns must be at least"):
        PowerSampler(config=replace(FAST, power_period_ms=0.0))


def test_drained_events_are_kept_only_if_asked(machine: Machines) -> None:
    machine()
    with PowerSampler(config=FAST, keep=False) as sampler:
        sampled(sampler)
        assert len(sampler.drain()) > 0
    assert len(sampler.trace()) == 0


def test_mark_reads_now(machine: Machines) -> None:
    machine()
    slow = replace(FAST, energy_counter_period_ms=60_000.0)
    with PowerSampler(config=slow) as sampler:

        def calls() -> int:
            return int(sampler.health()[0]["sources"]["energy_counter"]["calls"])

        wait_until(lambda: calls() > 0)
        before = calls()
        sampler.mark()
        wait_until(lambda: calls() > before)
        assert calls() == before + 1


def test_latest_power_is_there_at_once(machine: Machines) -> None:
    machine(curve="t_s,power_w\n-10,123\n")
    with PowerSampler(config=FAST) as sampler:
        assert sampler.latest_power_w() == pytest.approx(123.0, abs=2.0)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"kind": "error", "function": "nvmlDeviceGetTotalEnergyConsumption", "code": 999, "from_s": 1.0, "until_s": 1.4}, "energy_counter_errors"),
        ({"kind": "counter_reset", "from_s": 1.3}, "counter_not_continuous"),
        ({"kind": "counter_freeze", "from_s": 1.0}, "counter_not_continuous"),
        ({"kind": "zero_power", "from_s": 1.1, "until_s": 1.3}, "zero_power_readings"),
    ],
)  # fmt: skip
def test_faults_are_survived_and_named(machine: Machines, fault: dict[str, object], reason: str) -> None:
    for scale in LATER:
        epoch_ns = time.monotonic_ns()
        times_s = {name: at * scale for name, at in fault.items() if isinstance(at, float)}
        machine(curve="t_s,power_w\n-10,300\n", faults=[fault | times_s], epoch_ns=epoch_ns)
        end_ns = epoch_ns + 3_000_000_000 * scale
        with PowerSampler(config=FAST) as sampler:
            sampled(sampler)
            start_ns = time.monotonic_ns()
            time.sleep(max(0.0, (end_ns - start_ns) / 1e9))
            sampled(sampler)
        trace = sampler.trace()
        from_ns, until_ns = (
            epoch_ns + times_s.get(name, 3.0 * scale) * 1e9 for name in ("from_s", "until_s")
        )
        seen_ns = trace.events["t0_ns"][trace.events["source"] == Source.ENERGY_COUNTER]
        if start_ns < from_ns and ((seen_ns > from_ns) & (seen_ns < until_ns)).any():
            break
    estimate = trace.energy(start_ns, end_ns, sampler.gpu_uuids[0])
    assert reason in estimate.reasons
    assert estimate.value_j == pytest.approx(300.0 * (end_ns - start_ns) / 1e9, rel=0.03)


def test_a_lost_gpu_leaves_what_was_seen(machine: Machines) -> None:
    for scale in LATER:
        machine(faults=[{"kind": "gpu_lost", "from_s": 0.3 * scale}], epoch_ns=time.monotonic_ns())
        # It may be lost before it was found.
        with contextlib.suppress(NotStartedError), PowerSampler(config=FAST) as sampler:
            wait_until(lambda: sampler.health()[0]["lost"])
            time.sleep(0.3)
            break
    trace = sampler.trace()
    lost = trace.events[trace.events["nvml_return"] == 15]
    assert len(lost) > 0
    end_ns = time.monotonic_ns()
    late = trace.energy(end_ns - 200_000_000, end_ns, trace.gpu_uuids[0])
    assert late.value_j is None
    assert late.reasons


def test_a_failing_field_leaves_the_others_alone(machine: Machines) -> None:
    machine(faults=[{"kind": "missing", "function": "nvmlDeviceGetSamples"}])
    with PowerSampler(config=FAST) as sampler:
        sampled(sampler, 11)
    sources = sampler.health()[0]["sources"]
    assert sources["power_samples"]["state"] == "unsupported"
    assert sources["power_samples"]["calls"] == 1
    assert sources["power_instant"]["state"] == "ok"
    assert sources["power_instant"]["calls"] > 10


def test_slow_calls_are_skipped_not_caught_up_with(machine: Machines) -> None:
    slow = {"kind": "slow", "function": "nvmlDeviceGetTotalEnergyConsumption", "ms": 120}
    machine(faults=[slow])
    with PowerSampler(config=FAST) as sampler:
        sampled(sampler, 6)
    # Each call takes two periods of 53 ms and more.
    counter = sampler.health()[0]["sources"]["energy_counter"]
    assert counter["missed_deadlines"] >= counter["calls"]


def script(body: str, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(
        "import os, sys, time\nfrom wattcount.gpu import PowerSampler\n" + body
    )
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del s", "import gc; del s; gc.collect()"])
def test_the_interpreter_may_exit_with_the_thread_running(
    machine: Machines, tmp_path: Path, ending: str
) -> None:
    machine()
    process = script(f"s = PowerSampler(); s.start(); time.sleep(0.05)\n{ending}\n", tmp_path)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_fork_leaves_parent_and_child_alive(machine: Machines, tmp_path: Path) -> None:
    machine()
    process = script(
        """
s = PowerSampler(); s.start(); time.sleep(0.05)
pid = os.fork()
if pid == 0:
    assert len(s.drain()) == 0
    s.stop()
    sys.exit(7)  # through atexit and destructors
_, status = os.waitpid(pid, 0)
while not len(s.drain()):
    time.sleep(0.01)
s.stop()
print(os.waitstatus_to_exitcode(status))
""",
        tmp_path,
    )
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out.strip()) == (0, "7"), err


def test_a_killed_process_does_not_hang(machine: Machines, tmp_path: Path) -> None:
    machine()
    process = script("s = PowerSampler(); s.start(); print('up', flush=True); time.sleep(60)\n", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "up"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM


def test_the_binary_says_how_it_was_built() -> None:
    config = _native.build_config()
    assert set(config) >= {"version", "build_type", "compiler", "pybind11"}
    assert int(config["pybind11"].split(".")[0]) >= 3


def test_the_threads_do_not_hold_the_gil(machine: Machines) -> None:
    """Python goes on while calls of half a second each are under way."""
    machine(faults=[{"kind": "slow", "function": "nvmlDeviceGetTotalEnergyConsumption", "ms": 500}])
    alive_ns: list[int] = []

    def four_calls() -> bool:
        alive_ns.append(time.monotonic_ns())
        return bool(sampler.health()[0]["sources"]["energy_counter"]["calls"] >= 4)

    with PowerSampler(config=FAST) as sampler:
        wait_until(four_calls)
    events = sampler.trace().events
    calls = events[events["source"] == Source.ENERGY_COUNTER]
    calls = calls[(calls["t0_ns"] > alive_ns[0]) & (calls["t1_ns"] < alive_ns[-1])]
    during = np.searchsorted(alive_ns, calls["t1_ns"]) - np.searchsorted(alive_ns, calls["t0_ns"])
    assert len(calls) >= 2
    assert (calls["t1_ns"] - calls["t0_ns"] >= 500_000_000).all()
    assert (during > 1).all()
