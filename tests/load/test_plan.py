from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wattcount.load.plan import LoadPlan


def plan(count: int, tokens: int, seed: int = 5) -> LoadPlan:
    return LoadPlan(
        np.zeros(count, np.int64), np.full(count, tokens, np.int32), np.ones(count, np.int32), True, seed
    )


@given(vocab=st.integers(2, 200_000), index=st.integers(0, 9), tokens=st.integers(1, 300))
def test_token_ids_fit_length_and_vocabulary(vocab: int, index: int, tokens: int) -> None:
    ids = plan(10, tokens).token_ids(index, vocab)
    assert len(ids) == tokens
    assert all(0 < token < vocab for token in ids)
    assert all(type(token) is int for token in ids)


def test_prompts_share_no_prefix_and_do_not_depend_on_order() -> None:
    load = plan(200, 64)
    prompts = [tuple(load.token_ids(i, 32_000)) for i in range(200)]
    assert len({prompt[:2] for prompt in prompts}) == 200
    assert tuple(load.token_ids(7, 32_000)) == prompts[7]
    assert tuple(plan(200, 64, seed=6).token_ids(7, 32_000)) != prompts[7]


def test_control_tokens_are_left_out() -> None:
    assert min(plan(1, 50_000).token_ids(0, 32_000)) >= 256
