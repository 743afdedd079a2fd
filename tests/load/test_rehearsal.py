from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.config.schema import BatchConfig, LengthConfig, LengthKind, ServerConfig
from wattcount.errors import NotStartedError
from wattcount.load import LoadPlan, build_plan
from wattcount.load.rehearsal import (
    BLOCK,
    SHORT_INPUT_TOKENS,
    STALL_MIN_S,
    VARIATION_GROUPS,
    Rehearsal,
    blocks,
    rehearsal,
    stalled,
    variation,
)


def load(requests: int = 512, input_tokens: int = 512, output_tokens: int = 256) -> LoadPlan:
    lengths = LengthConfig(input_tokens=input_tokens, output_tokens=output_tokens)
    return build_plan(BatchConfig(num_requests=requests, lengths=lengths), 0, 0).main


def steps(asked: Rehearsal, max_batched_tokens: int) -> list[list[tuple[int, int]]]:
    """For each group, the prefilled and the decoded tokens of each step of an engine that prefills in order, as much as
    a step holds, and that finds a group's other prompts in the second step after those they join have got a token."""
    plan, begins = asked.plan, (0, *asked.begins)
    groups = []
    for begin, end in pairwise((*begins, len(plan))):
        left, due = plan.output_tokens[begin:end].tolist(), plan.input_tokens[begin:end].tolist()
        openers = next((join - begin for join in asked.joins if begin <= join < end), 0)
        there, group = openers or len(left), []
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
            if len(group) == 2:
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
    totals = [prefilled + decoded for (_, _, (prefilled, decoded), *_) in rungs]
    assert totals[:4] == [2048, 2047, 1536, 1535]
    assert all(group[:2] == [(1, 0), (0, 1)] and group[2][1] == 1 for group in rungs)
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


BOUNDS = {"max_batched_tokens": 2048, "max_request_tokens": 768}


def sizes(asked: Rehearsal) -> list[int]:
    """Tokens of each group's prompts: those of the step that finds them all, with the decodes it finds them behind."""
    return [int(asked.plan.input_tokens[group].sum()) for group in asked.groups]


@given(
    requests=st.integers(1, 300),
    number=st.integers(0, 20),
    batched=st.integers(16, 8192),
    input_tokens=st.integers(1, 2000),
    limit=st.integers(2, 4096),
)
def test_variations_and_blocks_keep_to_their_bounds(
    requests: int, number: int, batched: int, input_tokens: int, limit: int
) -> None:
    bounds = {"max_batched_tokens": max(batched, requests + 1), "max_request_tokens": limit}
    varied = variation(load(8, input_tokens), requests, number, **bounds)
    assert len(varied.groups) == 2 * VARIATION_GROUPS
    for asked in (varied, blocks(load(8, input_tokens), requests, **bounds)):
        for group in asked.groups:
            assert 1 <= group.stop - group.start <= requests
        assert max(sizes(asked)) <= bounds["max_batched_tokens"]
        assert asked.plan.input_tokens.min() >= 1
        assert asked.plan.output_tokens.min() >= 1
        assert (asked.plan.input_tokens + asked.plan.output_tokens).max() <= limit


@pytest.mark.parametrize(
    ("requests", "input_tokens", "batched"), [(128, 512, 2048), (2, 100, 2048), (1, 100, 8192), (64, 16, 512)]
)
def test_each_number_of_blocks_that_a_step_may_have_is_met(
    requests: int, input_tokens: int, batched: int
) -> None:
    asked = blocks(load(2, input_tokens), requests, max_batched_tokens=batched, max_request_tokens=768)
    most = min(batched, input_tokens if requests == 1 else (requests - 1) * input_tokens + 1)
    met = [-(-tokens // BLOCK) for tokens in sizes(asked)]
    assert met == list(range(1, -(-most // BLOCK) + 1))
    at_once = {tokens for group in steps(asked, batched) for tokens in map(sum, group)}
    assert set(met) <= {-(-tokens // BLOCK) for tokens in at_once}


def test_the_steps_of_a_variation_have_the_sizes_that_were_drawn() -> None:
    asked = variation(load(), 128, 3, **BOUNDS)
    assert len(asked.joins) == len(asked.groups)
    found = [max(prefilled + decoded for prefilled, decoded in group) for group in steps(asked, 2048)]
    assert found == sizes(asked)


def test_replicas_share_a_block() -> None:
    alone, shared = (blocks(load(), 64, **BOUNDS, replicas=replicas) for replicas in (1, 2))
    assert sizes(shared)[:3] == [63, 127, 191]
    assert len(shared.groups) == len(alone.groups) / 2


def test_rounds_of_variations_differ_and_repeat() -> None:
    first, again, second = (variation(load(), 128, number, **BOUNDS) for number in (0, 0, 1))
    assert first.plan.input_tokens.tolist() == again.plan.input_tokens.tolist()
    assert first.plan.input_tokens.tolist() != second.plan.input_tokens.tolist()
    seeds = {asked.plan.seed for asked in (first, second, blocks(load(), 128, **BOUNDS))}
    assert len(seeds | {rehearsal(load(), 128, **BOUNDS).plan.seed}) == 4


def test_variations_meet_sizes_of_all_kinds() -> None:
    found = {
        (tokens > 512, tokens % 16 == 0, tokens % 4 == 0)
        for number in range(4)
        for tokens in sizes(variation(load(), 128, number, **BOUNDS))
    }
    assert {(True, False, True), (True, False, False), (False, True, True), (False, False, True)} <= found


def test_each_prefill_of_a_variation_is_sent_twice() -> None:
    asked = variation(load(), 128, 3, **BOUNDS)
    groups = [asked.plan.input_tokens[group].tolist() for group in asked.groups]
    assert groups[::2] == groups[1::2]
    assert len(set(map(tuple, groups))) > VARIATION_GROUPS / 2


def test_a_prefill_that_took_longer_than_the_same_again_stood_still() -> None:
    took_s = np.array([1.4, 0.3, 0.3, 0.3, 0.4, 1.5, np.nan, 0.2])
    assert stalled(took_s).tolist() == [True, False, True, False]


def test_a_prefill_that_is_no_more_late_than_a_busy_host_makes_it_did_not() -> None:
    assert stalled(np.array([0.1 + 0.9 * STALL_MIN_S, 0.1])).tolist() == [False]
    assert stalled(np.array([0.1 + 1.1 * STALL_MIN_S, 0.1])).tolist() == [True]


def test_a_slow_prefill_is_late_only_by_a_quarter() -> None:
    assert stalled(np.array([2.0, 2.4, 2.6, 2.0])).tolist() == [False, True]


@pytest.mark.parametrize("make", [blocks, lambda *load, **bounds: variation(*load, 0, **bounds)])
def test_a_variation_of_nobody(make: Any) -> None:
    with pytest.raises(ValueError, match="at least one request"):
        make(load(), 0, **BOUNDS)
