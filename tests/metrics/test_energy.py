"""Energies of records whose power is known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import (
    BOUNDS_S,
    SyntheticRun,
    at,
    findings_of,
    metrics_of,
    observation,
    request,
    values_of,
)

from wattcount.metrics import compute, energy
from wattcount.metrics.energy import idle_split
from wattcount.metrics.observations import Window
from wattcount.metrics.window import IDLE_NAMES, IDLE_PHASES
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan


def test_several_gpus_are_summed(tmp_path):
    found = values_of(SyntheticRun(power_w=250.0, gpus=3), tmp_path)
    assert found["energy/gpu_j"] == pytest.approx(3 * 250 * 60, rel=1e-9)
    assert found["power/idle_bare_w"] == pytest.approx(750, rel=1e-9)
    assert [found[f"energy_by_gpu/gpu{i}_j"] for i in range(3)] == pytest.approx([15000.0] * 3, rel=1e-9)


def test_one_gpu_without_data_makes_the_sum_null_not_smaller(tmp_path):
    run = SyntheticRun(gpus=2)
    run.write(tmp_path)
    half = SyntheticRun(gpus=1)
    power = half.power_rows()
    run.power_rows = lambda: power  # type: ignore[method-assign]
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["energy/gpu_j"] is None
    assert content["null_reasons"]["energy/gpu_j"] == "no_power_data"
    assert content["metrics"]["energy_by_gpu/gpu0_j"] == pytest.approx(18000)
    assert content["metrics"]["energy_by_gpu/gpu1_j"] is None
    assert content["metrics"]["throughput/output_tokens_per_s"] == 44.0


def rapl_domain(name, kind, **other):
    return {"name": name, "kind": kind, "zone": "", "max_energy_range_uj": 10**10, "error": None} | other


def host_power(name, power_w, start_uj=0):
    """Reads at odd times, between the bounds of the phases; the counter starts over at 10 kJ."""
    seconds = [tick + 0.3 for tick in range(-1, 121)]
    return [
        {
            "domain": name,
            "t0_ns": at(s),
            "t1_ns": at(s),
            "value_uj": round(start_uj + power_w * (s + 1) * 1e6) % 10**10,
        }
        for s in seconds
    ]


def test_cpu_and_dram_energy_are_figures_of_their_own(tmp_path):
    domains = [
        rapl_domain("package-0", "package"),
        rapl_domain("package-1", "package"),
        rapl_domain("package-0/dram", "dram"),
        rapl_domain("psys", "psys"),
    ]
    run = SyntheticRun(
        power_w=300.0,
        rapl={"state": "ok", "domains": domains},
        host_power=host_power("package-0", 200.0, start_uj=9 * 10**9)
        + host_power("package-1", 150.0)
        + host_power("package-0/dram", 30.0)
        + host_power("psys", 900.0),
    )
    found = values_of(run, tmp_path)
    assert found["energy/cpu_package_j"] == pytest.approx(350.0 * 60)
    assert found["power/cpu_package_mean_w"] == pytest.approx(350.0)
    assert found["energy/dram_j"] == pytest.approx(30.0 * 60)
    assert found["energy/gpu_j"] == 18000.0


def test_why_there_is_no_cpu_energy(tmp_path):
    def reasons(rapl, folder):
        found = metrics_of(SyntheticRun(rapl=rapl), tmp_path / folder)
        assert found["metrics"]["energy/cpu_package_j"] is None
        assert found["metrics"]["power/cpu_package_mean_w"] is None
        keys = ("energy/cpu_package_j", "power/cpu_package_mean_w", "energy/dram_j")
        return [found["null_reasons"][key] for key in keys]

    assert reasons(None, "old") == ["not_recorded"] * 3
    assert reasons({"state": "rapl_not_present", "domains": []}, "virtual") == ["rapl_not_present"] * 3
    amd = [rapl_domain("package-0", "package", error="Permission denied")]
    assert reasons({"state": "rapl_not_readable", "domains": amd}, "amd") == [
        "rapl_not_readable",
        "rapl_not_readable",
        "rapl_not_present",
    ]


def test_a_batch_from_first_send_to_last_token_holds_both(tmp_path):
    requests = [request(i, 40.0, ttft_ms=1000 + i, itl_ms=10, tokens=100) for i in range(100)]
    end = max(row["last_token_ns"] for row in requests)
    phases = [
        PhaseSpan(Phase.LOADED_IDLE, at(20), at(30)),
        PhaseSpan(Phase.WINDOW, at(40), end),
    ]
    run = SyntheticRun(scenario="batch", requests=requests, phases=phases)
    content = metrics_of(run, tmp_path)
    found = content["metrics"]
    assert found["tokens/output"] == 100 * 100
    assert found["requests/completed_in_window"] == 100
    assert found["energy/batch_gpu_j"] == pytest.approx(found["energy/gpu_j"], rel=1e-12)
    assert found["energy/batch_gpu_j"] == pytest.approx(300 * (end - at(40)) / 1e9, rel=1e-9)
    assert content["null_reasons"]["load/offered_rps"] == "batch_has_no_rate"


def test_energy_of_a_batch_that_did_not_complete_is_null(tmp_path):
    requests = [request(0, 40.0), request(1, 40.0, status="failed", tokens=3)]
    content = metrics_of(SyntheticRun(scenario="batch", requests=requests), tmp_path)
    assert content["metrics"]["energy/batch_gpu_j"] is None
    assert content["null_reasons"]["energy/batch_gpu_j"] == "requests_unfinished"
    assert content["metrics"]["energy/gpu_j"] is not None


PARTS = ("energy/bare_idle_j", "energy/context_idle_j", "energy/dynamic_j")


def power_w(t: float) -> float:
    """80 W bare, 120 W loaded, 400 W under load, 130 W loaded afterwards, 90 W bare afterwards."""
    for until, watts in ((15, 80.0), (35, 120.0), (105, 400.0), (120, 130.0)):
        if t < until:
            return watts
    return 90.0


def phases(*left_out: Phase) -> list[PhaseSpan]:
    # A little away from where power changes: the counter is read twice a second.
    bounds = {
        **BOUNDS_S,
        Phase.LOADED_IDLE: (20, 30),
        Phase.IDLE_AFTER: (106, 116),
        Phase.BARE_IDLE_AFTER: (121, 126),
    }
    return [PhaseSpan(p, at(a), at(b)) for p, (a, b) in bounds.items() if p not in left_out]


def content_of(folder, *left_out: Phase, **run) -> dict:
    made = SyntheticRun(power_w=power_w, phases=phases(*left_out), last_read_s=130.0, **run)
    return compute(Record.open(made.write(folder)))


def test_the_parts_are_those_of_before_and_after(tmp_path):
    found = content_of(tmp_path)["metrics"]
    assert found["power/idle_bare_w"] == pytest.approx(80)
    assert found["power/idle_loaded_w"] == pytest.approx(120)
    assert found["power/idle_loaded_after_w"] == pytest.approx(130)
    assert found["power/idle_bare_after_w"] == pytest.approx(90)
    assert found["power/idle_bare_drift_percent"] == pytest.approx(12.5)
    assert found["power/idle_loaded_drift_percent"] == pytest.approx(100 * 10 / 120)
    assert [found[key] for key in PARTS] == pytest.approx([85 * 60, 40 * 60, 275 * 60])
    # 4 requests/s of 11 tokens for 60 s.
    assert found["energy/dynamic_j_per_request"] == pytest.approx(275 * 60 / 240)
    assert found["energy/dynamic_j_per_output_token"] == pytest.approx(275 * 60 / 2640)


def test_what_was_measured_once_counts_alone(tmp_path):
    content = content_of(tmp_path, Phase.BARE_IDLE_AFTER, Phase.LOADED_IDLE)
    found, why = content["metrics"], content["null_reasons"]
    assert [found[key] for key in PARTS] == pytest.approx([80 * 60, 50 * 60, 270 * 60])
    assert why["power/idle_bare_after_w"] == why["power/idle_bare_drift_percent"] == "phase_missing"
    assert why["power/idle_loaded_drift_percent"] == "phase_missing"


def test_without_idle_phases_there_is_no_split(tmp_path):
    content = content_of(
        tmp_path, Phase.BARE_IDLE, Phase.BARE_IDLE_AFTER, Phase.LOADED_IDLE, Phase.IDLE_AFTER
    )
    for key in (*PARTS, "energy/dynamic_j_per_request", "energy/dynamic_j_per_output_token"):
        assert content["metrics"][key] is None
        assert content["null_reasons"][key] == "phase_missing"
    assert content["metrics"]["energy/gpu_j"] == pytest.approx(24000)


def test_without_bare_idle_dynamic_energy_is_still_known(tmp_path):
    found = content_of(tmp_path, Phase.BARE_IDLE, Phase.BARE_IDLE_AFTER)["metrics"]
    assert found["energy/bare_idle_j"] is found["energy/context_idle_j"] is None
    assert found["energy/dynamic_j"] == pytest.approx(275 * 60)


def test_no_tokens_no_joules_per_token(tmp_path):
    reasons = content_of(tmp_path, requests=[])["null_reasons"]
    assert reasons["energy/dynamic_j_per_output_token"] == "no_output_tokens"
    assert reasons["energy/dynamic_j_per_request"] == "no_completed_requests"


CLOCKS_MHZ = ((0, 345), (16, 1980), (123, 345))
"""Up from the start of the engine until 2 s after bare idle has begun again at 121 s."""


def clocks(*changes: tuple[float, int]) -> list[dict]:
    return [observation("clock_sm", t, mhz) for t, mhz in changes]


def power_with_raised_clocks_w(t: float) -> float:
    return 124.0 if 120 <= t < 123 else power_w(t)


def test_bare_idle_afterwards_begins_when_the_clocks_are_down(tmp_path):
    run = {"power_w": power_with_raised_clocks_w, "phases": phases(), "last_read_s": 130.0}
    made = SyntheticRun(**run, observations=clocks(*CLOCKS_MHZ))
    found = compute(Record.open(made.write(tmp_path)))["metrics"]
    assert found["power/idle_bare_after_w"] == pytest.approx(90, rel=0.01)


def test_clocks_that_stay_up_are_no_bare_idle(tmp_path):
    content = content_of(tmp_path, observations=clocks(*CLOCKS_MHZ[:2], (125.5, 345)))
    assert content["metrics"]["power/idle_bare_after_w"] is None
    assert content["null_reasons"]["power/idle_bare_after_w"] == "clocks_still_up"
    assert content["null_reasons"]["power/idle_bare_drift_percent"] == "clocks_still_up"
    assert content["metrics"]["energy/bare_idle_j"] == pytest.approx(80 * 60)


def test_clocks_that_are_never_raised_leave_the_whole_phase(tmp_path):
    content = content_of(tmp_path, observations=clocks((0, 1980)))
    assert content["metrics"]["power/idle_bare_after_w"] == pytest.approx(90)


def test_temperatures_of_the_idle_phases(tmp_path):
    # 30 degrees, from 25 s on 40, from 100 s on 60, from 111 s on 50.
    seen = [observation("temperature_gpu", t, c) for t, c in ((0, 30), (25, 40), (100, 60), (111, 50))]
    content = content_of(tmp_path, Phase.BARE_IDLE_AFTER, observations=seen)
    found = content["metrics"]
    assert found["gpu/temperature_idle_bare_c"] == 30
    assert found["gpu/temperature_idle_loaded_c"] == 35
    assert found["gpu/temperature_idle_loaded_after_c"] == 55
    assert content["null_reasons"]["gpu/temperature_idle_bare_after_c"] == "phase_missing"


def test_a_gpu_that_tells_no_temperature(tmp_path):
    assert content_of(tmp_path)["null_reasons"]["gpu/temperature_idle_bare_c"] == "not_recorded"


watts = st.none() | st.floats(10, 1000)


@settings(max_examples=200)
@given(energy=watts, bare=watts, bare_after=watts, loaded=watts, loaded_after=watts)
def test_parts_sum_to_the_whole_wherever_all_are_known(energy, bare, bare_after, loaded, loaded_after):
    values = {
        "power/idle_bare_w": bare,
        "power/idle_bare_after_w": bare_after,
        "power/idle_loaded_w": loaded,
        "power/idle_loaded_after_w": loaded_after,
        "energy/gpu_j": None if energy is None else energy * 60,
    }
    cells = idle_split(
        lambda key: (values[key], "missing"), Window(0, 60_000_000_000), tokens=100, completed=10
    )
    parts = [cells[key][0] for key in PARTS]
    if None not in parts:
        assert energy is not None
        assert sum(parts) == pytest.approx(energy * 60, rel=1e-9)
    for value, reason in cells.values():
        assert value is not None or reason == "missing"


HOUR_NS = 3_600_000_000_000


def power_of(seconds: float) -> float:
    """Bare idle 80 W, loaded idle 120 W, 500 W under load."""
    return 80.0 if seconds < 15 else 120.0 if seconds < 30 or seconds > 105 else 500.0


def ring(power: Any = power_of, holes_s: tuple[tuple[float, float], ...] = ()) -> list[dict[str, Any]]:
    rows = [observation("realtime", t, at(t) + HOUR_NS) for t in range(122)]
    for tick in range(121 * 50):
        t = tick / 50
        if not any(start <= t < end for start, end in holes_s):
            row = observation("power_samples", t, round(1e3 * power(t)) + tick % 2)
            rows.append(row | {"source_ts_us": (at(t) + HOUR_NS) // 1000})
    return rows


def run(**options: Any) -> SyntheticRun:
    """With a board's limit of 700 W in `run.json`."""
    facts = {"power_limit_max_mw": 700_000}
    made = SyntheticRun(**{"power_w": power_of, "gpu_facts": facts, "observations": ring(), **options})
    rows = made.power_rows()
    for row in rows:
        if row["source"] == "energy_counter":
            # Read in the middle between two ticks: which one was seen is clear.
            row["t0_ns"] += 49_000_000
            row["t1_ns"] += 49_000_000
    made.power_rows = lambda: rows  # type: ignore[method-assign]
    return made


def invalidating(made: SyntheticRun, folder: Path) -> dict[str, dict[str, Any]]:
    content = metrics_of(made, folder)
    found = {f["code"]: f for f in content["validity"]["findings"] if f["invalidates"]}
    assert content["validity"]["valid"] == (not found)
    return found


def changed(made: SyntheticRun, change: Any) -> SyntheticRun:
    """The run with each read of the counter changed: `change(seconds, mJ)`."""
    rows = made.power_rows()
    for row in rows:
        if row["source"] == "energy_counter":
            row["value"] = change((row["t0_ns"] - at(0)) / 1e9, row["value"])
    made.power_rows = lambda: rows  # type: ignore[method-assign]
    return made


def test_a_good_run_has_no_finding_at_all(tmp_path: Path) -> None:
    assert metrics_of(run(), tmp_path)["validity"] == {"valid": True, "reasons": [], "findings": []}


@pytest.mark.parametrize("told", ["nothing", "zeros", "errors"])
def test_no_joules_are_not_valid(tmp_path: Path, told: str) -> None:
    made = run(observations=[] if told != "zeros" else [observation("power_usage", t, 0) for t in range(120)])
    rows = [] if told == "nothing" else made.power_rows()
    for row in rows:
        row["nvml_return"] = 999 if told == "errors" else 0
    made.power_rows = lambda: [row for row in rows if told == "errors" or row["source"] != "energy_counter"]  # type: ignore[method-assign]
    found = invalidating(made, tmp_path)["energy_unknown"]
    assert (found["figure"], found["limit"]) == (1, 0)
    assert made.uuid() in found["message"]


def test_errors_at_the_end_of_the_window_are_not_valid(tmp_path: Path) -> None:
    made = run(observations=[])
    rows = [row for row in made.power_rows() if row["t0_ns"] < at(97)]
    made.power_rows = lambda: [
        *rows,
        observation("energy_counter", 97, 0, nvml_return=999) | {"gpu": made.uuid()},
    ]  # type: ignore[method-assign]
    assert "energy_unknown" in invalidating(made, tmp_path)


def test_one_of_two_gpus_without_joules_is_named(tmp_path: Path) -> None:
    made = run(gpus=2, observations=[])
    rows = [row for row in made.power_rows() if row["gpu"] != made.uuid(1)]
    made.power_rows = lambda: rows  # type: ignore[method-assign]
    found = invalidating(made, tmp_path)["energy_unknown"]
    assert made.uuid(1) in found["message"]
    assert made.uuid(0) not in found["message"]


@pytest.mark.parametrize("gap", [False, True])
def test_a_hundred_kilowatts_are_not_valid_with_or_without_a_gap_in_the_samples(
    tmp_path: Path, gap: bool
) -> None:
    made = run(observations=ring(holes_s=((60.0, 63.0),) if gap else ()))
    changed(made, lambda t, mj: mj + round(max(0.0, min(t, 100.0) - 40.0) * 100e6))
    found = invalidating(made, tmp_path)
    assert "counter_not_continuous" in found or "power_implausible" in found


def test_a_mean_above_what_the_board_keeps_is_not_valid(tmp_path: Path) -> None:
    """Every source agrees, and the board cannot: 900 W of 700."""
    hot = run(power_w=lambda t: 900.0 if 30 <= t <= 105 else power_of(t), observations=[])
    found = invalidating(hot, tmp_path)["power_implausible"]
    assert found["figure"] == pytest.approx(900.0)
    assert found["limit"] == pytest.approx(840.0)
    assert "in the window" in found["message"]


def test_without_a_known_limit_only_what_no_board_draws_is_refused(tmp_path: Path) -> None:
    hot = run(power_w=lambda t: 900.0 if 30 <= t <= 105 else power_of(t), observations=[], gpu_facts={})
    assert invalidating(hot, tmp_path) == {}


@pytest.mark.parametrize(
    ("phase", "start_s"), [("bare idle", 0), ("loaded idle", 20), ("loaded idle after the load", 110)]
)
def test_idle_power_outside_its_band_is_not_valid(tmp_path: Path, phase: str, start_s: int) -> None:
    def power(t: float) -> float:
        return 600.0 if start_s <= t < start_s + 10 else power_of(t)

    found = invalidating(run(power_w=power, observations=ring(power)), tmp_path)["power_implausible"]
    assert found["message"].endswith("that are possible")
    assert f"in {phase} would be" in found["message"]


def test_an_idle_engine_that_draws_more_than_a_busy_one_is_not_valid(tmp_path: Path) -> None:
    made = run(power_w=lambda t: 300.0 if 20 <= t < 30 else 200.0, observations=[])
    found = invalidating(made, tmp_path)["idle_above_load"]
    assert found["figure"] == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize("at_s", [5.0, 25.0, 60.0, 115.0])
@pytest.mark.parametrize("value", [10**18, 1, 0xFFFFFFFF])
def test_one_glitched_read_of_the_counter_changes_nothing(tmp_path: Path, at_s: float, value: int) -> None:
    """In idle it made -5e14 J of dynamic energy."""
    good = metrics_of(run(), tmp_path / "good")["metrics"]
    made = changed(run(), lambda t, mj: value if abs(t - at_s) < 0.1 else mj)
    content = metrics_of(made, tmp_path / "glitch")
    assert content["validity"]["valid"]
    for key in ("energy/gpu_j", "energy/dynamic_j", "energy/bare_idle_j", "power/idle_loaded_w"):
        assert content["metrics"][key] == pytest.approx(good[key], rel=2e-3)


@pytest.mark.parametrize(
    ("at_s", "phase"), [(5.25, "bare idle"), (25.25, "loaded idle"), (70.25, "the window")]
)
@pytest.mark.parametrize("lost_j", [-40.0, 70.0, 5_000.0])
def test_a_counter_that_loses_its_count_in_any_phase_is_not_valid(
    tmp_path: Path, at_s: float, phase: str, lost_j: float
) -> None:
    lost_mj = round(1e3 * lost_j * (5 if phase == "the window" else 1))
    made = changed(run(), lambda t, mj: mj - lost_mj if t > at_s else mj)
    found = invalidating(made, tmp_path)["counter_not_continuous"]
    assert found["message"].endswith(f"in {phase}")


def test_sources_are_compared_in_idle_too(tmp_path: Path) -> None:
    """A ring that shows half of the power in loaded idle, all through."""
    made = run(observations=ring(lambda t: 60.0 if 20 <= t < 30 else power_of(t)))
    content = metrics_of(made, tmp_path)
    told = [
        f
        for f in content["validity"]["findings"]
        if f["code"] in ("sources_disagree", "counter_not_continuous")
    ]
    assert any(f["message"].endswith("in loaded idle") for f in told)
    assert not content["validity"]["valid"]


def test_the_reason_of_the_estimate_and_the_finding_are_one_rule(tmp_path: Path) -> None:
    for factor, told in ((1.0, False), (1.04, False), (1.06, True), (1.3, True)):
        made = run(observations=ring(lambda t, f=factor: f * power_of(t)))
        content = metrics_of(made, tmp_path / str(factor))
        reasons = content["energy"][made.uuid()]["reasons"]
        found = [
            f
            for f in content["validity"]["findings"]
            if f["code"] == "sources_disagree" and "the window" in f["message"]
        ]
        assert ("sources_disagree" in reasons) == bool(found) == told
        assert [f["invalidates"] for f in found] == ([factor == 1.3] if told else [])


def test_every_name_of_an_idle_phase_is_used() -> None:
    assert set(IDLE_NAMES) == set(IDLE_PHASES)
    assert np.isfinite(energy.MOST_IDLE_SHARE)


@pytest.mark.parametrize(
    ("power_mw", "disagrees"), [(300_000, False), (312_000, False), (320_000, True), (280_000, True)]
)
def test_ring_against_counter(tmp_path, power_mw, disagrees):
    run = SyntheticRun(observations=ring(lambda _: power_mw / 1e3))
    found = findings_of(run, tmp_path)
    assert ("sources_disagree" in found) == disagrees
    if disagrees:
        assert not found["sources_disagree"]["invalidates"]
        assert found["sources_disagree"]["figure"] == pytest.approx(abs(power_mw / 300_000 - 1), rel=1e-3)


def test_a_sensor_that_is_far_off_invalidates(tmp_path):
    found = findings_of(SyntheticRun(observations=ring(lambda _: 400.0)), tmp_path)
    assert found["sources_disagree"]["invalidates"]


@pytest.mark.parametrize(("window_s", "told"), [(0.2, False), (0.9, False), (1.1, True)])
def test_sources_are_not_compared_over_less_than_a_second(tmp_path, window_s, told):
    """A few samples of each say nothing about a sensor: their own steps at the edges are larger than what is looked for."""
    run = SyntheticRun(
        scenario="batch",
        requests=[request(i, 40.0) for i in range(3)],
        observations=ring(lambda _: 400.0),
    )
    for span in run.phases:
        if span.phase is Phase.WINDOW:
            span.end_ns = at(40.0 + window_s)
    found = compute(Record.open(run.write(tmp_path)))["validity"]["findings"]
    assert "window_too_short" in {f["code"] for f in found}
    of_window = [f for f in found if f["code"] == "sources_disagree" and f["message"].endswith("the window")]
    assert bool(of_window) == told


@pytest.mark.parametrize(("power_mw", "told"), [(300_000, False), (330_000, True)])
def test_the_average_stands_in_for_a_missing_ring(tmp_path, power_mw, told):
    seen = [observation("power_average", t / 10, power_mw + t % 2) for t in range(1210)]
    found = findings_of(SyntheticRun(observations=seen), tmp_path)
    assert ("sources_disagree" in found) == told
    if told:
        assert "power_average" in found["sources_disagree"]["message"]
