"""Readings that no board gives, and sensors that stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.energy import plausible
from wattcount.energy.events import EVENT_DTYPE

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


@settings(max_examples=200, deadline=None)
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
