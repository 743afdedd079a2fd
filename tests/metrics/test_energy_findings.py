"""Joules that cannot be, in the window and in every idle phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_record import SyntheticRun, at, metrics_of, observation

from wattcount.metrics import energy_findings

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
    from wattcount.metrics.idle import PHASES

    assert set(energy_findings.IDLE_NAMES) == {name for name, _ in PHASES}
    assert np.isfinite(energy_findings.MOST_IDLE_SHARE)
