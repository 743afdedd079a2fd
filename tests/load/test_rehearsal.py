from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.config.schema import BatchConfig, LengthConfig, LengthKind, ServerConfig
from wattcount.errors import NotStartedError
from wattcount.load import LoadPlan, build_plan
from wattcount.load.rehearsal import (
    SHORT_INPUT_TOKENS,
    STALL_MIN_S,
    VARIATION_GROUPS,
    Rehearsal,
    rehearsal,
    stalled,
    variation,
)


def load(requests: int = 512, input_tokens: int = 512, output_tokens: int = 256) -> LoadPlan:
    lengths = LengthConfig(input_tokens=input_tokens, output_tokens=output_tokens)
    return build_plan(BatchConfig(num_requests=requests, lengths=lengths), 0, 0).main


def steps(asked: Rehearsal, max_batched_tokens: int) -> list[list[tuple[int, int]]]:
    """For each group, the prefilled and the decoded tokens of each step of an engine that prefills in order, as much as
    a step holds, and that finds all prompts of a group but the first in its second step."""
    plan, begins = asked.plan, (0, *asked.begins)
    groups = []
    for begin, end in pairwise((*begins, len(plan))):
        left, due = plan.output_tokens[begin:end].tolist(), plan.input_tokens[begin:end].tolist()
        there = len(left) if begin == 0 else 1
        group = []
        while any(left):
            running = [index for index in range(there) if left[index] and not due[index]]
            budget, prefilled = max_batched_tokens - len(running), 0
            for index in running:
                left[index] -= 1
            for index in range(there):
                taken = min(budget - prefilled, due[index])
                prefilled += taken
                due[index] -= taken
                if taken and not due[index]:
                    left[index] -= 1
            group.append((prefilled, len(running)))
            there = len(left)
        groups.append(group)
    return groups


@pytest.mark.parametrize("requests", [1, 7, 64, 256, 1024])
def test_all_sizes_are_met_from_full_to_one(requests: int) -> None:
    asked = rehearsal(load(), requests, max_batched_tokens=2048, max_request_tokens=768)
    counts = [decoded for _, decoded in steps(asked, 2048)[0]]
    falling = counts[counts.index(max(counts)) :]
    assert max(counts) >= 0.85 * requests - 1
    assert all(after >= 0.8 * before - 16 for before, after in pairwise(falling))
    assert set(range(1, min(requests, 33))) <= set(counts)
    assert len(counts) < 100


@pytest.mark.parametrize(
    ("requests", "input_tokens", "limit", "batched"),
    [(128, 256, 512, 2048), (256, 512, 1024, 8192), (128, 3000, 4096, 2048), (24, 512, 1024, 8192)],
)
def test_a_kernel_that_is_compiled_by_the_tokens_of_a_step_is_met_before_the_load(
    requests: int, input_tokens: int, limit: int, batched: int
) -> None:
    """Fused MoE: a configuration for a number of tokens near its key, and another kernel where 16 divides tokens x top-k."""
    asked = rehearsal(
        load(requests, input_tokens), requests, max_batched_tokens=batched, max_request_tokens=limit
    )
    keys = np.array([1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024, 1536, 2048, 3072, 4096])

    def kernels(tokens: set[int], top_k: int) -> set[tuple[int, bool]]:
        return {
            (int(keys[np.abs(keys - number).argmin()]), number * top_k % 16 == 0)
            for number in tokens
            if number
        }

    met = {prefilled + decoded for group in steps(asked, batched) for prefilled, decoded in group}
    most = min(batched, requests * (input_tokens + 1))
    for top_k in (1, 2, 4, 8):
        missing = kernels(set(range(1, most + 1)), top_k) - kernels(met, top_k)
        assert not missing, (top_k, missing)


def test_a_rung_is_one_prefill_behind_a_request_that_decodes() -> None:
    asked = rehearsal(load(), 128, max_batched_tokens=2048, max_request_tokens=768)
    rungs = steps(asked, 2048)[1:]
    totals = [prefilled + decoded for (_, (prefilled, decoded), *_) in rungs]
    assert totals[:4] == [2048, 2047, 1536, 1535]
    assert all(group[0] == (1, 0) and group[1][1] == 1 for group in rungs)
    assert totals == sorted(totals, reverse=True)
    assert min(totals) >= 128 - 16


def test_the_load_s_longest_prompts_fill_the_prefill_steps() -> None:
    lengths = LengthConfig(kind=LengthKind.lognormal, input_tokens=400, output_tokens=100)
    main = build_plan(BatchConfig(num_requests=300, lengths=lengths), 0, 0).main
    asked = rehearsal(main, 128, max_batched_tokens=2048, max_request_tokens=8192)
    inputs, outputs = asked.plan.input_tokens[:128], asked.plan.output_tokens[:128]
    own = inputs[inputs > SHORT_INPUT_TOKENS]
    assert 2 * 2048 <= own.sum() < 2 * 2048 + main.input_tokens.max()
    assert asked.plan.input_tokens.max() == main.input_tokens.max()
    assert outputs[-1] <= outputs[0]


def test_no_step_is_rehearsed_that_the_load_cannot_fill() -> None:
    asked = rehearsal(load(2, 100), 2, max_batched_tokens=8192, max_request_tokens=768)
    assert asked.begins
    assert max(prefilled + decoded for group in steps(asked, 8192) for prefilled, decoded in group) <= 201


@given(
    requests=st.integers(1, 1100),
    input_tokens=st.integers(1, 4000),
    output_tokens=st.integers(1, 50),
    batched=st.integers(16, 16384),
)
def test_no_request_is_longer_than_the_engine_takes(
    requests: int, input_tokens: int, output_tokens: int, batched: int
) -> None:
    limit = input_tokens + output_tokens
    asked = rehearsal(
        load(3, input_tokens, output_tokens), requests, max_batched_tokens=batched, max_request_tokens=limit
    )
    plan = asked.plan
    assert asked.begins == () or requests == asked.begins[0]
    assert list(asked.begins) == sorted(set(asked.begins))
    assert (plan.input_tokens >= 1).all()
    assert (plan.output_tokens >= 1).all()
    assert (plan.input_tokens + plan.output_tokens <= limit).all()


def test_its_prompts_are_nobody_else_s() -> None:
    main = load(8)
    plan = rehearsal(main, 8, max_batched_tokens=2048, max_request_tokens=768).plan
    assert plan.seed != main.seed
    ids = [plan.token_ids(index, 32_000)[:8] for index in range(8)] + [
        main.token_ids(index, 32_000)[:8] for index in range(8)
    ]
    assert len(np.unique(ids, axis=0)) == 16


def test_nothing_cannot_be_rehearsed() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rehearsal(load(), 0, max_batched_tokens=2048, max_request_tokens=768)


@pytest.mark.parametrize(
    "scenario", [BatchConfig(rehearsal_requests=-1), ServerConfig(rehearsal_requests=-1)]
)
def test_a_negative_number(scenario: BatchConfig | ServerConfig) -> None:
    with pytest.raises(NotStartedError, match=r"scenario\.rehearsal_requests must not be negative, got -1"):
        build_plan(scenario, 0, 0)


@given(
    requests=st.integers(1, 300),
    number=st.integers(0, 20),
    batched=st.integers(16, 8192),
    input_tokens=st.integers(1, 2000),
    limit=st.integers(2, 4096),
)
def test_a_variation_keeps_to_its_bounds(
    requests: int, number: int, batched: int, input_tokens: int, limit: int
) -> None:
    bounds = {"max_batched_tokens": max(batched, requests + 1), "max_request_tokens": limit}
    asked = variation(load(8, input_tokens), requests, number, **bounds)
    plan = asked.plan
    assert len(asked.groups) == VARIATION_GROUPS + 1
    for group in asked.groups:
        assert 1 <= group.stop - group.start <= requests
        assert plan.input_tokens[group].sum() <= bounds["max_batched_tokens"]
    assert plan.input_tokens.min() >= 1
    assert plan.output_tokens.min() >= 1
    assert (plan.input_tokens + plan.output_tokens).max() <= limit


def test_rounds_of_variations_differ_and_repeat() -> None:
    bounds = {"max_batched_tokens": 2048, "max_request_tokens": 768}
    first, again, second = (variation(load(), 128, number, **bounds) for number in (0, 0, 1))
    assert first.plan.input_tokens.tolist() == again.plan.input_tokens.tolist()
    assert first.plan.input_tokens.tolist() != second.plan.input_tokens.tolist()
    assert first.plan.seed != second.plan.seed


def test_variations_meet_sizes_of_all_kinds() -> None:
    found = set()
    for number in range(4):
        asked = variation(load(), 128, number, max_batched_tokens=2048, max_request_tokens=768)
        for group in asked.groups:
            tokens = int(asked.plan.input_tokens[group].sum())
            found.add((tokens > 512, tokens % 16 == 0, tokens % 4 == 0))
    assert {(True, False, True), (True, False, False), (False, True, True), (False, False, True)} <= found


def test_a_group_that_took_longer_than_larger_ones_stalled() -> None:
    tokens = np.array([2048, 16, 300, 1024, 8, 700])
    took_s = np.array([0.4, 0.1, 0.9, 0.3, np.nan, 0.35])
    assert stalled(tokens, took_s).tolist() == [False, False, True, False, False, False]


def test_the_largest_of_a_variation_comes_again() -> None:
    asked = variation(load(), 128, 3, max_batched_tokens=2048, max_request_tokens=768)
    *drawn, last = [asked.plan.input_tokens[group].tolist() for group in asked.groups]
    assert sum(last) == max(map(sum, drawn))
    assert last in drawn


def test_groups_that_all_stalled_are_told_by_the_largest_when_it_came_again() -> None:
    tokens, took_s = np.array([400, 300, 200, 100, 400]), np.array([1.0, 1.1, 1.0, 0.9, 0.1])
    assert stalled(tokens, took_s).tolist() == [True, True, True, True, False]


def test_a_group_that_is_no_more_late_than_a_busy_host_makes_it_did_not() -> None:
    tokens = np.array([100, 50])
    assert not stalled(tokens, np.array([0.1, 0.1 + 0.9 * STALL_MIN_S])).any()
    assert stalled(tokens, np.array([0.1, 0.1 + 1.1 * STALL_MIN_S])).tolist() == [False, True]


def test_slow_steps_are_late_only_by_as_much_again() -> None:
    tokens = np.array([100, 50])
    assert not stalled(tokens, np.array([2.0, 3.9])).any()
    assert stalled(tokens, np.array([2.0, 4.1])).tolist() == [False, True]


def test_a_variation_of_nobody() -> None:
    with pytest.raises(ValueError, match="at least one request"):
        variation(load(), 0, 0, max_batched_tokens=2048, max_request_tokens=768)
