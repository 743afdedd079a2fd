"""Schedules of few requests, computed by hand; what must hold of every schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from wattcount.prediction.steps import StepBatch
from wattcount.simulation.scheduler import Limits, Load, Played, play


@dataclass
class Model:
    """A decode step takes 1 s, each prompt token 0.1 s more; 100 W idle, 200 W and 10 W a sequence in a step."""

    idle_w: float = 100.0
    kv_capacity_tokens: int = 10**6
    context_s: float = 0.0

    def step_time_s(self, batch: StepBatch) -> float:
        return 1.0 + 0.1 * batch.prefill_tokens + self.context_s * batch.decode_context_tokens

    def step_power_w(self, batch: StepBatch) -> float:
        return 200.0 + 10.0 * batch.decode_sequences


SYNC = Limits(asynchronous=False)


def load(*requests: tuple[float, int, int]) -> Load:
    columns = np.array(requests, dtype=float).reshape(-1, 3).T
    return Load(columns[0], columns[1].astype(np.int64), columns[2].astype(np.int64))


def random_load(seed: int, requests: int = 200, rate: float = 30.0) -> Load:
    random = np.random.default_rng(seed)
    arrivals = np.cumsum(random.exponential(1 / rate, requests))
    return Load(arrivals, random.integers(1, 900, requests), random.integers(1, 200, requests))


def test_one_request_is_prefilled_and_then_decoded_a_token_a_step() -> None:
    played = play(load((5.0, 10, 3)), SYNC, Model())
    # Prefill 5 to 7 emits the first token; two decode steps follow.
    assert played.first_s.tolist() == [7.0]
    assert played.last_s.tolist() == [9.0]
    assert played.steps.prefill_tokens.tolist() == [10, 0, 0]
    assert played.steps.emitted.tolist() == [1, 1, 1]


def test_energy_is_that_of_the_steps_and_idle_power_between_them() -> None:
    played = play(load((5.0, 10, 3)), SYNC, Model())
    # 5 s idle, 2 s at 200 W, 2 s at 210 W, 1 s idle; then a part of it.
    assert played.energy_j(0.0, 10.0) == pytest.approx(500 + 400 + 420 + 100)
    assert played.energy_j(6.0, 7.5) == pytest.approx(200 + 105)


def test_who_comes_during_a_step_joins_the_next_one() -> None:
    played = play(load((0.0, 10, 5), (2.5, 10, 2)), SYNC, Model())
    # Steps: 0-2 prefill, 2-3 decode, 3-5 prefill of the second beside decode, 5-6 both decode.
    assert played.scheduled_s.tolist() == [0.0, 3.0]
    assert played.first_s.tolist() == [2.0, 5.0]
    assert played.last_s.tolist() == [7.0, 6.0]


def test_asynchronous_scheduling_composes_a_step_while_another_runs() -> None:
    played = play(load((0.0, 10, 5), (2.5, 10, 2)), Limits(), Model())
    # The step of 3 to 4 was composed at 2: the second request waits for that of 4 to 6.
    assert played.scheduled_s.tolist() == [0.0, 4.0]
    assert played.first_s.tolist() == [2.0, 6.0]
    assert played.last_s.tolist() == [7.0, 7.0]


def test_a_long_prompt_is_computed_in_pieces_of_the_budget() -> None:
    limits = replace(SYNC, max_num_batched_tokens=20, max_num_seqs=4)
    played = play(load((0.0, 50, 1)), limits, Model())
    assert played.steps.prefill_tokens.tolist() == [20, 20, 10]
    assert played.first_s.tolist() == [8.0]


def test_decoding_goes_before_prompts_within_the_budget() -> None:
    limits = replace(SYNC, max_num_batched_tokens=10, max_num_seqs=4)
    played = play(load((0.0, 5, 9), (0.0, 10, 1)), limits, Model())
    # The first step has both prompts as far as they fit, the second one decodes and computes the rest.
    assert played.steps.prefill_tokens[:2].tolist() == [10, 5]
    assert played.steps.decode_sequences[:2].tolist() == [0, 1]


def test_no_more_run_than_may() -> None:
    played = play(random_load(1), replace(SYNC, max_num_seqs=8), Model())
    assert played.steps.running.max() == 8
    assert not np.isnan(played.last_s).any()


def test_the_last_that_came_is_preempted_where_blocks_are_short_and_computes_all_again() -> None:
    limits = Limits(asynchronous=False, block_size=4, kv_blocks=4, max_num_seqs=4)
    # Prompts of 8 take two blocks each. The ninth token of the first needs one more: the second has to go.
    played = play(load((0.0, 8, 5), (0.0, 8, 5)), limits, Model())
    assert played.preemptions.tolist() == [0, 1]
    # 0 to 2.6 both prompts, then 4 steps of the first alone; then prompt and one token of the second again.
    assert played.first_s.tolist() == pytest.approx([2.6, 2.6])
    assert played.last_s[0] == pytest.approx(6.6)
    assert played.steps.prefill_tokens.tolist() == [16, 0, 0, 0, 0, 9, 0, 0, 0]
    assert played.steps.emitted.sum() == 10


def test_what_never_fits_is_refused_and_the_rest_served() -> None:
    limits = Limits(block_size=4, kv_blocks=4)
    played = play(load((0.0, 40, 5), (0.0, 8, 5)), limits, Model())
    assert played.refused == (0,)
    assert math.isnan(played.last_s[0])
    assert not math.isnan(played.last_s[1])


def test_launching_delays_the_tokens_of_the_step_before() -> None:
    # Each step with prefill takes 3 s to launch and can have ended 3.5 s after it was composed.
    played = play(load((0.0, 10, 6), (2.1, 10, 1)), Limits(), Model(), launches=lambda _: (3.0, 3.5))
    steps = played.steps
    # The first step is launched until 3 and ends at 3.5; the second prompt is in the step composed at 3.
    assert steps.end_s[0] == pytest.approx(3.5)
    assert steps.prefill_tokens[1] == 10
    # It ends 3.5 s after that, and until 6 nobody hears the first token of the first request.
    assert steps.end_s[1] == pytest.approx(6.5)
    assert played.first_s.tolist() == pytest.approx([6.0, 6.5])
    # While the GPU waits for kernels it draws idle power.
    assert steps.power_w[0] == pytest.approx((2.0 * 200 + 1.5 * 100) / 3.5)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("blocks", [None, 400, 120])
@pytest.mark.parametrize("budget", [8192, 256])
def test_all_tokens_are_served_and_no_block_is_lost(
    asynchronous: bool, blocks: int | None, budget: int
) -> None:
    limits = Limits(
        max_num_seqs=64, max_num_batched_tokens=budget, kv_blocks=blocks, asynchronous=asynchronous
    )
    work = random_load(3)
    played = play(work, limits, Model(context_s=1e-6))
    assert played.refused == ()
    assert played.steps.emitted.sum() == work.output_tokens.sum()
    assert not np.isnan(played.last_s).any()
    again = played.steps.prefill_tokens.sum() - work.input_tokens.sum()
    assert again > 0 if played.preemptions.any() else again == 0
    assert (played.steps.kv_blocks >= 0).all()
    if blocks is not None:
        assert played.steps.kv_blocks.max() <= blocks
        assert played.preemptions.any()
    assert (played.first_s <= played.last_s).all()
    assert (played.first_s > work.arrival_s).all()
    assert (np.diff(played.steps.end_s) > 0).all()
    assert (played.steps.start_s[1:] >= played.steps.end_s[:-1] - 1e-9).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("blocks", [None, 150])
def test_stretches_of_steps_give_the_same_times(seed: int, asynchronous: bool, blocks: int | None) -> None:
    limits = Limits(max_num_seqs=32, max_num_batched_tokens=2048, kv_blocks=blocks, asynchronous=asynchronous)
    work = random_load(seed, rate=0.02)
    alone, jumped = (play(work, limits, Model(context_s=1e-5), jump=jump) for jump in (False, True))
    assert len(jumped.steps) < len(alone.steps)
    assert jumped.steps.count.sum() == len(alone.steps)
    for name in ("scheduled_s", "first_s", "last_s"):
        np.testing.assert_allclose(getattr(jumped, name), getattr(alone, name), rtol=1e-9)
    end_s = float(alone.last_s.max()) + 1.0
    assert jumped.energy_j(0, end_s) == pytest.approx(alone.energy_j(0, end_s))
    assert jumped.steps.emitted_between(0, end_s) == pytest.approx(alone.steps.emitted_between(0, end_s))


def test_an_engine_can_be_stopped() -> None:
    played: Played = play(random_load(2), Limits(), Model(), until_s=20.0)
    # The last step was composed by then, and begins when the one before it ends.
    assert played.steps.start_s[-2] <= 20.0
    assert np.isnan(played.last_s).any()


def test_nothing_comes_of_no_request() -> None:
    played = play(load(), Limits(), Model())
    assert len(played.steps) == 0
    assert played.energy_j(0.0, 10.0) == pytest.approx(1000.0)


@pytest.mark.parametrize("requests", [((1.0, 5, 5), (0.5, 5, 5)), ((0.0, 0, 1),), ((0.0, 1, 0),)])
def test_a_load_that_makes_no_sense_is_refused(requests: tuple[tuple[float, int, int], ...]) -> None:
    with pytest.raises(ValueError, match=r"arrival|token"):
        load(*requests)


def test_a_step_must_hold_a_token_of_each_request() -> None:
    with pytest.raises(ValueError, match="batched tokens"):
        Limits(max_num_seqs=100, max_num_batched_tokens=50)
