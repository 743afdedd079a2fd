from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.config.schema import BatchConfig, LengthConfig, LengthKind, ServerConfig
from wattcount.errors import NotStartedError
from wattcount.load import LoadPlan, build_plan
from wattcount.load.rehearsal import SHORT_INPUT_TOKENS, rehearsal_plan


def load(requests: int = 512, input_tokens: int = 512, output_tokens: int = 256) -> LoadPlan:
    lengths = LengthConfig(input_tokens=input_tokens, output_tokens=output_tokens)
    return build_plan(BatchConfig(num_requests=requests, lengths=lengths), 0, 0).main


def running(plan: LoadPlan, max_batched_tokens: int) -> list[int]:
    """How many run after each step of an engine that prefills in order, as much as a step holds, and decodes."""
    left, to_prefill = plan.output_tokens.tolist(), plan.input_tokens.tolist()
    counts = []
    while any(left):
        budget = max_batched_tokens
        for index in range(len(plan)):
            taken = min(budget, to_prefill[index])
            to_prefill[index] -= taken
            budget -= taken
            if not to_prefill[index] and left[index]:
                left[index] -= 1
        counts.append(sum(tokens > 0 and not due for tokens, due in zip(left, to_prefill, strict=True)))
    return counts


@pytest.mark.parametrize("requests", [1, 7, 64, 256, 1024])
def test_all_sizes_are_met_from_full_to_one(requests: int) -> None:
    plan = rehearsal_plan(load(), requests, max_batched_tokens=2048, max_request_tokens=768)
    counts = running(plan, 2048)
    falling = counts[counts.index(max(counts)) :]
    assert max(counts) >= 0.85 * requests - 1
    assert all(after >= 0.6 * before - 1 for before, after in pairwise(falling))
    assert set(range(1, min(requests, 9))) <= set(counts)
    assert len(counts) < 80


def test_the_load_s_longest_prompts_fill_the_prefill_steps() -> None:
    lengths = LengthConfig(kind=LengthKind.lognormal, input_tokens=400, output_tokens=100)
    main = build_plan(BatchConfig(num_requests=300, lengths=lengths), 0, 0).main
    plan = rehearsal_plan(main, 128, max_batched_tokens=2048, max_request_tokens=8192)
    own = plan.input_tokens[plan.input_tokens > SHORT_INPUT_TOKENS]
    assert 2 * 2048 <= own.sum() < 2 * 2048 + main.input_tokens.max()
    assert plan.input_tokens.max() == main.input_tokens.max()
    assert plan.output_tokens[-1] <= plan.output_tokens[0]


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
    plan = rehearsal_plan(
        load(3, input_tokens, output_tokens), requests, max_batched_tokens=batched, max_request_tokens=limit
    )
    assert len(plan) == requests
    assert (plan.input_tokens >= 1).all()
    assert (plan.output_tokens >= 1).all()
    assert (plan.input_tokens + plan.output_tokens <= limit).all()


def test_its_prompts_are_nobody_else_s() -> None:
    main = load(8)
    plan = rehearsal_plan(main, 8, max_batched_tokens=2048, max_request_tokens=768)
    assert plan.seed != main.seed
    ids = [plan.token_ids(index, 32_000)[:8] for index in range(8)] + [
        main.token_ids(index, 32_000)[:8] for index in range(8)
    ]
    assert len(np.unique(ids, axis=0)) == 16


def test_nothing_cannot_be_rehearsed() -> None:
    with pytest.raises(ValueError, match="at least one"):
        rehearsal_plan(load(), 0, max_batched_tokens=2048, max_request_tokens=768)


@pytest.mark.parametrize(
    "scenario", [BatchConfig(rehearsal_requests=-1), ServerConfig(rehearsal_requests=-1)]
)
def test_a_negative_number(scenario: BatchConfig | ServerConfig) -> None:
    with pytest.raises(NotStartedError, match=r"scenario\.rehearsal_requests must not be negative, got -1"):
        build_plan(scenario, 0, 0)
