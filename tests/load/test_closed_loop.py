"""The closed loop: users that send their next request when the last one is answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import virtual_time

from wattcount.clock import now_ns
from wattcount.config.schema import (
    BatchConfig,
    ConcurrencyConfig,
    EngineConfig,
    LengthConfig,
    LengthKind,
    RunConfig,
)
from wattcount.engines.base import Engine, EngineInfo
from wattcount.engines.registry import create
from wattcount.load.build import build_plan
from wattcount.load.generator import FAILED_PAUSE_NS, LoadGenerator
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest, TokenChunk

VOCAB = 1000


def plan(count: int, follows: list[bool] | None = None) -> LoadPlan:
    return LoadPlan(
        np.zeros(count, np.int64),
        np.full(count, 8, np.int32),
        np.full(count, 4, np.int32),
        True,
        seed=1,
        follows=None if follows is None else np.array(follows),
    )


class Answering(Engine):
    """Answers each request after `seconds(number)`, and counts how many it has at once."""

    def __init__(self, seconds: Any = lambda _number: 0.1, *, fails: bool = False) -> None:
        super().__init__()
        self.seconds = seconds
        self.fails = fails
        self.number = self.at_once = self.most = 0
        self.asked: list[str] = []

    async def start(self) -> EngineInfo:
        return EngineInfo("answering", "1", "cpu", (), VOCAB, 4096, {})

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        self.number += 1
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.asked.append(request.request_id)
        try:
            await asyncio.sleep(self.seconds(self.number))
            if self.fails:
                raise ValueError("no")
            yield TokenChunk(now_ns(), 4, finished=True)
        finally:
            self.at_once -= 1

    async def stop(self) -> None:
        pass


def run(
    engine: Engine, load: LoadPlan, users: int, seconds: float, window_s: float | None = None
) -> LoadGenerator:
    """`seconds` of a closed loop, and its drain."""

    async def live() -> LoadGenerator:
        await engine.start()
        generator = LoadGenerator(engine, load, vocab_size=VOCAB, window_start_offset_ns=None, users=users)
        start_ns = now_ns() + 5_000_000
        if window_s is not None:
            generator.begin_window(start_ns + round(window_s * 1e9))
        generator.stop_at(start_ns + round(seconds * 1e9))
        task = asyncio.create_task(generator.run(start_ns))
        await asyncio.wait({task}, timeout=seconds + 0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await generator.drain(10.0)
        await engine.stop()
        return generator

    return virtual_time.run(live())


def test_so_many_are_in_flight_at_any_moment() -> None:
    engine = Answering(lambda number: 0.05 + 0.01 * (number % 7))
    generator = run(engine, plan(1000), 5, 2.0)
    assert engine.most == 5
    sent = [record for record in generator.records if record.actual_send_ns is not None]
    assert generator.completed == generator.sent == len(sent) > 50
    assert [record.index for record in sent] == list(range(len(sent)))
    begin, end = sent[0].actual_send_ns, sent[-1].actual_send_ns
    assert begin is not None
    assert end is not None
    flying = sum(min(record.last_token_ns, end) - record.actual_send_ns for record in sent)  # type: ignore[type-var,operator]
    assert flying / (end - begin) == pytest.approx(5, rel=0.01)


def test_each_next_request_comes_when_an_answer_has() -> None:
    generator = run(Answering(), plan(100), 1, 1.0)
    sent = [record for record in generator.records if record.actual_send_ns is not None]
    assert len(sent) == 10
    for before, after in pairwise(sent):
        assert 0 <= after.actual_send_ns - before.last_token_ns < 1_000_000  # type: ignore[operator]
    assert all(record.planned_send_ns is None for record in generator.records)


def test_the_phase_is_that_of_the_send() -> None:
    generator = run(Answering(), plan(100), 2, 1.0, window_s=0.45)
    phases = [record.phase for record in generator.records if record.actual_send_ns is not None]
    assert phases == ["warmup"] * 10 + ["window"] * 10


def test_a_load_that_is_used_up_ends() -> None:
    generator = run(Answering(), plan(7), 3, 5.0)
    assert generator.completed == 7


def test_turns_of_a_conversation_wait_for_each_other() -> None:
    """Three turns, one, two, one: a user goes on with a conversation as long as it lasts."""
    engine = Answering(lambda number: 0.1 if number == 1 else 0.3)
    run(engine, plan(7, [False, True, True, False, False, True, False]), 2, 5.0)
    place = {name: number for number, name in enumerate(engine.asked)}
    assert len(place) == 7
    assert place["c0"] < place["c1"] < place["c2"]
    assert place["c4"] < place["c5"]
    assert engine.asked[:3] == ["c0", "c3", "c1"]


def test_failing_requests_do_not_flood_the_engine() -> None:
    engine = Answering(lambda _number: 0.0, fails=True)
    generator = run(engine, plan(1000), 1, 1.0)
    assert generator.failed == generator.sent <= 1e9 / FAILED_PAUSE_NS + 1


def test_the_same_prompts_as_in_an_open_loop() -> None:
    """They are drawn while others run, and are the same."""
    asked: dict[str, list[int]] = {}

    class Keeping(Answering):
        def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
            asked[request.request_id] = list(request.prompt_token_ids)
            return super().generate(request)

    load = plan(30)
    run(Keeping(), load, 2, 5.0)
    assert asked == {f"c{index}": load.token_ids(index, VOCAB) for index in range(30)}


def test_a_longer_load_begins_with_the_shorter_one() -> None:
    scenario = ConcurrencyConfig(name="c", concurrency=4, window_s=5.0, max_requests=50)
    short = build_plan(scenario, 3, 0)
    long = build_plan(dataclasses.replace(scenario, max_requests=None), 3, 0)
    assert short.users == long.users == 4
    assert len(long.main) > len(short.main) == 50
    assert (long.main.input_tokens[:50] == short.main.input_tokens).all()
    assert long.main.token_ids(7, VOCAB) == short.main.token_ids(7, VOCAB)


def test_there_is_more_to_send_than_short_answers_of_a_file_use_up() -> None:
    """However long `output_tokens` says that answers are: those of the file count."""
    file = Path(__file__).resolve().parents[2] / "examples" / "loads" / "conversations.jsonl"
    lengths = LengthConfig(kind=LengthKind.conversations, path=str(file), output_tokens=1000)
    scenario = ConcurrencyConfig(name="c", concurrency=2, window_s=10.0, warmup_limit_s=10.0, lengths=lengths)
    answered_in_s = 0.045
    assert len(build_plan(scenario, 0, 0).main) >= 2 * 20.0 / answered_in_s


def test_the_tiny_engine_serves_as_many_as_there_are_users() -> None:
    cfg = RunConfig(
        engine=EngineConfig(name="tiny", max_num_seqs=64),
        scenario=BatchConfig(lengths=LengthConfig(input_tokens=100, output_tokens=100)),
    )
    engine = create(cfg, [], Path("unused"))
    running: list[int] = []
    engine.on_step = lambda step: running.append(step.running + step.waiting)
    run(engine, plan(4000), 16, 1.0)
    assert max(running) == 16
    assert np.median(running) >= 12
