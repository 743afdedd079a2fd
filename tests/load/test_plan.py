from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.load.plan import LoadPlan, Stream, derived_seed, stream, workload_seed


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


GOLDEN_SEED = 6569863346532939966
GOLDEN_GAPS = [0.7159985017083644, 0.21468961805168332, 0.48451486939390553]
GOLDEN_INTEGERS = [128, 967, 320, 71]


@given(st.integers(0, 2**31), st.integers(0, 1000))
def test_workload_seed_fits_63_bits_and_is_a_function(seed: int, repeat: int) -> None:
    assert 0 <= workload_seed(seed, repeat) < 2**63
    assert workload_seed(seed, repeat) == workload_seed(seed, repeat)


def test_workload_seeds_differ() -> None:
    seeds = {workload_seed(seed, repeat) for seed in range(40) for repeat in range(40)}
    assert len(seeds) == 1600


def test_workload_of_published_records_stays_what_it_is() -> None:
    """Golden values: a change here changes the load of every seed, and results no longer compare."""
    assert workload_seed(0, 0) == GOLDEN_SEED
    assert stream(GOLDEN_SEED, Stream.ARRIVALS).standard_exponential(3).tolist() == pytest.approx(
        GOLDEN_GAPS, rel=1e-12
    )
    assert stream(GOLDEN_SEED, Stream.OUTPUT_LENGTHS).integers(0, 1000, 4).tolist() == GOLDEN_INTEGERS


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        workload_seed(-1, 0)
    with pytest.raises(ValueError, match="must not be negative"):
        workload_seed(0, -1)


def test_streams_are_independent() -> None:
    drawn = np.array([stream(7, purpose).standard_normal(20_000) for purpose in Stream])
    correlation = np.corrcoef(drawn) - np.eye(len(drawn))
    # 5 standard errors of a correlation of independent draws.
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


def test_derived_seed_is_another_one() -> None:
    assert derived_seed(7, Stream.WARMUP) != 7
    assert derived_seed(7, Stream.WARMUP) != derived_seed(8, Stream.WARMUP)
    assert 0 <= derived_seed(7, Stream.WARMUP) < 2**63
