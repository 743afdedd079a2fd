from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.config.loader import changed
from wattcount.config.schema import (
    ArrivalConfig,
    ArrivalKind,
    BatchConfig,
    LengthConfig,
    LengthKind,
    SamplingConfig,
    ScenarioConfig,
    ServerConfig,
)
from wattcount.errors import NotStartedError
from wattcount.load.build import beginning, build_plan
from wattcount.load.plan import LoadPlan, workload_seed

VARIED = LengthConfig(kind=LengthKind.lognormal, input_tokens=200, output_tokens=50)


def assert_same(one: LoadPlan, other: LoadPlan) -> None:
    assert one.send_offset_ns.tolist() == other.send_offset_ns.tolist()
    assert one.input_tokens.tolist() == other.input_tokens.tolist()
    assert one.output_tokens.tolist() == other.output_tokens.tolist()
    assert one.seed == other.seed


def test_server_is_one_arrival_process_over_warmup_and_window() -> None:
    load = build_plan(ServerConfig(rate_rps=20.0, warmup_s=5.0, window_s=30.0, lengths=VARIED), 0, 0)
    offsets = load.main.send_offset_ns
    assert load.warmup is None
    assert load.window_start_offset_ns == 5_000_000_000
    assert load.end_offset_ns == 35_000_000_000
    assert offsets[-1] < load.end_offset_ns
    in_warmup = (offsets < load.window_start_offset_ns).sum()
    assert in_warmup == pytest.approx(100, abs=40)
    assert len(offsets) - in_warmup == pytest.approx(600, abs=100)


def test_warmup_does_not_change_what_arrives() -> None:
    one = build_plan(ServerConfig(rate_rps=20.0, warmup_s=5.0, window_s=30.0, lengths=VARIED), 3, 1)
    other = build_plan(ServerConfig(rate_rps=20.0, warmup_s=10.0, window_s=25.0, lengths=VARIED), 3, 1)
    assert_same(one.main, other.main)


ADAPTIVE = ServerConfig(rate_rps=20.0, warmup_s=5.0, warmup_limit_s=25.0, window_s=30.0, lengths=VARIED)


def test_more_warmup_is_of_a_seed_of_its_own_and_leaves_the_rest_as_it_is() -> None:
    fixed = build_plan(dataclasses.replace(ADAPTIVE, warmup_limit_s=5.0), 0, 0)
    load = build_plan(ADAPTIVE, 0, 0)
    assert fixed.more_warmup is None
    assert_same(load.main, fixed.main)
    more = load.more_warmup
    assert more is not None
    assert load.more_warmup_ns == 20_000_000_000
    assert len(more) == pytest.approx(400, abs=80)
    assert more.send_offset_ns[-1] < load.more_warmup_ns
    assert more.send_offset_ns[:5].tolist() != load.main.send_offset_ns[:5].tolist()
    assert more.token_ids(0, 1000)[:8] != load.main.token_ids(0, 1000)[:8]


def test_a_longer_limit_begins_with_the_same_requests() -> None:
    one, other = (
        build_plan(dataclasses.replace(ADAPTIVE, warmup_limit_s=s), 2, 1).more_warmup for s in (15, 60)
    )
    assert one is not None
    assert other is not None
    assert other.send_offset_ns[: len(one)].tolist() == one.send_offset_ns.tolist()
    assert other.output_tokens[: len(one)].tolist() == one.output_tokens.tolist()


@pytest.mark.parametrize(("warmup_s", "limit_s"), [(0.0, 60.0), (5.0, 5.0), (5.0, 0.0)])
def test_a_warmup_of_fixed_length(warmup_s: float, limit_s: float) -> None:
    load = build_plan(dataclasses.replace(ADAPTIVE, warmup_s=warmup_s, warmup_limit_s=limit_s), 0, 0)
    assert load.more_warmup is None
    assert load.more_warmup_ns == 0


def test_more_warmup_may_be_too_short_for_an_arrival() -> None:
    quiet = dataclasses.replace(ADAPTIVE, rate_rps=0.1, warmup_limit_s=5.1, window_s=100.0)
    more = build_plan(quiet, 0, 0).more_warmup
    assert more is not None
    assert len(more) == 0


def test_a_trace_begins_again_for_more_warmup(tmp_path: Path) -> None:
    rows = [f"2023-11-16 18:15:{second:02d}.0000000,{100 + second},10" for second in range(0, 60, 2)]
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n")
    scenario = ServerConfig(
        rate_rps=None,
        warmup_s=10.0,
        warmup_limit_s=600.0,
        window_s=30.0,
        arrivals=ArrivalConfig(kind=ArrivalKind.trace, path=str(path)),
        lengths=LengthConfig(kind=LengthKind.trace, path=str(path)),
    )
    load = build_plan(scenario, 0, 0)
    assert load.more_warmup is not None
    assert load.more_warmup_ns == 58_000_000_000
    assert load.more_warmup.send_offset_ns[:3].tolist() == [0, 2_000_000_000, 4_000_000_000]
    assert load.more_warmup.input_tokens[:3].tolist() == [100, 102, 104]


def test_batch_is_a_warmup_and_a_batch_all_at_once() -> None:
    load = build_plan(BatchConfig(num_requests=100, warmup_requests=7, lengths=VARIED), 0, 0)
    assert load.warmup is not None
    assert (len(load.main), len(load.warmup)) == (100, 7)
    assert not load.main.send_offset_ns.any()
    assert not load.warmup.send_offset_ns.any()
    assert (load.window_start_offset_ns, load.end_offset_ns) == (0, None)
    assert load.warmup.token_ids(0, 1000)[:8] != load.main.token_ids(0, 1000)[:8]


def test_batch_does_not_depend_on_its_warmup() -> None:
    with_warmup = build_plan(BatchConfig(num_requests=50, warmup_requests=7, lengths=VARIED), 0, 0)
    without = build_plan(BatchConfig(num_requests=50, warmup_requests=0, lengths=VARIED), 0, 0)
    assert without.warmup is None
    assert_same(with_warmup.main, without.main)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), repeat=st.integers(0, 20))
def test_a_load_is_a_function_of_seed_and_repeat(seed: int, repeat: int) -> None:
    scenario = ServerConfig(rate_rps=5.0, warmup_s=1.0, window_s=20.0, lengths=VARIED)
    load, again = build_plan(scenario, seed, repeat), build_plan(dataclasses.replace(scenario), seed, repeat)
    assert_same(load.main, again.main)
    assert load.main.token_ids(0, 500) == again.main.token_ids(0, 500)
    assert load.seed == workload_seed(seed, repeat)
    other = build_plan(scenario, seed, repeat + 1)
    assert load.main.send_offset_ns.tolist() != other.main.send_offset_ns.tolist()
    assert (load.main.input_tokens >= 1).all()
    assert (load.main.output_tokens >= 1).all()
    assert (np.diff(load.main.send_offset_ns) >= 0).all()


def test_another_rate_keeps_each_request_as_it_is() -> None:
    def load(rate: float) -> LoadPlan:
        return build_plan(ServerConfig(rate_rps=rate, warmup_s=0.0, window_s=30.0, lengths=VARIED), 0, 0).main

    slow, fast = load(2.0), load(8.0)
    count = len(slow)
    assert fast.input_tokens[:count].tolist() == slow.input_tokens.tolist()
    assert fast.output_tokens[:count].tolist() == slow.output_tokens.tolist()
    assert np.abs(fast.send_offset_ns[:count] * 4 - slow.send_offset_ns).max() <= 3
    assert fast.token_ids(3, 500) == slow.token_ids(3, 500)


def test_lengths_and_arrivals_do_not_shift_each_other() -> None:
    base = ServerConfig(rate_rps=10.0, warmup_s=0.0, window_s=20.0, lengths=VARIED)
    constant = dataclasses.replace(base, arrivals=ArrivalConfig(kind=ArrivalKind.constant))
    shorter = dataclasses.replace(base, lengths=dataclasses.replace(VARIED, output_tokens=20))
    plan, other_arrivals, other_outputs = (build_plan(one, 0, 0).main for one in (base, constant, shorter))
    count = min(len(plan), len(other_arrivals))
    assert plan.input_tokens[:count].tolist() == other_arrivals.input_tokens[:count].tolist()
    assert plan.output_tokens[:count].tolist() == other_arrivals.output_tokens[:count].tolist()
    assert plan.send_offset_ns.tolist() == other_outputs.send_offset_ns.tolist()
    assert plan.input_tokens.tolist() == other_outputs.input_tokens.tolist()
    assert plan.output_tokens.tolist() != other_outputs.output_tokens.tolist()


@pytest.mark.parametrize("force", [True, False])
def test_forced_or_natural_output(force: bool) -> None:
    lengths = LengthConfig(force_output=force)
    assert build_plan(BatchConfig(lengths=lengths), 0, 0).main.force_output_length is force


def test_prompt_text_is_tokenized(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("abc\nde\n")
    lengths = LengthConfig(kind=LengthKind.prompts, path=str(path))
    scenario = BatchConfig(num_requests=2, warmup_requests=1, lengths=lengths)
    load = build_plan(scenario, 0, 0, tokenize=lambda text: [ord(letter) for letter in text])
    assert load.main.prompt_token_ids is not None
    assert sorted(load.main.prompt_token_ids) == [(97, 98, 99), (100, 101)]
    assert load.main.token_ids(0, 10) == list(load.main.prompt_token_ids[0])
    with pytest.raises(NotStartedError, match="needs a tokenizer"):
        build_plan(scenario, 0, 0)


def test_azure_trace_as_it_is(azure: Path) -> None:
    path = str(azure / "AzureLLMInferenceTrace_code.csv")
    scenario = ServerConfig(
        rate_rps=None,
        warmup_s=60.0,
        window_s=600.0,
        arrivals=ArrivalConfig(kind=ArrivalKind.trace, path=path),
        lengths=LengthConfig(kind=LengthKind.trace, path=path, input_tokens_max=4096),
    )
    plan = build_plan(scenario, 0, 0).main
    assert plan.send_offset_ns[:2].tolist() == [0, 52_000_000]
    assert plan.input_tokens[:2].tolist() == [4096, 3180]
    assert plan.output_tokens[:2].tolist() == [10, 8]
    changes = build_plan(scenario, 0, 0).length_changes
    assert changes is not None
    assert changes.requests == len(plan)
    assert changes.input_cut > 0
    scenario = changed(scenario, {"lengths.input_tokens_max": 100_000, "lengths.output_tokens_max": 100_000})
    assert build_plan(scenario, 0, 0).length_changes is None


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        (BatchConfig(num_requests=0), r"num_requests: must be between 1 and 5000000, not 0"),
        (BatchConfig(warmup_requests=-1), r"warmup_requests: must be at least 0, not -1"),
        (ServerConfig(window_s=0.0), r"window_s: must be above 0 s"),
        (ServerConfig(window_s=float("nan")), r"window_s: must be a finite number"),
        (ServerConfig(warmup_s=-1.0), r"warmup_s: must be at least 0 s"),
        (ServerConfig(warmup_limit_s=-1.0), r"warmup_limit_s: must be at least 0 s"),
        (ServerConfig(rate_rps=0.0), r"rate_rps: must be above 0 requests/s, not 0 requests/s"),
        (ServerConfig(rate_rps=-1.0), r"rate_rps: must be above 0"),
        (ServerConfig(rate_rps=float("inf")), r"rate_rps: must be a finite number"),
        (
            ServerConfig(arrivals=ArrivalConfig(kind=ArrivalKind.gamma, cv=0.0)),
            r"arrivals\.cv: must be above 0, not 0; scenario\.arrivals\.kind=constant for 0",
        ),
        (
            ServerConfig(arrivals=ArrivalConfig(kind=ArrivalKind.gamma, cv=-2.0)),
            r"arrivals\.cv: must be above 0",
        ),
        (
            ServerConfig(rate_rps=1e-6, window_s=60.0),
            r"no request arrives in a window of 60 s \(1e-06 requests/s",
        ),
    ],
)
def test_bad_scenario(scenario: ScenarioConfig, message: str) -> None:
    with pytest.raises(NotStartedError, match=message):
        build_plan(scenario, 0, 0)


def test_unknown_scenario() -> None:
    with pytest.raises(TypeError, match="ScenarioConfig"):
        build_plan(ScenarioConfig(), 0, 0)


def test_entries_of_a_prompt_file_that_are_left_out_are_told(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    path.write_text(
        '[{"conversations": [{"value": "ab"}, {"value": "c"}]}, {"conversations": [{"value": "d"}]}]'
    )
    scenario = BatchConfig(
        num_requests=3, lengths=LengthConfig(kind=LengthKind.prompts, path=str(path)), warmup_requests=0
    )
    load = build_plan(scenario, 0, 0, tokenize=lambda text: [ord(letter) for letter in text])
    assert load.main.output_tokens.tolist() == [1, 1, 1]
    assert len(load.notes) == 1
    assert "1 of its 2 entries hold no prompt with an answer" in load.notes[0]


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
