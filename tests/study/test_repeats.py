"""Statistics of repeats: their intervals, what many settings share, and differences of pairs."""

from __future__ import annotations

from math import exp, expm1, isnan, sinh

import numpy as np
import pytest

from wattcount.metrics.metrics_json import Status
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.study.repeats import (
    Scatter,
    change,
    detrended,
    half_width,
    moves_with,
    paired,
    spread,
    start_scatter,
)


def test_spread_of_repeats() -> None:
    mean, deviation, half = spread([1.0, 2.0, 3.0])
    assert (mean, deviation) == (2.0, 1.0)
    assert half == pytest.approx(4.30265 / 3**0.5)


def test_the_half_width_of_a_mean_is_students() -> None:
    # sd 1, n = 3, t(0.975, 2) = 4.30265
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert half_width([1.0, 1.2]) == pytest.approx(12.7062 * 0.1, rel=1e-5)


def test_one_run_has_no_half_width() -> None:
    assert half_width([1.0]) is None
    assert half_width([]) is None


def test_scatter_is_pooled_over_the_repeats_of_each_setting() -> None:
    # Logarithms: (0.00, 0.02, 0.04) and (0.99, 1.01): squares 0.0008 and 0.0002; one run alone says nothing.
    found = Scatter.of([[exp(x) for x in values] for values in ((0.0, 0.02, 0.04), (0.99, 1.01), (5.0,))])
    assert found.freedom == 3
    assert found.variance == pytest.approx(0.001 / 3)


def test_a_change_has_students_interval_for_two_means() -> None:
    # 3 degrees of freedom: t = 3.18245.
    usual, turned = [exp(x) for x in (0.99, 1.01)], [exp(x) for x in (0.0, 0.02, 0.04)]
    percent, half = change(turned, usual, Scatter(0.0004, 3))
    expected = 3.18245 * (0.0004 * (1 / 3 + 1 / 2)) ** 0.5
    assert percent == pytest.approx(100 * expm1(0.02 - 1.0))
    assert half == pytest.approx(100 * exp(-0.98) * sinh(expected), rel=1e-5)


def test_two_single_runs_have_an_interval_by_how_others_scatter_and_none_without() -> None:
    assert change([0.5], [1.0], Scatter(0.0, 0)) == (pytest.approx(-50.0), None)
    percent, half = change([0.5], [1.0], Scatter(0.0001, 7))
    assert percent == pytest.approx(-50.0)
    assert half == pytest.approx(50 * sinh(2.36462 * 0.0002**0.5), rel=1e-5)


def test_the_order_of_runs_and_their_unit_change_nothing() -> None:
    pooled = Scatter(0.0004, 3)
    one = change([3.0, 4.0], [5.0, 6.0, 7.0], pooled)
    assert change([4e3, 3e3], [7e3, 5e3, 6e3], pooled) == pytest.approx(one)


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


# -- starts of the engine


def start(key: str, value: float | None, cause: float | None = None, **other: object) -> Result:
    facts: dict[str, object] = {
        "setting_key": key,
        "kind": "server",
        "evidence": Evidence.MEASURED,
        "metrics": {"figure": value, "cause": cause},
    }
    return Result(**(facts | other))  # type: ignore[arg-type]


def test_starts_are_pooled_by_kind_of_load_over_the_settings_that_were_repeated() -> None:
    eager = {"setting": {"engine": {"enforce_eager": True}}}
    runs = [
        start("a", exp(0.00)), start("a", exp(0.02)), start("a", exp(0.04)),
        start("b", exp(0.99)), start("b", exp(1.01)),
        start("once", 9.0),
        start("a", 9.0, status=Status.invalid),
        start("a", 9.0, evidence=Evidence.EMULATED),
        start("a", None),
        start("c", exp(0.0), **eager), start("c", exp(0.2), **eager),
    ]  # fmt: skip
    found = start_scatter(runs, "figure")
    assert list(found) == ["eager server", "server"]
    assert (found["server"].freedom, found["server"].variance) == (3, pytest.approx(0.001 / 3))
    assert (found["eager server"].freedom, found["eager server"].variance) == (1, pytest.approx(0.02))


def test_how_far_a_figure_moves_with_another_within_settings() -> None:
    # Twice the cause is half of the figure, in both settings; between them they differ for other reasons.
    runs = [start("a", 8.0, 1.0), start("a", 4.0, 2.0), start("b", 100.0, 10.0), start("b", 50.0, 20.0)]
    runs += [start("once", 1.0, 100.0), start("a", 5.0, None)]
    assert moves_with(runs, "cause", "figure") == (pytest.approx(-1.0), pytest.approx(-1.0), 4)
    slope, correlation, count = moves_with([start("a", 1.0, 1.0)], "cause", "figure")
    assert (isnan(slope), isnan(correlation), count) == (True, True, 0)
