"""What the host did, of runs whose steps and samples are known exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun, at, findings_of, metrics_of, step, values_of

from wattcount.records.schema import HOST_SCHEMA, Evidence

WINDOW_S = (40.0, 100.0)


def steps(
    launch_ms: Callable[[float], float] = lambda _: 25.0,
    *,
    wait_ms: float = 4.0,
    decode_host_ms: Callable[[float], float] = lambda _: 3.0,
    every: int = 10,
    prompt: int = 512,
    end_s: float = 100.0,
) -> list[dict[str, Any]]:
    """Steps under asynchronous scheduling: one in `every` has a prompt, and is launched in the gap before its own.

    A decoding step is waited for `wait_ms`, but for the one during whose computation the prompt's step was launched.
    """
    rows, t, number = [], 38.0, 0
    while t < end_s:
        prompts, launching = number % every == 0, (number + 1) % every == 0
        host_ms = launch_ms(t) if launching else decode_host_ms(t)
        waited_ms = 0.5 if launching or prompts else wait_ms
        t += (host_ms + waited_ms) / 1e3
        rows.append(
            step(
                t,
                running=16,
                duration_ns=round(waited_ms * 1e6),
                prefill_tokens=prompt if prompts else 0,
                decode_tokens=16,
            )
        )
        number += 1
    return rows


def test_what_the_cpu_takes_for_steps(tmp_path: Path) -> None:
    found = values_of(SyntheticRun(steps=steps()), tmp_path)
    assert found["host/decode_step_ms"] == pytest.approx(7.0)
    assert found["host/decode_launch_ms"] == pytest.approx(3.0)
    assert found["host/prefill_launch_ms"] == pytest.approx(25.0)
    # The gap of its launch and its own, 25.5 and 3.5 ms, less a decoding step of 7.
    assert found["host/prefill_step_ms"] == pytest.approx(22.0)
    # Eight gaps of 7 ms, of which 4 are waits; one of 25.5, one of 3.5 ms.
    assert found["host/step_share"] == pytest.approx(1 - (8 * 4 + 1) / (8 * 7 + 29), rel=2e-3)


def test_without_asynchronous_scheduling_a_step_is_launched_in_its_own_gap(tmp_path: Path) -> None:
    rows = [
        step(39 + number * 0.02, running=4, duration_ns=5_000_000, decode_tokens=4, prefill_tokens=512 * (number % 5 == 0))
        for number in range(3000)
    ]  # fmt: skip
    run = SyntheticRun(steps=rows, engine={"details": {"async_scheduling": False}})
    found = values_of(run, tmp_path)
    assert found["host/decode_launch_ms"] == found["host/prefill_launch_ms"] == pytest.approx(15.0)
    assert found["host/prefill_step_ms"] == pytest.approx(20.0)


def test_time_without_requests_is_not_the_hosts(tmp_path: Path) -> None:
    rows = steps(end_s=60.0)
    rows[-1]["running"] = 0
    late = steps(end_s=60.0)
    for row in late:
        row["logged_ns"] += 30 * 10**9
    found = values_of(SyntheticRun(steps=rows + late), tmp_path)
    assert found["host/decode_step_ms"] == pytest.approx(7.0)
    assert found["host/step_share"] == pytest.approx(1 - 33 / 85, rel=5e-3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration_ns": None}, "not_recorded"),
        ({"engine_ts_ns": 5}, "waits_not_told"),
    ],
)
def test_engines_that_do_not_tell_have_no_such_figures(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    rows = [row | change for row in steps()]
    reasons = metrics_of(SyntheticRun(steps=rows), tmp_path)["null_reasons"]
    assert {reasons[f"host/{name}"] for name in ("step_share", "decode_step_ms", "prefill_launch_ms")} == {
        reason
    }


def test_steps_of_several_replicas_overlap(tmp_path: Path) -> None:
    class Replicas(SyntheticRun):
        def config(self) -> dict[str, Any]:
            found = super().config()
            found["engine"]["data_parallel_size"] = 2
            return found

    assert metrics_of(Replicas(steps=steps()), tmp_path)["null_reasons"]["host/step_share"] == "steps_overlap"


def test_without_prompts_of_that_length_there_is_no_figure_for_them(tmp_path: Path) -> None:
    content = metrics_of(SyntheticRun(steps=steps(prompt=100)), tmp_path)
    assert content["null_reasons"]["host/prefill_step_ms"] == "too_few_steps"
    assert content["null_reasons"]["host/prefill_launch_ms"] == "too_few_steps"
    assert content["metrics"]["host/decode_step_ms"] == pytest.approx(7.0)


# -- samples


def samples(
    spin_ms: Callable[[float], float] = lambda _: 0.5,
    *,
    lost_ms: float = 0.0,
    seconds: tuple[float, float] = (0.0, 119.0),
    wait_share: float = 0.0,
    **host: float,
) -> list[dict[str, Any]]:
    """A sample a second of a host of 10 CPUs and of two processes; `host`: counters of the host by their rise a second."""
    blank = dict.fromkeys(HOST_SCHEMA.names)
    rates = {
        "user_ms": 3000, "system_ms": 1000, "idle_ms": 5900, "iowait_ms": 100, "steal_ms": 0,
        "pressure_cpu_us": 10_000, "throttled_us": 0,
    } | host  # fmt: skip
    rows = []
    for number in range(int(seconds[1] - seconds[0]) + 1):
        t = seconds[0] + number
        cpu_ns = round(spin_ms(t) * 1e6)
        counters = {name: 10**12 + round(rate * t) for name, rate in rates.items()}
        rows.append(
            blank
            | {"t_ns": at(t), "spin_ns": cpu_ns + round(lost_ms * 1e6), "spin_cpu_ns": cpu_ns, "cpu": 3}
            | counters
        )
        rows.append(
            blank
            | {"t_ns": at(t), "pid": 10, "process": "python"}
            | {"cpu_ns": round(5e8 * t), "wait_ns": 0, "voluntary": 5, "involuntary": round(3 * t)}
        )
        if t >= 20:  # the engine comes later
            rows.append(
                blank
                | {"t_ns": at(t), "pid": 11, "process": "engine", "cpu_ns": round(1e9 * (t - 20))}
                | {"wait_ns": round(1e9 * wait_share * t), "voluntary": 5, "involuntary": round(2 * t)}
            )
    return rows


def test_what_the_host_did_in_the_window(tmp_path: Path) -> None:
    run = SyntheticRun(host=samples(lost_ms=0.5, steal_ms=100, idle_ms=5800, wait_share=0.01))
    found = values_of(run, tmp_path)
    expected = {
        "spin_ms": 0.5,
        "spin_lost_share": 0.5,
        "busy_share": 0.4,
        "steal_share": 0.01,
        "throttled_share": 0.0,
        "pressure_cpu_share": 0.01,
        "run_cpus": 1.5,
        "wait_share": 0.01,
        "involuntary_per_s": 5.0,
    }
    assert {name: found[f"host/{name}"] for name in expected} == pytest.approx(expected)
    assert found["host/pressure_io_share"] is None


def test_a_record_from_before_has_none_of_it(tmp_path: Path) -> None:
    content = metrics_of(SyntheticRun(), tmp_path)
    names = [key for key in content["metrics"] if key.startswith("host/")]
    assert len(names) > 15
    assert {content["metrics"][key] for key in names} == {None}
    assert content["null_reasons"]["host/spin_ms"] == "not_recorded"


def test_the_clients_machine_says_nothing_of_a_server_elsewhere(tmp_path: Path) -> None:
    details = {"details": {"server": {"local": False}}}
    content = metrics_of(SyntheticRun(host=samples(wait_share=0.5), engine=details), tmp_path)
    assert content["metrics"]["host/wait_share"] is content["metrics"]["host/spin_ms"] is None
    assert content["null_reasons"]["host/spin_ms"] == "server_elsewhere"
    assert "host_disturbed" not in {finding["code"] for finding in content["validity"]["findings"]}


def test_counters_that_were_not_read_around_the_window_tell_nothing(tmp_path: Path) -> None:
    content = metrics_of(SyntheticRun(host=samples(seconds=(0.0, 90.0))), tmp_path)
    assert content["metrics"]["host/steal_share"] is None
    assert content["null_reasons"]["host/steal_share"] == "not_recorded"
    assert content["metrics"]["host/spin_ms"] == pytest.approx(0.5)


# -- findings


def slow_until(until_s: float, slow: float, fast: float) -> Callable[[float], float]:
    return lambda t: slow if t < until_s else fast


@pytest.mark.parametrize(
    ("run", "what"),
    [
        # Eager: each step is the CPU's.
        ({"steps": steps(wait_ms=0.1, decode_host_ms=slow_until(60, 32.0, 20.0))}, "decoding steps"),
        ({"steps": steps(launch_ms=slow_until(60, 24.0, 15.0))}, "launching steps with a prompt"),
        ({"host": samples(slow_until(60, 0.8, 0.5))}, "a fixed piece of work"),
    ],
)
def test_a_host_that_was_slower_in_a_part_of_the_window(
    tmp_path: Path, run: dict[str, Any], what: str
) -> None:
    found = findings_of(SyntheticRun(**run), tmp_path)["host_unsteady"]
    assert found["figure"] == pytest.approx(1.6)
    assert what in found["message"]
    assert not found["invalidates"]


@pytest.mark.parametrize(
    "run",
    [
        {"steps": steps(launch_ms=slow_until(60, 24.0, 18.0))},
        # With CUDA graphs the GPU hides what the CPU takes for a decoding step.
        {"steps": steps(decode_host_ms=slow_until(60, 4.0, 2.0))},
        {"steps": steps(launch_ms=slow_until(45, 40.0, 20.0))},  # less than half of a quarter
        {"host": samples(slow_until(60, 0.6, 0.5))},
        {"host": samples(slow_until(60, 0.8, 0.5)), "evidence": Evidence.EMULATED},
    ],
)
def test_a_host_that_was_steady_enough(tmp_path: Path, run: dict[str, Any]) -> None:
    assert "host_unsteady" not in findings_of(SyntheticRun(**run), tmp_path)


def test_steps_of_other_sizes_are_not_held_against_each_other(tmp_path: Path) -> None:
    rows = steps(wait_ms=0.1, decode_host_ms=slow_until(60, 32.0, 20.0))
    for row in rows:
        row["decode_tokens"] = 64 if row["logged_ns"] < at(60.0) else 16
    assert "host_unsteady" not in findings_of(SyntheticRun(steps=rows), tmp_path)


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (samples(steal_ms=400, idle_ms=5500), "the hypervisor gave 4.0% of the CPU time"),
        (samples(throttled_us=40_000), "the CPU limit of its cgroup held the run back for 4.0%"),
        (samples(wait_share=0.04), "a process of the run waited for a CPU for 4.0%"),
    ],
)
def test_a_host_that_was_disturbed(tmp_path: Path, host: list[dict[str, Any]], words: str) -> None:
    found = findings_of(SyntheticRun(host=host), tmp_path)["host_disturbed"]
    assert found["figure"] == pytest.approx(0.04)
    assert words in found["message"]
    assert not found["invalidates"]


def test_a_little_of_it_is_nothing(tmp_path: Path) -> None:
    quiet = samples(steal_ms=100, idle_ms=5800, throttled_us=10_000, wait_share=0.01)
    assert "host_disturbed" not in findings_of(SyntheticRun(host=quiet), tmp_path)
    emulated = SyntheticRun(host=samples(wait_share=0.5), evidence=Evidence.EMULATED)
    assert "host_disturbed" not in findings_of(emulated, tmp_path / "emulated")
