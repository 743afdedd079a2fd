"""Trends: what is there is found, what is chance is not; means and pairs with their intervals."""

from __future__ import annotations

from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.statistics import (
    MIN_VALUES,
    detrended,
    paired,
    residual,
    spread,
    t_975,
    theil_sen,
)


@settings(max_examples=100)
@given(start=st.floats(1.0, 1e4), change=st.floats(-0.5, 0.5), bins=st.integers(MIN_VALUES, 40))
def test_a_straight_line_is_found_exactly(start, change, bins):
    middles = (np.arange(bins) + 0.5) / bins
    drift = theil_sen(start * (1 + change * middles))
    expected = 100 * change / (1 + change / 2)
    assert drift.percent == pytest.approx(expected, abs=1e-6)
    assert drift.low == pytest.approx(expected, abs=1e-6)
    assert drift.high == pytest.approx(expected, abs=1e-6)


def test_an_odd_bin_moves_it_little():
    values = np.full(20, 300.0)
    values[13] = 3000.0
    drift = theil_sen(values)
    assert drift.percent == 0.0
    assert not drift.certain


@pytest.mark.parametrize("values", [np.ones(MIN_VALUES - 1), np.zeros(20), np.empty(0)])
def test_what_has_no_trend(values):
    assert theil_sen(values) is None


def test_the_interval_covers_and_chance_is_not_taken_for_a_trend():
    """2,000 series of 20 noisy bins each, with and without a trend of 30 %."""
    random = np.random.default_rng(1)
    noise = random.normal(0, 10, (2000, 20))
    line = 100 + 30 * ((np.arange(20) + 0.5) / 20 - 0.5)
    still = [theil_sen(100 + row) for row in noise]
    rising = [theil_sen(line + row, 100.0) for row in noise]
    assert sum(drift.certain for drift in still) / 2000 < 0.015
    covered = sum(drift.low <= 30.0 <= drift.high for drift in rising) / 2000
    assert covered > 0.985
    assert sum(drift.certain for drift in rising) / 2000 > 0.7


def test_the_residual_has_no_line_left_in_it():
    random = np.random.default_rng(2)
    load = random.uniform(0, 100, 20)
    noise = random.normal(0, 1, 20)
    rest = residual(300 + 2 * load + noise, load)
    assert rest.mean() == pytest.approx(0, abs=1e-9)
    assert rest @ (load - load.mean()) == pytest.approx(0, abs=1e-6)
    assert np.abs(rest - (noise - noise.mean())).max() < 1.0


def test_a_load_that_does_not_vary_explains_nothing():
    values = np.arange(10.0)
    assert residual(values, np.full(10, 7.0)).tolist() == (values - 4.5).tolist()


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.706), (2, 4.3027), (4, 2.7764), (5, 2.5706), (10, 2.2281), (1000, 1.9623)]
)
def test_students_t(freedom: int, value: float) -> None:
    assert t_975(freedom) == pytest.approx(value, rel=2e-5)


def test_students_t_needs_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least one degree of freedom, got 0"):
        t_975(0)


# -- means and pairs


def test_spread_of_repeats() -> None:
    mean, deviation, half = spread([1.0, 2.0, 3.0])
    assert (mean, deviation) == (2.0, 1.0)
    assert half == pytest.approx(4.30265 / 3**0.5)


def test_pairs_have_students_interval() -> None:
    found = paired(np.array([0.01, 0.02, 0.03]))
    assert (found.mean_percent, found.pairs) == (pytest.approx(2.0), 3)
    assert found.half_width_percent == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert isnan(paired(np.array([0.01])).half_width_percent)


def test_what_was_turned_is_found_beside_a_drift_of_each_batch() -> None:
    """Two batches of 20 stretches; what is turned in every second one costs 1 %, and all get slower by 30 %."""
    start_s = np.concatenate([np.arange(20.0), 100 + np.arange(20.0)])
    turned = np.arange(40) % 2 == 1
    values = 100 * np.exp(-0.3 * (start_s % 100) / 20) * np.where(turned, 0.99, 1.0)
    found = detrended(values, turned, start_s)
    assert found.mean_percent == pytest.approx(100 * np.log(0.99), rel=1e-6)
    assert found.half_width_percent == pytest.approx(0.0, abs=1e-6)
    assert found.pairs == 20
