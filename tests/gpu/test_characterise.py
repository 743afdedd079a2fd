"""What the power sensors of a GPU are like: found from a probe, compared with the profile afterwards."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wattcount.config.schema import PowerConfig
from wattcount.emulation.machine import profiles, simulate, virtual_trace
from wattcount.energy import PowerTrace
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.gpu.characterise import Load, characterise, common_plan, sampling_plan
from wattcount.gpu.stimulus import WAVES

MS = 1_000_000
S = 1_000_000_000
START_NS = 1000 * S


def probe(
    profile: str, waves: tuple[tuple[float, float, float], ...] = WAVES, seed: int = 1
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
    sensors = simulate(profile, np.array(t_ns), np.array(power_w) * limit_w / 700, seed=seed)
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


@pytest.mark.parametrize("seed", [1, 201, 202])
@pytest.mark.parametrize("profile", ["h200", "a100", "rtx4090", "l4"])
def test_periods_and_boxes_of_the_profile_are_found(profile: str, seed: int) -> None:
    trace, loads = probe(profile, seed=seed)
    found = characterise(trace, trace.gpu_uuids[0], health(energy_counter=3.0), loads)
    expected = next(p for p in profiles() if p["name"] == profile)
    sources = found["sources"]
    assert sources["energy_counter"]["update_period_ms"] == pytest.approx(100.0, rel=1e-3)
    assert sources["power_samples"]["update_period_ms"] == pytest.approx(20.0, rel=1e-3)
    for name, field in (("average", "power_average"), ("instant", "power_instant")):
        assert sources[field]["update_period_ms"] == pytest.approx(expected[name]["period_ms"], rel=0.01)
    assert sources["power_average"]["box_ms"] == pytest.approx(1000.0, rel=0.05)
    assert sources["power_average"]["rise_ms"] == pytest.approx(800.0, abs=80.0)
    assert sources["power_samples"]["rise_ms"] < 60.0
    # A box shorter than the samples' own response shows as a short one, or not at all.
    shown_ms, true_ms = sources["power_instant"]["box_ms"], expected["instant"]["window_ms"]
    if true_ms >= 100.0:
        assert shown_ms == pytest.approx(true_ms, abs=20.0)
    else:
        assert shown_ms is None or shown_ms < 50.0
    # Some forty values a burst length of 1.3 s do not tell a rise of 25 ms.
    rise_ms = sources["power_instant"]["rise_ms"]
    assert rise_ms is None or rise_ms > 50.0
    lag_ms = expected["lowpass_ms"] + expected["ring_delay_ms"]
    assert sources["power_samples"]["step_delay_ms"] == pytest.approx(lag_ms, abs=15.0)
    assert found["counter"]["moves"] is True
    assert abs(found["counter"]["power_against_counter"]) < 0.03
    json.dumps(found)


def test_aliasing_is_shown_by_the_means() -> None:
    trace, loads = probe("a100")
    found = characterise(trace, trace.gpu_uuids[0], health(), loads)
    fast = next(load for load in found["loads"] if load["period_ms"] == 100.0)["mean_w"]
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


def test_a_grid_of_half_the_period_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    trace, loads = probe("a100")
    model = trace.model(trace.gpu_uuids[0])
    assert model.counter.grid is not None
    halved = replace(model.counter.grid, period_ns=model.counter.grid.period_ns / 2)
    monkeypatch.setattr(model, "counter", replace(model.counter, grid=halved))
    found = characterise(trace, trace.gpu_uuids[0], health(), loads)
    assert found["sources"]["energy_counter"]["update_period_ms"] == pytest.approx(100.0, rel=0.02)


@pytest.mark.parametrize(
    ("values", "expected_w"),
    [
        # A converter's step of 322.25 mW, the value rounded to 1 mW.
        (np.round(79236 + 322.25 * np.random.default_rng(0).integers(0, 6, 200)), 0.322),
        # Noise in steps of 1 mW.
        (np.round(np.random.default_rng(0).normal(80_000, 3_000, 200)), 0.001),
        (np.full(50, 80_000), 0.0),
        (np.array([80_000, 80_050, 80_150]), 0.05),
    ],
)
def test_resolution(values: np.ndarray, expected_w: float) -> None:
    events = np.zeros(len(values), EVENT_DTYPE)
    events["source"] = Source.POWER_INSTANT
    events["t0_ns"] = START_NS + np.arange(len(values)) * 100 * MS
    events["t1_ns"] = events["t0_ns"]
    events["value"] = values
    found = characterise(PowerTrace(("GPU",), events), "GPU", {})
    assert found["sources"]["power_instant"]["resolution_w"] == pytest.approx(expected_w, abs=0.0015)


def test_one_plan_for_gpus_that_differ() -> None:
    def found(profile: str, call_ms: float) -> dict[str, Any]:
        trace, loads = probe(profile, ())
        return characterise(trace, trace.gpu_uuids[0], health(energy_counter=call_ms), loads)

    both = [found("v100", 1.0), found("h200", 3.0)]
    plan = common_plan(both, PowerConfig())
    assert plan == common_plan(both[::-1], PowerConfig())
    assert (plan.energy_counter_period_ms, plan.power_period_ms) == (pytest.approx(1009.0), 10.0)
    assert common_plan([], PowerConfig()) == sampling_plan(None, PowerConfig())
    assert common_plan(both, PowerConfig(power_period_ms=33.0)).power_period_ms == 33.0


def test_a_real_h200_is_recognised(h200_data: Path) -> None:
    trace = recorded(h200_data / "vllm_trace.csv")
    found = characterise(trace, "GPU", {"ring_depth": 120})
    sources = found["sources"]
    assert sources["energy_counter"]["update_period_ms"] == pytest.approx(100.0, abs=0.1)
    assert sources["power_samples"]["update_period_ms"] == pytest.approx(20.0, abs=0.1)
    for name in ("power_average", "power_usage"):
        assert sources[name]["update_period_ms"] == pytest.approx(100.0, abs=1.0)
        assert sources[name]["box_ms"] == pytest.approx(1000.0, abs=30.0)
    assert sources["power_instant"]["update_period_ms"] == pytest.approx(100.0, abs=1.0)
    assert sources["power_instant"]["box_ms"] < 50.0
    assert sources["power_samples"]["resolution_w"] == pytest.approx(0.33, abs=0.02)
    assert abs(found["counter"]["power_against_counter"]) < 0.01


def recorded(path: Path) -> PowerTrace:
    """A recording at 1 kHz (`kind,t0,t1,value`) as a trace; its ring is stamped on the monotonic clock."""
    kinds = {
        "P": Source.POWER_USAGE,
        "I": Source.POWER_INSTANT,
        "A": Source.POWER_AVERAGE,
        "R": Source.POWER_SAMPLES,
        "E": Source.ENERGY_COUNTER,
    }
    rows: list[tuple[int, ...]] = []
    with path.open() as file:
        for row in csv.DictReader(file):
            t0_ns, t1_ns = round(float(row["t0"]) * S), round(float(row["t1"]) * S)
            source = kinds[row["kind"]]
            stamp_us = t0_ns // 1000 if source is Source.POWER_SAMPLES else -1
            rows.append((-1, t0_ns, t1_ns, stamp_us, int(row["value"]), 0, source, 0))
    reads = [row for row in rows if row[6] == Source.ENERGY_COUNTER]
    rows += [(-1, row[1], row[1], -1, row[1], 0, Source.REALTIME, 0) for row in (reads[0], reads[-1])]
    return PowerTrace(("GPU",), np.array(rows, EVENT_DTYPE))
