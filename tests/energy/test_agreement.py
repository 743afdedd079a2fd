"""Whether two sources tell the same energy."""

from __future__ import annotations

import numpy as np
import pytest

from wattcount.energy.agreement import DISAGREE_SHARE, check_steps, disagreement
from wattcount.energy.curve import PowerCurve

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
