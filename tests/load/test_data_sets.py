"""Files of prompts, conversations and traces as data sets have them, and the examples of docs/loads.md."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wattcount.config.schema import (
    ArrivalConfig,
    ArrivalKind,
    ConcurrencyConfig,
    LengthConfig,
    LengthKind,
    ServerConfig,
)
from wattcount.errors import NotStartedError
from wattcount.load.arrivals import BLOCK_TOKENS, read_trace
from wattcount.load.build import build_plan
from wattcount.load.prompts import read_conversations, read_prompts

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "loads"


def words(text: str) -> list[int]:
    """A token for each word; like words are like tokens."""
    return [300 + sum(word.encode()) % 1000 for word in text.split()]


def kept(folder: Path, entries: Any, *, lines: bool = False) -> Path:
    file = folder / ("set.jsonl" if lines else "set.json")
    text = "\n".join(json.dumps(entry) for entry in entries) if lines else json.dumps(entries)
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(
    "entry",
    [
        {"conversations": [{"from": "human", "value": "a b c"}, {"from": "gpt", "value": "d e"}]},
        {
            "conversation": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "d e"}],
            "model": "m",
        },
        {"messages": [{"role": "user", "content": "a b c"}, {"role": "assistant", "content": "d e"}]},
        {"instruction": "a b", "input": "c", "output": "d e"},
        {"instruction": "a b", "context": "c", "response": "d e", "category": "x"},
        {"instruction": "a b c", "input": "", "output": "d e"},
        {"question": "a b c", "answer": "d e"},
        {"system_prompt": "a", "question": "b c", "response": "d e", "id": "flan.1"},
        {"system_prompt": "a", "question": "b c", "output": "d e"},
        {"problem": "a b c", "solution": "d e", "source": "olympiads"},
        {"id": "0", "data": ["a b c", "d e"]},
        {"prompt": "a b c", "completion": "d e", "prompt_id": "1"},
        {"text": "a b c", "output_tokens": 2, "timestamp": 5, "session_id": "s"},
        {"session_id": "s", "turns": [{"text": "a b c", "output_tokens": 2, "delay": 1000}, {"text": "d"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a b"}, {"type": "text", "text": "c"}]},
                {"role": "assistant", "content": "d e", "tool_calls": None},
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            ]
        },
        {
            "conversations": [
                {"from": "gpt", "value": "x"},
                {"from": "human", "value": "a b c"},
                {"from": "gpt", "value": "d e"},
            ]
        },
    ],
)
def test_the_prompt_and_the_length_of_the_answer(
    tmp_path: Path, entry: dict[str, Any], *, lines: bool
) -> None:
    found = read_prompts(kept(tmp_path, [entry], lines=lines), words)
    assert found.token_ids == (tuple(words("a b c")),)
    assert found.output_tokens == (2,)


@pytest.mark.parametrize("key", ["turns", "prompt"])
def test_turns_without_answers(tmp_path: Path, key: str) -> None:
    file = kept(
        tmp_path, [{"question_id": 81, key: ["a b", "c"]}] if key == "turns" else [{key: ["a b", "c"]}]
    )
    assert read_prompts(file, words).output_tokens == (None,)
    [turns] = read_conversations(file, words).conversations
    assert [turn.token_ids for turn in turns] == [tuple(words("a b")), tuple(words("a b c"))]


def test_each_turn_begins_with_all_that_was_said() -> None:
    [turns] = read_conversations(EXAMPLES / "messages.jsonl", words).conversations[:1]
    assert len(turns) == 2
    assert turns[0].token_ids == tuple(words("Answer in one line. How long is a marathon?"))
    assert turns[1].token_ids == (*turns[0].token_ids, *words("42.195 km. And in miles?"))
    assert [turn.output_tokens for turn in turns] == [2, 3]


@pytest.mark.parametrize(
    "entry",
    [
        {"conversations": "a"}, {"conversations": [{"from": "human"}]}, {"messages": [1]}, {"turns": []}, {"turns": [1]},
        {"instruction": 3, "output": "a"}, {"question": "a", "answer": 3}, 3, {"turns": [{"prompt_token_ids": [-1]}]},
        {"prompt": "a", "answer_token_ids": ["a"]},
    ],
)  # fmt: skip
def test_what_is_no_such_thing_is_refused_with_its_place(tmp_path: Path, entry: Any) -> None:
    for read in (read_prompts, read_conversations):
        with pytest.raises(NotStartedError, match="entry 2"):
            read(kept(tmp_path, [{"prompt": "a b"}, entry]), words)


def test_what_nobody_answered_is_left_out(tmp_path: Path) -> None:
    entries = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": []}, {"prompt": "b"}]
    found = read_conversations(kept(tmp_path, entries), words)
    assert (len(found.conversations), found.skipped) == (1, 2)


def closed(lengths: LengthConfig, **keys: Any) -> ConcurrencyConfig:
    return ConcurrencyConfig(name="c", lengths=lengths, **{"concurrency": 2, "max_requests": 40, **keys})


def test_a_load_of_conversations_keeps_their_turns_together() -> None:
    lengths = LengthConfig(
        kind=LengthKind.conversations, path=str(EXAMPLES / "conversations.jsonl"), output_tokens=5
    )
    load = build_plan(closed(lengths), 1, 0).main
    assert len(load) == 40
    assert load.follows is not None
    assert load.prompt_token_ids is not None
    for turns in load.conversations():
        for before, after in pairwise(turns):
            first, second = load.prompt_token_ids[before], load.prompt_token_ids[after]
            assert second[: len(first)] == first
    assert {len(turns) for turns in load.conversations()} <= {1, 2, 3}
    assert (
        build_plan(closed(lengths, max_requests=8), 1, 0).main.prompt_token_ids == load.prompt_token_ids[:8]
    )


def test_a_turn_that_is_too_long_ends_its_conversation() -> None:
    lengths = LengthConfig(
        kind=LengthKind.conversations, path=str(EXAMPLES / "conversations.jsonl"), input_tokens_max=12
    )
    load = build_plan(closed(lengths), 1, 0)
    assert load.main.input_tokens.max() <= 12
    assert any("1 of 4 turns are longer" in note for note in load.notes)


@pytest.mark.parametrize(
    "name", ["prompts.txt", "prompts.jsonl", "sharegpt.json", "messages.jsonl", "conversations.jsonl"]
)
def test_the_examples_can_be_read(name: str) -> None:
    assert read_prompts(EXAMPLES / name, words).token_ids
    assert read_conversations(EXAMPLES / name, words).conversations


@pytest.mark.parametrize("name", ["trace.csv", "mooncake.jsonl"])
def test_an_example_trace_gives_arrivals_and_lengths(name: str) -> None:
    arrivals = ArrivalConfig(kind=ArrivalKind.trace, path=str(EXAMPLES / name))
    lengths = LengthConfig(kind=LengthKind.trace)
    scenario = ServerConfig(
        name="s",
        arrivals=arrivals,
        lengths=lengths,
        rate_rps=None,
        warmup_s=1.0,
        warmup_limit_s=1.0,
        window_s=2.0,
    )
    load, trace = build_plan(scenario, 0, 0).main, read_trace(EXAMPLES / name)
    assert (load.send_offset_ns == trace.offset_ns[: len(load)]).all()
    assert (load.input_tokens == trace.input_tokens[: len(load)]).all()


def test_prompts_of_a_mooncake_trace_begin_alike_where_their_blocks_do() -> None:
    lengths = LengthConfig(kind=LengthKind.trace, path=str(EXAMPLES / "mooncake.jsonl"))
    load = build_plan(closed(lengths), 3, 0).main
    assert load.prompt_token_ids is not None
    by_length = {len(ids): ids for ids in load.prompt_token_ids}
    long, longer, short, other = (by_length[length] for length in (1100, 1400, 600, 512))
    assert long[: 2 * BLOCK_TOKENS] == longer[: 2 * BLOCK_TOKENS]
    assert long[2 * BLOCK_TOKENS :] != longer[2 * BLOCK_TOKENS : 1100]
    assert short[:BLOCK_TOKENS] == long[:BLOCK_TOKENS] != other[:BLOCK_TOKENS]


def test_burst_gpt(tmp_path: Path) -> None:
    file = tmp_path / "burst.csv"
    file.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45.5,ChatGPT,1087,0,1087,API log\n118,GPT-4,417,276,693,Conversation log\n",
        encoding="utf-8",
    )
    trace = read_trace(file)
    assert trace.offset_ns.tolist() == [0, 113_000_000_000]
    assert trace.output_tokens.tolist() == [18, 276]
    assert trace.blocks is None


@pytest.mark.parametrize(
    "text",
    ["Timestamp,Request tokens,Response tokens\n1,a,2\n", "Timestamp,Request tokens,Response tokens\n", '{"timestamp": 1}\n', '{"timestamp": 1, "input_length": -1, "output_length": 3}\n'],
)  # fmt: skip
def test_a_trace_that_is_damaged_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NotStartedError, match="trace file"):
        read_trace(file)


def test_a_trace_in_another_order_is_refused(tmp_path: Path) -> None:
    rows = [{"timestamp": t, "input_length": 4, "output_length": 3} for t in (0, 5, 2)]
    with pytest.raises(NotStartedError, match="request 3: is earlier"):
        read_trace(kept(tmp_path, rows, lines=True))


def test_lengths_do_not_depend_on_how_many_are_asked_for() -> None:
    lengths = LengthConfig(kind=LengthKind.trace, path=str(EXAMPLES / "mooncake.jsonl"))
    few, many = (build_plan(closed(lengths, max_requests=n), 3, 0).main for n in (10, 40))
    assert np.array_equal(many.input_tokens[:10], few.input_tokens)
