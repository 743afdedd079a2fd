"""When steps ran, what they looked back on, and the amounts of work in intervals."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_steps import SimulatedEngine, even_work, ns, requests

from wattcount.metrics.attribution import attribute_record, read_inputs
from wattcount.metrics.observations import MISSING, Window, phase_window
from wattcount.metrics.phases import Attribution
from wattcount.metrics.work import (
    COLLINEAR,
    HARDLY_PRESENT,
    NO_STEPS,
    OTHER_CLOCKS,
    OUTSIDE_FIT,
    Context,
    Design,
    Prediction,
    Reach,
    Spans,
    Work,
    arrived_steps,
    choose_interval_s,
    extrapolate,
    fit,
    interval_edges,
    locate_steps,
    predict,
)
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.statistics import t_975

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


# -- steps of an engine that tells none


def test_tokens_that_arrive_together_are_one_step() -> None:
    found = arrived_steps(requests((0, 100, [0.010, 0.0205, 0.031]), (0, 30, [0.0201, 0.0305])))
    for column, expected in zip(found, (ns(0.010, 0.0201, 0.0305), [100, 30, 0], [0, 1, 2]), strict=True):
        assert column.tolist() == list(expected)


def test_a_second_token_of_a_request_is_another_step_however_soon_it_comes() -> None:
    found = arrived_steps(requests((0, 5, [0.010, 0.0104, 0.0108]), (0, 7, [0.0102, 0.0106])))
    assert found[0].tolist() == ns(0.010, 0.0104, 0.0108).tolist()
    assert found[1].tolist() == [12, 0, 0]
    assert found[2].tolist() == [0, 2, 1]


def test_what_the_cache_had_and_tokens_of_one_arrival_count() -> None:
    columns = {"cached_tokens": np.array([96]), "token_count": np.array([3, 2])}
    t_ns, prefill, decode = arrived_steps(requests((0, 100, [0.010, 0.030]), **columns))
    assert (len(t_ns), prefill.tolist(), decode.tolist()) == (2, [4, 0], [2, 2])
    assert [len(column) for column in arrived_steps(requests())] == [0, 0, 0]


@pytest.mark.parametrize(
    "settings", [{"rate_rps": 8.0, "count": 100}, {"rate_rps": None, "count": 300, "output": 40}]
)
def test_arrivals_show_every_step_that_made_a_token(settings: dict[str, Any]) -> None:
    engine = SimulatedEngine(**settings, late_reports=False).run()
    rows = [
        (
            engine.scheduled_s[i],
            int(engine.prompts[i]),
            [engine.end_s[step] for step in engine.token_steps[i]],
        )
        for i in range(engine.count)
    ]
    told = np.unique([step for steps in engine.token_steps for step in steps])
    t_ns, prefill, decode = arrived_steps(requests(*rows))
    assert t_ns.tolist() == ns(*(engine.end_s[step] for step in told)).tolist()
    assert prefill.sum() == engine.prompts.sum()
    assert decode.tolist() == [engine.decode[step] for step in told]


WINDOW = Window(0, 20_000_000_000)


def separable(work: Work) -> tuple[int, ...] | str:
    """Of a steady 500 W, 100 W of them idle."""
    return Design(lambda t_ns: 500 * t_ns / 1e9, interval_edges(WINDOW, 0.4), work).separable_terms(100)


def test_phases_that_keep_one_proportion_are_refused() -> None:
    assert separable(even_work(1000, 64, 16)) == COLLINEAR


def test_a_phase_that_is_hardly_there_is_refused() -> None:
    work = even_work(1000, 0, 16)
    work.prefill_tokens[500] = 512
    assert separable(work) == HARDLY_PRESENT


def test_a_window_without_steps_is_refused() -> None:
    assert separable(even_work(1000, 0, 0)) == NO_STEPS


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


H200 = Path(__file__).resolve().parents[2] / "data" / "h200" / "records"

SERVERS = {1: "a1d2", 4: "4720", 16: "267d", 32: "37f0", 64: "509c"}
"""Llama-3-8B's shape, 512 in, 128 out, by requests/s: the first characters of the point."""


def mixed(rows: int = 60) -> np.ndarray:
    """Intervals of 2 to 6 requests at once, contexts of 300 to 600 tokens, 0 to 100 prompt tokens a step."""
    rng = np.random.default_rng(0)
    steps = rng.uniform(20, 40, rows)
    tokens = steps * rng.uniform(2, 6, rows)
    return np.stack(
        (steps * rng.uniform(0, 100, rows), tokens, steps, tokens * rng.uniform(300, 600, rows)), axis=1
    )


def done(
    *, batch: float = 4.0, context: float = 450.0, prompt: float = 50.0, steps: float = 1000.0
) -> np.ndarray:
    return np.array([prompt * steps, batch * steps, steps, batch * steps * context])


REACH = Reach.of(mixed(), (1980.0,))


def test_work_like_that_of_the_fit_is_predicted() -> None:
    amounts = mixed()
    found = predict(fit(amounts, amounts @ (0.01, 0.02, 1.5, 1e-5), range(4)), REACH, done(), 1980.0)
    assert isinstance(found, Prediction)
    assert found.value_j == pytest.approx(float(done() @ (0.01, 0.02, 1.5, 1e-5)), rel=1e-6)
    assert found.u95_j >= 0


@pytest.mark.parametrize(
    ("done", "clock_mhz", "code"),
    [
        (done(batch=30.0), 1980.0, OUTSIDE_FIT),
        (done(batch=1.0), 1980.0, OUTSIDE_FIT),
        (done(context=5000.0), 1980.0, OUTSIDE_FIT),
        (done(prompt=500.0), 1980.0, OUTSIDE_FIT),
        (np.array([5000.0, 0.0, 0.0, 0.0]), 1980.0, OUTSIDE_FIT),
        (done(), 1500.0, OTHER_CLOCKS),
        (done(), None, OTHER_CLOCKS),
        (done(), 1950.0, None),
    ],
)
def test_other_loads_and_other_clocks_are_refused(
    done: np.ndarray, clock_mhz: float | None, code: str | None
) -> None:
    assert REACH.refuses(done, clock_mhz) == code


def test_a_fit_to_several_clocks_holds_at_none_of_them() -> None:
    for clocks in ((1980.0, 1500.0), (1980.0, None), ()):
        assert Reach.of(mixed(), clocks).refuses(done(), 1980.0) == OTHER_CLOCKS


def test_a_fit_without_decode_is_of_prefill_alone() -> None:
    prefill = np.array([[100.0, 0, 0, 0], [300.0, 0, 0, 0]])
    reach = Reach.of(prefill, (1980.0,))
    assert reach.refuses(np.array([700.0, 0, 0, 0]), 1980.0) is None
    assert reach.refuses(done(), 1980.0) == OUTSIDE_FIT


@settings(max_examples=60)
@given(st.floats(0.1, 50.0), st.floats(1.0, 20.0))
def test_what_is_refused_stays_refused_further_out(batch: float, further: float) -> None:
    if REACH.refuses(done(batch=batch), 1980.0) is not None:
        away = batch * further if batch > 4 else batch / further
        assert REACH.refuses(done(batch=away), 1980.0) is not None


@pytest.fixture(scope="module")
def servers() -> dict[int, tuple[Attribution, np.ndarray, float, float | None]]:
    """By requests/s: attribution, work of the window, its energy above idle, its clock."""
    found = {}
    for rate, point in SERVERS.items():
        (path,) = H200.glob(f"{point}*/r*")
        record = Record.open(path)
        window = phase_window(record.info.phases, Phase.WINDOW)
        assert window is not None
        inputs, attribution = read_inputs(record, window), attribute_record(record, window)
        assert not isinstance(inputs, str)
        assert isinstance(attribution, Attribution)
        edges_ns = np.array([window.start_ns, window.end_ns])
        above_j = float(np.diff(inputs.energy_at(edges_ns))[0]) - inputs.idle_w * window.duration_s
        found[rate] = (attribution, inputs.work.terms(edges_ns)[0], above_j, inputs.clocks.mean_mhz)
    return found


@pytest.mark.parametrize("lighter", [1, 4, 16])
@pytest.mark.parametrize("limited", [32, 64])
def test_a_server_at_its_power_limit_does_not_price_lighter_ones(
    servers: dict[int, tuple[Attribution, np.ndarray, float, float | None]], limited: int, lighter: int
) -> None:
    attribution = servers[limited][0]
    _, done, above_j, clock_mhz = servers[lighter]
    # It would be wrong by far more than it says ...
    wrong = extrapolate(attribution.fit, done)
    assert abs(wrong.value_j / above_j - 1) > 0.1
    # ... so that nothing is said.
    assert isinstance(predict(attribution.fit, attribution.reach, done, clock_mhz), str)


def test_what_is_not_refused_is_right(
    servers: dict[int, tuple[Attribution, np.ndarray, float, float | None]],
) -> None:
    told = 0
    for attribution, *_ in servers.values():
        for _, done, above_j, clock_mhz in servers.values():
            found = predict(attribution.fit, attribution.reach, done, clock_mhz)
            if isinstance(found, Prediction):
                told += 1
                assert found.value_j == pytest.approx(above_j, rel=0.02)
    assert told >= len(servers)
