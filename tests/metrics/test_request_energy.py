"""Energy of each request: shares that can be reckoned by hand, and of an engine whose steps draw a known energy."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from synthetic_steps import SimulatedEngine, ns, requests

from wattcount.metrics.least_squares import fit
from wattcount.metrics.phase_energy import Attribution, attribute
from wattcount.metrics.request_energy import divide_among_requests
from wattcount.metrics.transfer import Reach


def split(
    edges_s: list[float],
    idle_j: list[float],
    prefill_j: list[float],
    decode_j: list[float],
    context_j: list[float] | None = None,
) -> Attribution:
    return Attribution(
        idle_j=sum(idle_j),
        prefill_j=sum(prefill_j),
        decode_j=sum(decode_j),
        prefill_j_u95=0.0,
        decode_j_u95=0.0,
        prefill_tokens=0.0,
        decode_tokens=0.0,
        coefficients={},
        condition_number=1.0,
        r_squared=None,
        residual_share=0.0,
        lag_ns=0,
        edges_ns=ns(*edges_s),
        idle_split_j=np.array(idle_j),
        prefill_split_j=np.array(prefill_j),
        decode_split_j=np.array(decode_j),
        context_split_j=np.array(context_j if context_j is not None else [0.0] * len(decode_j)),
        fit=fit(np.ones((2, 4)), np.ones(2), (0,)),
        reach=Reach.of(np.ones((2, 4)), ()),
    )


def test_each_request_pays_for_its_tokens_and_its_share_of_idle() -> None:
    # Seconds 0-4. A: scheduled at 1, prefill until 2, a token at 3. B: scheduled at 1, prefill until 2, tokens at 3 and 4.
    found = split([0, 1, 2, 3, 4], [10, 10, 10, 10], [0, 90, 0, 0], [0, 0, 8, 6])
    divided = divide_among_requests(found, requests((1, 200, [2, 3]), (1, 100, [2, 3, 4])))
    assert divided.prefill_j == pytest.approx([60, 30])
    assert divided.decode_j == pytest.approx([4, 4 + 6])
    assert divided.idle_j == pytest.approx([10, 10 + 10])
    assert divided.unattributed_j == pytest.approx(10)  # the first second: nobody was there
    assert divided.whole.tolist() == [True, True]


def test_prompt_tokens_from_the_cache_cost_nothing() -> None:
    found = split([0, 1], [0], [90], [0])
    cached = np.array([400, 0], np.int64)
    divided = divide_among_requests(found, requests((0, 500, [1]), (0, 800, [1]), cached_tokens=cached))
    assert divided.prefill_j == pytest.approx([10, 80])


def test_what_lies_outside_the_window_is_not_paid_for() -> None:
    # From 1 s before the window to 1 s after it.
    found = split([10, 11, 12], [5, 5], [0, 0], [10, 10])
    divided = divide_among_requests(found, requests((8, 100, [9, 11, 13])))
    assert divided.total_j.sum() == pytest.approx(30)
    assert not divided.whole.any()


def test_requests_without_a_token_pay_nothing_and_leave_their_energy_over() -> None:
    found = split([0, 1], [5], [20], [0])
    divided = divide_among_requests(found, requests((0, 100, [])))
    assert divided.total_j.tolist() == [0]
    assert divided.unattributed_j == pytest.approx(25)


def test_no_requests_leave_everything_over() -> None:
    divided = divide_among_requests(split([0, 1], [5], [20], [7]), requests())
    assert divided.unattributed_j == pytest.approx(32)


def test_a_request_that_failed_is_not_whole_but_pays() -> None:
    found = split([0, 1, 2], [5, 5], [20, 0], [0, 10])
    divided = divide_among_requests(found, requests((0, 100, [1, 2]), completed=np.zeros(1, np.bool_)))
    assert divided.total_j == pytest.approx([40])
    assert not divided.whole.any()


def test_a_long_context_costs_its_request_more() -> None:
    simulated = SimulatedEngine(prompt=64, prompt_max=4096, context_token_j=2e-5, count=400).run()
    found = attribute(simulated.energy_at, simulated.window(), simulated.work(), simulated.idle_w)
    assert isinstance(found, Attribution), found
    divided = divide_among_requests(found, simulated.requests())
    by_tokens = divide_among_requests(
        dataclasses.replace(found, context_split_j=0 * found.context_split_j), simulated.requests()
    )
    truth = simulated.request_decode_j()[divided.whole]
    error, error_by_tokens = (
        float(np.sqrt(np.mean((each.decode_j[divided.whole] / truth - 1) ** 2)))
        for each in (divided, by_tokens)
    )
    assert error < 0.08
    assert error < 0.6 * error_by_tokens
