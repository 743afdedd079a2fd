"""The idle split of runs with exactly known power in each phase."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import BOUNDS_S, SyntheticRun, at, observation

from wattcount.metrics import compute
from wattcount.metrics.idle import idle_split
from wattcount.metrics.window import Window
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan

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
        "tokens/output": 100,
        "requests/completed_in_window": 10,
    }
    cells = idle_split(lambda key: (values[key], "missing"), Window(0, 60_000_000_000))
    parts = [cells[key][0] for key in PARTS]
    if None not in parts:
        assert energy is not None
        assert sum(parts) == pytest.approx(energy * 60, rel=1e-9)
    for value, reason in cells.values():
        assert value is not None or reason == "missing"
