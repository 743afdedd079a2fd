"""Least squares that may not go below 0, and their errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.metrics.least_squares import fit
from wattcount.trend import t_975


def test_without_noise_the_coefficients_are_exact() -> None:
    amounts = np.random.default_rng(0).uniform(0, 1000, (50, 3))
    found = fit(amounts, amounts @ [0.012, 0.03, 1.7], (0, 1, 2))
    assert found.value_j == pytest.approx([0.012, 0.03, 1.7])
    assert np.sqrt(np.diag(found.covariance_j2)) == pytest.approx(0, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(1, 3))
@settings(max_examples=50)
def test_the_fit_is_the_best_of_those_that_are_not_negative(seed: int, columns: int) -> None:
    random = np.random.default_rng(seed)
    amounts = random.uniform(0, 1, (30, columns))
    energy_j = amounts @ random.normal(0, 1, columns) + random.normal(0, 0.3, 30)
    found = fit(amounts, energy_j, range(columns))
    # Karush, Kuhn and Tucker: the squares do not fall along any direction that is allowed.
    slope = amounts.T @ (energy_j - amounts @ found.value_j)
    assert (found.value_j >= 0).all()
    assert slope[found.value_j > 0] == pytest.approx(0, abs=1e-8)
    assert (slope[found.value_j == 0] <= 1e-8).all()


def test_the_unit_of_work_does_not_matter() -> None:
    random = np.random.default_rng(3)
    amounts = random.uniform(0, 100, (60, 2))
    energy_j = amounts @ [0.5, 2.0] + random.normal(0, 5, 60)
    one, thousand = fit(amounts, energy_j, (0, 1)), fit(amounts / 1000, energy_j, (0, 1))
    assert thousand.value_j == pytest.approx(1000 * one.value_j)
    assert thousand.covariance_j2 == pytest.approx(1e6 * one.covariance_j2)
    assert thousand.condition_number == pytest.approx(one.condition_number)


def test_errors_that_hold_on_widen_the_interval() -> None:
    amounts = np.stack((np.ones(400), np.arange(400) % 2), axis=1)
    random = np.random.default_rng(5)
    independent = random.normal(0, 1, 400)
    held = np.repeat(random.normal(0, 1, 40), 10)
    spread = [fit(amounts, 100 + e, (0, 1)).covariance_j2[0, 0] for e in (independent, held)]
    assert spread[1] > 2 * spread[0]


@pytest.mark.parametrize(("freedom", "value"), [(5, 2.5706), (10, 2.2281), (30, 2.0423), (1000, 1.9623)])
def test_students_t(freedom: int, value: float) -> None:
    assert t_975(freedom) == pytest.approx(value, rel=2e-3)
