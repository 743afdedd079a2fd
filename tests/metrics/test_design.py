"""Which kinds of work can be told apart in a window."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_steps import even_work

from wattcount.metrics import design
from wattcount.metrics.design import Design, choose_interval_s, interval_edges
from wattcount.metrics.window import Window
from wattcount.metrics.work import Work

WINDOW = Window(0, 20_000_000_000)


def separable(work: Work) -> tuple[int, ...] | str:
    """Of a steady 500 W, 100 W of them idle."""
    return Design(lambda t_ns: 500 * t_ns / 1e9, interval_edges(WINDOW, 0.4), work).separable_terms(100)


def test_phases_that_keep_one_proportion_are_refused() -> None:
    assert separable(even_work(1000, 64, 16)) == design.COLLINEAR


def test_a_phase_that_is_hardly_there_is_refused() -> None:
    work = even_work(1000, 0, 16)
    work.prefill_tokens[500] = 512
    assert separable(work) == design.HARDLY_PRESENT


def test_a_window_without_steps_is_refused() -> None:
    assert separable(even_work(1000, 0, 0)) == design.NO_STEPS


def test_a_phase_alone_has_terms_of_its_own() -> None:
    assert separable(even_work(1000, 64, 0)) == (0,)


@pytest.mark.parametrize(
    ("resolution_s", "step_s", "expected"), [(0.01, 0.02, 0.4), (0.1, 0.02, 2.0), (0.02, 0.2, 1.0)]
)
def test_an_interval_is_long_beside_samples_and_steps(
    resolution_s: float, step_s: float, expected: float
) -> None:
    work = even_work(1000, 64, 16, step_s=step_s)
    assert choose_interval_s(work, WINDOW, resolution_s) == pytest.approx(expected)


def test_intervals_fill_the_window() -> None:
    edges_ns = interval_edges(Window(5, 10_000_000_005), 0.7)
    assert (edges_ns[0], edges_ns[-1]) == (5, 10_000_000_005)
    assert len(edges_ns) - 1 == 14
    assert np.diff(edges_ns).min() >= 700_000_000
