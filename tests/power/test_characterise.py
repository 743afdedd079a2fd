"""What the power sensors of a GPU are like: found from a probe, compared with the profile afterwards."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from wattcount.config.schema import PowerConfig
from wattcount.power import PowerTrace
from wattcount.power.characterise import Load, characterise, sampling_plan
from wattcount.power.emulation import profiles, simulate, virtual_trace
from wattcount.power.events import Source

MS = 1_000_000
S = 1_000_000_000
START_NS = 1000 * S
WAVES = ((2000.0, 1000.0, 8.0), (100.0, 25.0, 3.0), (20.0, 10.0, 3.0))


def probe(
    profile: str, waves: tuple[tuple[float, float, float], ...] = WAVES
) -> tuple[PowerTrace, list[Load]]:
    """A probe in virtual time, with the waves on a GPU of this profile."""
    t_ns, power_w, loads = [0], [150.0], []
    now_ns = START_NS + 3 * S
    for period_ms, on_ms, seconds in waves:
        edges = [now_ns + round(k * period_ms * MS) for k in range(round(seconds * 1e3 / period_ms))]
        for edge in edges:
            t_ns += [edge, edge + round(on_ms * MS)]
            power_w += [600.0, 150.0]
        end_ns = now_ns + round(seconds * S)
        loads.append(Load(period_ms, on_ms, now_ns, end_ns, tuple(edges)))
        now_ns = end_ns + S
    limit_w = next(p["tdp_w"] for p in profiles() if p["name"] == profile)
    sensors = simulate(profile, np.array(t_ns), np.array(power_w) * limit_w / 700)
    seconds = (now_ns - START_NS) / S + 2.0
    trace = virtual_trace(
        profile, sensors, START_NS, seconds, counter_period_s=0.023, power_period_s=0.004, drain_period_s=0.5
    )
    return trace, loads


def health(**calls_ms: float) -> dict[str, Any]:
    sources = {
        name: {"calls": 100, "call_p50_ns": ms * MS, "call_p99_ns": 2 * ms * MS, "period_ns": 4 * MS}
        for name, ms in calls_ms.items()
    }
    return {"ring_depth": 120, "sources": sources}


@pytest.mark.parametrize("profile", ["h200", "a100", "rtx4090", "l4"])
def test_periods_and_boxes_of_the_profile_are_found(profile: str) -> None:
    trace, loads = probe(profile)
    found = characterise(trace, trace.gpu_uuids[0], health(energy_counter=3.0), loads)
    expected = next(p for p in profiles() if p["name"] == profile)
    sources = found["sources"]
    assert sources["energy_counter"]["update_period_ms"] == pytest.approx(100.0, rel=1e-3)
    assert sources["power_samples"]["update_period_ms"] == pytest.approx(20.0, rel=1e-3)
    for name, field in (("average", "power_average"), ("instant", "power_instant")):
        assert sources[field]["update_period_ms"] == pytest.approx(expected[name]["period_ms"], rel=0.01)
    assert sources["power_average"]["box_ms"] == pytest.approx(1000.0, rel=0.05)
    assert sources["power_average"]["rise_ms"] == pytest.approx(800.0, abs=250.0)
    assert sources["power_samples"]["rise_ms"] < 60.0
    lag_ms = expected["lowpass_ms"] + expected["ring_delay_ms"]
    assert sources["power_samples"]["step_delay_ms"] == pytest.approx(lag_ms, abs=15.0)
    assert found["counter"]["moves"] is True
    assert abs(found["counter"]["power_against_counter"]) < 0.03
    json.dumps(found)


def test_aliasing_is_shown_by_the_means() -> None:
    trace, loads = probe("a100")
    found = characterise(trace, trace.gpu_uuids[0], health(), loads)
    fast = found["loads"][1]["mean_w"]
    # 25 ms of every 100 ms are seen: all of a burst or nothing of it.
    assert abs(fast["power_instant"] / fast["energy_counter"] - 1) > 0.2
    assert abs(fast["power_average"] / fast["energy_counter"] - 1) < 0.1


def test_without_a_load_what_cannot_be_told_is_none() -> None:
    trace, loads = probe("h200", ())
    found = characterise(trace, trace.gpu_uuids[0], health(), loads)
    for source in found["sources"].values():
        assert source["box_ms"] is None
        assert source["rise_ms"] is None
    assert found["loads"] == []
    assert found["sources"]["power_samples"]["update_period_ms"] == pytest.approx(20.0, rel=1e-3)


def test_a_gpu_without_a_counter_or_a_ring() -> None:
    whole, loads = probe("h200")
    for missing in (Source.ENERGY_COUNTER, Source.POWER_SAMPLES):
        trace = PowerTrace(whole.gpu_uuids, whole.events[whole.events["source"] != missing])
        found = characterise(trace, whole.gpu_uuids[0], health(), loads)
        assert missing.name.lower() not in found["sources"]
    nothing = PowerTrace(whole.gpu_uuids, whole.events[:0])
    found = characterise(nothing, whole.gpu_uuids[0], {})
    assert found["sources"] == {}
    assert found["counter"] == {"present": False, "moves": None}


def test_a_counter_that_stands_still_is_told() -> None:
    trace, loads = probe("h200", ())
    events = trace.events.copy()
    counter = events["source"] == Source.ENERGY_COUNTER
    events["value"][counter] = 12345
    found = characterise(PowerTrace(trace.gpu_uuids, events), trace.gpu_uuids[0], health(), loads)
    assert found["counter"]["moves"] is False
    assert found["sources"]["energy_counter"]["update_period_ms"] is None


def test_the_plan_follows_the_sensors_and_the_config_comes_first() -> None:
    trace, loads = probe("v100", ())
    cheap = characterise(trace, trace.gpu_uuids[0], health(energy_counter=1.0), loads)
    dear = characterise(trace, trace.gpu_uuids[0], health(energy_counter=3.0), loads)
    plans = [sampling_plan(found, PowerConfig()) for found in (cheap, dear, None)]
    assert [plan.energy_counter_period_ms for plan in plans] == [
        pytest.approx(336.3, abs=0.2),
        pytest.approx(1009.0),
        1009.0,
    ]
    # Power new every 20 ms: read as often as is allowed.
    assert [plan.power_period_ms for plan in plans] == [10.0, 10.0, 20.0]
    assert plans[0].samples_period_ms == pytest.approx(960.0, rel=1e-3)
    asked = sampling_plan(cheap, PowerConfig(energy_counter_period_ms=77.0, heartbeat_ms=300.0))
    assert (asked.energy_counter_period_ms, asked.heartbeat_ms) == (77.0, 300.0)
    assert asked.power_period_ms == 10.0
