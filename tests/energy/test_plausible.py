"""Readings that no board gives, and sensors that stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.energy import plausible
from wattcount.energy.curve import PowerCurve
from wattcount.energy.events import EVENT_DTYPE
from wattcount.energy.plausible import DISAGREE_SHARE, check_steps, disagreement

S = 1_000_000_000


def limits(*watts: float) -> np.ndarray:
    events = np.zeros(len(watts), EVENT_DTYPE)
    events["value"] = [round(w * 1e3) for w in watts]
    return events


def test_the_limit_is_the_highest_that_a_board_can_have() -> None:
    assert plausible.board_limit_w(limits(300, 700, 500)) == 700.0
    assert plausible.board_limit_w(limits(700, 4_294_967.295)) == 700.0
    assert plausible.board_limit_w(limits()) is None
    failed = limits(700)
    failed["nvml_return"] = 3
    assert plausible.board_limit_w(failed) is None


def test_without_a_limit_no_more_is_believed_than_any_board_draws() -> None:
    assert plausible.most_reading_w(None) == plausible.most_mean_w(None) == plausible.MOST_POWER_W
    assert plausible.most_reading_w(700.0) == 1400.0
    assert plausible.most_mean_w(700.0) == pytest.approx(840.0)


def test_readings_of_nothing_and_of_too_much_are_told_apart() -> None:
    faults = plausible.faults_of_power(np.array([0, -1, 1, 77_000, 1_399_000, 0xFFFFFFFF]), 1400.0)
    assert faults[plausible.ZERO].tolist() == [True, True, True, False, False, False]
    assert faults[plausible.ABSURD].tolist() == [False, False, False, False, False, True]


def test_a_stretch_reaches_from_the_good_reading_before_to_the_one_after() -> None:
    t_ns = np.arange(6, dtype=np.int64) * 10
    bad = np.array([False, True, True, False, False, True])
    assert plausible.around(t_ns, bad).tolist() == [[0, 30], [40, 50]]
    assert plausible.around(t_ns, np.zeros(6, bool)).shape == (0, 2)


def frozen_from(values: np.ndarray, first: int, length: int) -> np.ndarray:
    shown = values.copy()
    shown[first : first + length] = shown[first]
    return shown


@settings(max_examples=200)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 400),
    st.integers(2, 600),
    st.integers(1, 600),
    st.sampled_from([1, 5]),
)
def test_a_sensor_that_stands_still_for_longer_is_never_flagged_less(
    seed: int, first: int, length: int, more: int, update: int
) -> None:
    """`update`: samples in which the sensor shows a new value; 5 is a sensor of 100 ms in a ring of 20 ms."""
    values = np.repeat(np.random.default_rng(seed).integers(100_000, 700_000, 1000 // update), update)
    shorter = plausible.same_for_long(frozen_from(values, first, length))
    longer = plausible.same_for_long(frozen_from(values, first, length + more))
    assert not (shorter & ~longer).any()


@pytest.mark.parametrize("share", [0.02, 0.09, 0.11, 0.3, 0.6, 0.95, 1.0])
def test_it_is_flagged_whatever_share_of_the_trace_it_is(share: float) -> None:
    values = np.random.default_rng(1).integers(100_000, 700_000, 3000)
    flagged = plausible.same_for_long(frozen_from(values, 0, round(share * 3000)))
    assert flagged.sum() == round(share * 3000) - 1


def test_two_that_stand_still_for_long_do_not_excuse_each_other() -> None:
    values = np.random.default_rng(1).integers(100_000, 700_000, 3000)
    twice = frozen_from(frozen_from(values, 100, 1000), 1500, 1000)
    assert plausible.same_for_long(twice).sum() == 1998


def test_short_runs_and_those_of_a_coarse_sensor_are_good() -> None:
    assert not plausible.same_for_long(np.repeat(np.arange(100), 9)).any()
    assert not plausible.same_for_long(np.repeat(np.arange(100), 40)).any()
    assert not plausible.same_for_long(np.array([], np.int64)).any()


def test_polled_power_is_judged_by_time() -> None:
    t_ns = np.arange(100, dtype=np.int64) * S // 10
    value = np.arange(100)
    assert not plausible.held_for_long(value, t_ns).any()
    value[20:50] = 20
    assert plausible.held_for_long(value, t_ns).nonzero()[0].tolist() == list(range(21, 50))
    value[20:50] = np.repeat([20, 21], 15)
    assert not plausible.held_for_long(value, t_ns).any()


S = 1_000_000_000
TICKS_NS = np.arange(1, 31, dtype=np.int64) * S


def power(watts: float = 300.0, holes_s: tuple[tuple[float, float], ...] = ()) -> PowerCurve:
    t_ns = np.arange(0, 1600, dtype=np.int64) * 20_000_000
    keep = np.ones(len(t_ns), bool)
    for start, end in holes_s:
        keep &= (t_ns < start * S) | (t_ns > end * S)
    wave = watts + 2.0 * np.sin(np.arange(1600))
    return PowerCurve.through(t_ns[keep], wave[keep])


def counted(watts: float = 300.0) -> np.ndarray:
    return 1e6 + watts * TICKS_NS / S


def test_steps_that_agree_are_within_their_limits_and_widen_nothing() -> None:
    steps = check_steps(TICKS_NS, counted(), [power()], 0.0, 0.004)
    assert steps is not None
    assert steps.seen.all()
    assert steps.whole.all()
    assert (np.abs(steps.off_j) < steps.limit_j).all()
    assert (steps.widening_j == 0).all()


@pytest.mark.parametrize("lost_j", [45.0, -45.0, 250.0])
def test_a_step_that_is_off_is_found_and_no_other(lost_j: float) -> None:
    energy_j = counted()
    energy_j[12:] -= lost_j
    steps = check_steps(TICKS_NS, energy_j, [power()], 0.0, 0.004)
    assert steps is not None
    assert np.flatnonzero(np.abs(steps.off_j) > steps.limit_j).tolist() == [11]
    assert steps.off_j[11] == pytest.approx(-lost_j, abs=1.0)


def test_a_gain_that_counter_and_samples_do_not_share_is_no_fault() -> None:
    """Samples that alias are off by up to 16 %, all of them."""
    steps = check_steps(TICKS_NS, counted(300.0), [power(258.0)], 0.0, 0.004)
    assert steps is not None
    assert (np.abs(steps.off_j) < steps.limit_j).all()


def test_a_step_that_no_source_saw_widens_by_what_is_not_known() -> None:
    energy_j = counted()
    energy_j[12:] += 200.0
    steps = check_steps(TICKS_NS, energy_j, [power(holes_s=((12.1, 12.9),))], 0.0, 0.004)
    assert steps is not None
    assert np.flatnonzero(~steps.seen).tolist() == [11]
    assert steps.widening_j[11] == pytest.approx(200.0 / 3, abs=1.0)


def test_a_second_source_stands_in_where_the_first_saw_nothing() -> None:
    holed = power(holes_s=((12.1, 12.9),))
    steps = check_steps(TICKS_NS, counted(), [holed, power()], 0.0, 0.004)
    assert steps is not None
    assert steps.seen.all()
    assert np.flatnonzero(~steps.whole).tolist() == [11]


def test_nothing_to_compare() -> None:
    assert check_steps(TICKS_NS, counted(), [], 0.0, 0.0) is None
    assert check_steps(TICKS_NS[:1], counted()[:1], [power()], 0.0, 0.0) is None


def test_the_source_that_differs_most_beyond_both_intervals() -> None:
    known = {"best": (1000.0, 1.0), "power_samples": (1100.0, 1.0), "power_average": (700.0, 250.0)}
    found = disagreement("best", known, 20.0)
    assert found is not None
    assert (found.source, found.against) == ("power_samples", "best")
    assert found.share == pytest.approx(0.1)
    assert found.certain == pytest.approx(0.098)
    assert found.told
    assert not found.broken
    broken = disagreement("best", known | {"power_samples": (1300.0, 1.0)}, 20.0)
    assert broken is not None
    assert broken.broken


def test_short_intervals_are_not_compared_and_the_average_only_in_long_ones() -> None:
    known = {"best": (1000.0, 1.0), "power_average": (2000.0, 1.0)}
    assert disagreement("best", known, 0.9) is None
    assert disagreement("best", known, 9.9) is None
    assert disagreement("best", known, 10.0) is not None
    close = disagreement(
        "best", {"best": (1000.0, 0.0), "power_samples": (1000 * (1 + DISAGREE_SHARE), 0.0)}, 1.0
    )
    assert close is not None
    assert not close.told
