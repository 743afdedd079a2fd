"""When steps ran, what they looked back on, and the amounts of work in intervals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_steps import SimulatedEngine, ns, requests

from wattcount.metrics.observations import MISSING
from wattcount.metrics.work import Context, Spans, Work, locate_steps

# -- amounts of work in intervals -----------------------------------------------------------------


def test_work_is_spread_evenly_over_its_span() -> None:
    spans = Spans(ns(1, 1.5), ns(2, 3.5), np.array([10.0, 4.0]))
    assert spans.between(ns(0, 1, 1.5, 2, 3, 9)) == pytest.approx([0, 5, 6, 2, 1])


def test_no_work_is_none_of_it() -> None:
    empty = Spans(ns(), ns(), np.empty(0))
    assert empty.between(ns(0, 1, 2)).tolist() == [0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 3000), st.integers(0, 2048)), max_size=20),
    st.lists(st.integers(0, 12_000), min_size=2, max_size=12, unique=True),
)
def test_amounts_are_what_adding_span_by_span_gives(
    work: list[tuple[int, int, int]], marks: list[int]
) -> None:
    starts = np.array([s for s, _, _ in work], np.int64) * 1_000_000
    ends = starts + np.array([d for _, d, _ in work], np.int64) * 1_000_000
    amounts = np.array([a for _, _, a in work], np.float64)
    edges = np.sort(np.array(marks, np.int64)) * 1_000_000
    expected = np.zeros(len(edges) - 1)
    for start, end, amount in zip(starts, ends, amounts, strict=True):
        overlap = np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1])
        expected += amount * np.maximum(overlap, 0) / (end - start)
    found = Spans(starts, ends, amounts).between(edges)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert (found >= 0).all()


# -- when a step ran ------------------------------------------------------------------------------


def steps(logged_s: list[float], in_flight: list[int], begun_s: list[float], **columns: list[int]) -> Work:
    count = len(logged_s)
    none = np.full(count, MISSING, np.int64)
    found = locate_steps(
        ns(*logged_s),
        np.array(columns.get("stamp", none), np.int64),
        np.array(columns.get("duration", none), np.int64),
        np.array(columns.get("prefill", [0] * count), np.int64),
        np.array(columns.get("decode", [1] * count), np.int64),
        np.array(in_flight, np.int64),
        ns(*begun_s),
    )
    assert found is not None
    return found


def test_a_step_ran_after_the_one_two_before_it_was_reported() -> None:
    work = steps([1.0, 1.1, 1.2, 1.3], [1, 1, 1, 1], [0.95])
    assert work.end_ns.tolist() == ns(1.0, 1.1, 1.2, 1.3).tolist()
    assert work.start_ns.tolist() == ns(0.95, 0.95, 1.0, 1.1).tolist()
    assert work.late_start_ns.tolist() == ns(0.95, 1.0, 1.1, 1.2).tolist()


def test_after_a_pause_a_step_begins_when_a_request_is_scheduled() -> None:
    work = steps([1.0, 1.1, 5.1, 5.2], [1, 0, 1, 1], [0.95, 5.0])
    assert work.start_ns[2:].tolist() == ns(5.0, 5.0).tolist()


def test_requests_that_were_never_sent_begin_nothing() -> None:
    work = steps([1.0, 1.1, 5.1], [1, 0, 1], [0.95, 5.0, MISSING / 1e9])
    assert work.start_ns.tolist() == ns(0.95, 0.95, 5.0).tolist()


def test_steps_of_nobody_known_are_still_steps() -> None:
    work = steps([1.0, 1.1], [1, 1], [])
    assert (work.start_ns < work.end_ns).all()


def test_the_engines_own_stamps_are_taken_where_every_step_has_them() -> None:
    work = steps([1.0, 1.1], [1, 1], [0.9], stamp=ns(0.99, 1.09).tolist(), duration=ns(0.02, 0.03).tolist())
    assert work.end_ns.tolist() == ns(0.99, 1.09).tolist()
    assert work.start_ns.tolist() == work.late_start_ns.tolist() == ns(0.97, 1.06).tolist()


def test_steps_in_any_order_are_the_same_steps() -> None:
    simulated = SimulatedEngine(count=20).run()
    order = np.random.default_rng(1).permutation(len(simulated.end_ns))
    expected = simulated.work()
    context = Context.of(simulated.requests())
    for name in ("logged_ns", "end_ns", "start_ns"):
        setattr(simulated, name, getattr(simulated, name)[order])
    for name in ("prefill", "decode", "in_flight"):
        setattr(simulated, name, np.array(getattr(simulated, name))[order])
    for item in dataclasses.fields(Work):
        assert (
            getattr(simulated.work(context=context), item.name).tolist()
            == getattr(expected, item.name).tolist()
        )


def test_without_tokens_there_is_no_work() -> None:
    none = np.full(1, MISSING, np.int64)
    one = np.ones(1, np.int64)
    assert locate_steps(ns(1), none, none, none, one, one, ns(0)) is None
    assert locate_steps(ns(), ns(), ns(), ns(), ns(), ns(), ns()) is None


# -- context --------------------------------------------------------------------------------------


def test_the_context_is_prompt_and_what_was_made() -> None:
    """A prompt of 10 with tokens at 1, 2 and 3 s, and one of 100 with two tokens at 2 s and one at 4 s."""
    two = Context.of(requests((0, 10, [1, 2, 3]), (0, 100, [2, 4])))
    assert two.mean_at(ns(1, 1.5, 2.5, 3.5, 5)).tolist() == [0, 11, (12 + 101) / 2, 101, 0]


def test_without_tokens_there_is_no_context() -> None:
    assert Context.of(requests((0, 10, []))).mean_at(ns(1)).tolist() == [0]
