"""What a rehearsal plays: the beginning of the run's own load."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wattcount.config.schema import BatchConfig, LengthConfig, LengthKind, SamplingConfig, ServerConfig
from wattcount.errors import NotStartedError
from wattcount.load import build_plan
from wattcount.load.rehearsal import beginning

DRAWN = LengthConfig(kind=LengthKind.lognormal, input_tokens=300, output_tokens=100)
VOCAB = 1000


def test_a_batch_is_played_with_its_own_lengths_all_at_once() -> None:
    main = build_plan(BatchConfig(num_requests=40, lengths=DRAWN), 0, 0).main
    played = beginning(main, 0, 25)
    assert len(played) == 25
    assert not played.send_offset_ns.any()
    assert played.input_tokens.tolist() == main.input_tokens[:25].tolist()
    assert played.output_tokens.tolist() == main.output_tokens[:25].tolist()
    assert len(beginning(main, 0, 1000)) == 40


def test_a_server_is_played_from_the_begin_of_its_window_with_its_own_arrivals() -> None:
    built = build_plan(ServerConfig(rate_rps=20.0, warmup_s=5.0, window_s=30.0, lengths=DRAWN), 0, 0)
    begin_ns = built.window_start_offset_ns
    played = beginning(built.main, 0, 10_000, begin_ns=begin_ns, end_ns=begin_ns + 8_000_000_000)
    offsets = built.main.send_offset_ns
    own = np.flatnonzero((offsets >= begin_ns) & (offsets < begin_ns + 8_000_000_000))
    assert len(played) == len(own) > 100
    assert np.diff(played.send_offset_ns).tolist() == np.diff(offsets[own]).tolist()
    assert played.send_offset_ns[0] == 0
    assert played.input_tokens.tolist() == built.main.input_tokens[own].tolist()


def test_where_nothing_comes_so_early_the_load_s_own_beginning_is_played() -> None:
    main = build_plan(ServerConfig(rate_rps=0.2, warmup_s=1.0, window_s=60.0), 0, 0).main
    last_ns = int(main.send_offset_ns[-1])
    assert len(beginning(main, 0, 3, begin_ns=last_ns + 1, end_ns=last_ns + 2)) == 3


def test_no_round_has_a_prompt_of_another_or_of_the_load() -> None:
    """A prefix cache would spare the engine what is to be rehearsed, and what is to be measured."""
    main = build_plan(BatchConfig(num_requests=5, lengths=DRAWN), 0, 0).main
    plans = [main, *(beginning(main, number, 5) for number in range(4))]
    prompts = [tuple(plan.token_ids(index, VOCAB)[:16]) for plan in plans for index in range(5)]
    assert len(set(prompts)) == len(prompts)
    again = beginning(main, 2, 5)
    assert again.token_ids(3, VOCAB) == plans[3].token_ids(3, VOCAB)


def test_real_prompts_are_played_by_their_lengths_alone(tmp_path: Any) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt_token_ids": [1, 2, 3], "output_tokens": 4}\n' * 3)
    lengths = LengthConfig(kind=LengthKind.prompts, path=str(file))
    main = build_plan(BatchConfig(num_requests=3, lengths=lengths), 0, 0).main
    played = beginning(main, 0, 3)
    assert main.prompt_token_ids is not None
    assert played.prompt_token_ids is None
    assert played.input_tokens.tolist() == [3, 3, 3]


def test_tokens_are_drawn_and_end_as_those_of_the_load() -> None:
    lengths = LengthConfig(force_output=False)
    scenario = BatchConfig(num_requests=3, lengths=lengths, sampling=SamplingConfig(temperature=0.0))
    main = build_plan(scenario, 0, 0).main
    played = beginning(main, 0, 3)
    assert played.sampling is main.sampling
    assert not played.force_output_length


def test_nothing_cannot_be_rehearsed() -> None:
    with pytest.raises(ValueError, match="at least one request, got 0"):
        beginning(build_plan(BatchConfig(), 0, 0).main, 0, 0)


@pytest.mark.parametrize(
    "scenario", [BatchConfig(rehearsal_requests=-1), ServerConfig(rehearsal_requests=-1)]
)
def test_a_negative_number_is_refused(scenario: Any) -> None:
    with pytest.raises(NotStartedError, match=r"scenario\.rehearsal_requests: must be at least 0, not -1"):
        build_plan(scenario, 0, 0)
