import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_record import at

from wattcount.metrics.observations import (
    MISSING,
    Window,
    ends_in,
    needed,
    percentile,
    phase_window,
    starts_in,
)
from wattcount.records.schema import Phase, PhaseSpan


def test_a_phase_that_ended_is_whole():
    spans = [PhaseSpan(Phase.WARMUP, at(0), at(1)), PhaseSpan(Phase.WINDOW, at(1), at(3))]
    assert phase_window(spans, Phase.WINDOW) == Window(at(1), at(3), True)
    assert phase_window(spans, Phase.WINDOW).duration_s == 2.0


def test_a_phase_that_broke_off_is_cut_where_observation_ended():
    spans = [PhaseSpan(Phase.WINDOW, at(1), None)]
    assert phase_window(spans, Phase.WINDOW, at(2)) == Window(at(1), at(2), False)
    assert phase_window(spans, Phase.WINDOW, at(0.5)) is None
    assert phase_window(spans, Phase.WINDOW, None) is None


def test_a_phase_that_never_came_is_none():
    assert phase_window([PhaseSpan(Phase.BARE_IDLE, at(0), at(1))], Phase.WINDOW) is None


@given(
    st.lists(st.integers(0, 1000), max_size=50),
    st.integers(1, 999),
)
def test_adjacent_windows_share_nothing_and_lose_nothing(stamps, cut):
    t_ns = np.array([*stamps, MISSING], dtype=np.int64)
    whole, left, right = Window(0, 1000), Window(0, cut), Window(cut, 1000)
    for inside in (starts_in, ends_in):
        both = inside(t_ns, left).astype(int) + inside(t_ns, right).astype(int)
        assert (both == inside(t_ns, whole).astype(int)).all()
        assert not inside(t_ns, whole)[-1]


FINITE = st.floats(min_value=0, max_value=1e12, allow_nan=False)


def test_needed_counts_of_the_usual_percentiles():
    assert [needed(p) for p in (50, 90, 95, 99)] == [2, 10, 20, 100]


@given(st.lists(FINITE, min_size=100, max_size=300), st.sampled_from([50, 95, 99]))
def test_agrees_with_numpy_linear(values, p):
    value, reason = percentile(values, p)
    assert reason is None
    assert value == pytest.approx(np.percentile(values, p, method="linear"), rel=1e-9, abs=1e-9)


@given(st.lists(FINITE, min_size=100, max_size=200), st.randoms())
def test_order_does_not_matter(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert percentile(values, 95) == percentile(shuffled, 95)


@pytest.mark.parametrize(("p", "n"), [(50, 2), (95, 20), (99, 100)])
def test_too_few_values_is_null(p, n):
    assert percentile([1.0] * (n - 1), p) == (None, "too_few_requests")
    assert percentile([1.0] * n, p) == (1.0, None)


def test_no_values_is_null():
    assert percentile([], 50) == (None, "no_requests")


@given(st.integers(0, 200), st.sampled_from([50, 95, 99]))
def test_unfinished_requests_push_percentiles_up_until_they_reach_them(unfinished, p):
    finished = [float(i) for i in range(200)]
    value, reason = percentile(finished + [float("inf")] * unfinished, p)
    if value is None:
        assert reason == "requests_unfinished"
        # Null only where the rank, or its upper neighbour, is a request that never finished.
        assert p * (199 + unfinished) / 100 > 199
    else:
        assert value >= percentile(finished, p)[0]


def test_a_rank_exactly_on_the_last_finished_request_is_given():
    # 101 values: p99 is rank 99 exactly; with linear interpolation nothing of rank 100 enters.
    assert percentile([1.0] * 100 + [float("inf")], 99) == (1.0, None)
