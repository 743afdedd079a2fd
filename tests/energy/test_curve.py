"""Power between its samples, and the energy under it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.energy.curve import PowerCurve, overlaps

MS = 1_000_000
S = 1_000_000_000
START_NS = 7_000 * S

powers = st.lists(st.floats(0.001, 1000.0), min_size=3, max_size=30)


def through(power_w: list[float], step_ns: int = 20 * MS) -> PowerCurve:
    t_ns = START_NS + np.arange(len(power_w), dtype=np.int64) * step_ns
    return PowerCurve.through(t_ns, np.array(power_w))


@given(powers)
def test_it_goes_through_its_samples_and_makes_up_no_power(power_w: list[float]) -> None:
    curve = through(power_w)
    assert curve.power_at(curve.t_ns) == pytest.approx(power_w, rel=1e-9, abs=1e-9)
    fine_ns = np.arange(curve.t_ns[0], curve.t_ns[-1], MS)
    segment = np.minimum(np.searchsorted(curve.t_ns, fine_ns, side="right") - 1, len(power_w) - 2)
    low = np.minimum(power_w[:-1], power_w[1:])[segment]
    high = np.maximum(power_w[:-1], power_w[1:])[segment]
    between = curve.power_at(fine_ns)
    assert (between >= low - 1e-6).all()
    assert (between <= high + 1e-6).all()


@given(powers, st.lists(st.integers(-50, 700), min_size=3, max_size=3, unique=True))
def test_its_energy_adds_up_and_never_falls(power_w: list[float], at_ms: list[int]) -> None:
    curve = through(power_w)
    a, b, c = (START_NS + ms * MS for ms in sorted(at_ms))
    assert curve.between(a, b) >= 0
    assert curve.between(a, b) + curve.between(b, c) == pytest.approx(curve.between(a, c), rel=1e-9, abs=1e-9)


def test_its_energy_is_the_integral_of_its_power() -> None:
    rng = np.random.default_rng(0)
    curve = through(list(rng.uniform(50, 700, 40)))
    fine_ns = np.arange(curve.t_ns[0], curve.t_ns[-1] + 1, 10_000)
    summed = np.sum((curve.power_at(fine_ns[1:]) + curve.power_at(fine_ns[:-1])) / 2) * 1e-5
    assert curve.between(int(fine_ns[0]), int(fine_ns[-1])) == pytest.approx(summed, rel=1e-6)


def test_smooth_power_is_told_better_than_by_straight_lines() -> None:
    """Up to any moment around a step behind a low-pass of 12 ms, sampled every 20 ms."""
    asked_s = np.arange(-0.02, 0.08, 0.001)
    tail_s = np.maximum(asked_s, 0)
    true_j = 100 * (asked_s + 0.2) + 500 * (tail_s - 0.012 * (1 - np.exp(-tail_s / 0.012)))
    misses = []
    for phase in np.linspace(0, 0.02, 21):
        t_s = np.arange(-0.2, 0.4, 0.02) + phase
        power_w = np.where(t_s > 0, 500 * (1 - np.exp(-np.maximum(t_s, 0) / 0.012)), 0.0) + 100
        curve = PowerCurve.through((t_s * S).astype(np.int64), power_w)
        smooth_j = curve.at((asked_s * S).astype(np.int64)) + 100 * phase
        straight_j = np.concatenate(([0.0], np.cumsum((power_w[1:] + power_w[:-1]) / 2 * 0.02)))
        fine_s = np.arange(t_s[0], t_s[-1], 1e-4)
        fine_w = np.interp(fine_s, t_s, power_w)
        fine_j = np.concatenate(([0.0], np.cumsum((fine_w[1:] + fine_w[:-1]) / 2 * 1e-4)))
        assert fine_j[-1] == pytest.approx(straight_j[-1], rel=1e-3)
        misses.append((smooth_j - true_j, np.interp(asked_s, fine_s, fine_j) + 100 * phase - true_j))
    smooth, straight = np.sqrt(np.mean(np.square(misses), axis=(0, 2)))
    assert smooth < 0.95 * straight


@given(powers, st.floats(0.0, 0.05))
def test_a_sharpened_curve_makes_up_no_power_below_zero(power_w: list[float], lowpass_s: float) -> None:
    sharp = through(power_w).sharpened(lowpass_s)
    fine_ns = np.arange(sharp.t_ns[0], sharp.t_ns[-1], MS)
    # Between two of the places that are looked at, a cubic may dip by a little.
    assert sharp.power_at(fine_ns).min() >= -0.02 * max(power_w)
    assert (np.diff(sharp.energy_j) >= -1e-9).all()


def test_a_sharpened_curve_has_no_other_mean() -> None:
    power_w = [*[100.0] * 20, *np.random.default_rng(0).uniform(300, 700, 60), *[100.0] * 20]
    curve = through(power_w)
    assert curve.sharpened(0.01).energy_j[-1] == pytest.approx(curve.energy_j[-1], rel=1e-3)
    assert curve.sharpened(0.0).energy_j == pytest.approx(curve.energy_j)


def test_sharpening_undoes_a_low_pass() -> None:
    """A step of 500 W behind a low-pass of 12 ms, sampled every 20 ms: what of its energy is shown before it."""
    early_j: dict[float, list[float]] = {0.0: [], 0.012: []}
    for phase_s in np.linspace(0, 0.02, 21):
        t_s = np.arange(-0.2, 0.4, 0.02) + phase_s
        power_w = np.where(t_s > 0, 500 * (1 - np.exp(-np.maximum(t_s, 0) / 0.012)), 0.0) + 100
        curve = PowerCurve.through((t_s * S).astype(np.int64), power_w)
        for lowpass_s, found in early_j.items():
            # Smoothed power trails by the time constant; sharpened power does not.
            late_s = 0.0 if lowpass_s else 0.012
            shown_j = curve.sharpened(lowpass_s).between(round(t_s[0] * S), round(late_s * S))
            found.append(shown_j - 100 * (late_s - t_s[0]))
    assert np.mean(early_j[0.0]) > 500 * 0.004
    assert abs(np.mean(early_j[0.012])) < 500 * 0.0025


def test_held_power_holds() -> None:
    t_ns = START_NS + np.array([0, S, 3 * S, 10 * S])
    curve = PowerCurve.holding(t_ns, np.array([100.0, 200.0, 300.0, 400.0]), 5 * S)
    assert curve.between(START_NS, START_NS + 3 * S) == pytest.approx(100 + 2 * 200)
    assert curve.between(START_NS + S // 2, START_NS + S) == pytest.approx(50)
    # Beyond its end the last segment's power holds.
    assert curve.between(START_NS + 10 * S, START_NS + 11 * S) == pytest.approx(300)
    assert curve.gaps_ns.tolist() == [[START_NS + 3 * S, START_NS + 10 * S]]
    assert curve.longest_gap_ns(START_NS, START_NS + 5 * S) == 2 * S


def test_lost_samples_are_gaps() -> None:
    t_ns = START_NS + np.array([0, 20, 40, 80, 100, 120], np.int64) * MS
    curve = PowerCurve.through(t_ns, np.full(6, 300.0))
    assert curve.gaps_ns.tolist() == [[START_NS + 40 * MS, START_NS + 80 * MS]]
    assert curve.has_gap(START_NS + 70 * MS, START_NS + 90 * MS)
    assert not curve.has_gap(START_NS + 80 * MS, START_NS + 90 * MS)
    assert curve.covers(START_NS, START_NS + 120 * MS)
    assert not curve.covers(START_NS - 1, START_NS + 120 * MS)


def test_a_shift_moves_all_of_it() -> None:
    curve = through([100.0, 300.0, 200.0, 250.0])
    moved = curve.shifted(-5 * MS)
    assert moved.bounds_ns == (START_NS - 5 * MS, START_NS + 55 * MS)
    assert moved.between(START_NS, START_NS + 30 * MS) == curve.between(START_NS + 5 * MS, START_NS + 35 * MS)


def test_nothing_overlaps_no_stretch() -> None:
    assert not overlaps(np.empty((0, 2), np.int64), 0, S)
    assert overlaps(np.array([[5, 10]]), 9, 12)
    assert not overlaps(np.array([[5, 10]]), 10, 12)
