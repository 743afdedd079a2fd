"""The generator against the tiny engine, and against engines that behave badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import virtual_time

from wattcount.clock import now_ns
from wattcount.config.schema import (
    BatchConfig,
    EngineConfig,
    LengthConfig,
    RunConfig,
    SamplingConfig,
    ServerConfig,
)
from wattcount.engines.base import Engine, EngineInfo
from wattcount.engines.registry import create
from wattcount.errors import RunFailedError
from wattcount.load.build import beginning, build_plan
from wattcount.load.generator import LoadGenerator, RequestRecord
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest, TokenChunk
from wattcount.records.schema import REQUESTS_SCHEMA, RequestStatus

VOCAB = 1000
FAST: dict[str, Any] = {"step_base_ms": 0.2, "decode_ms_per_seq": 0.001, "prefill_tokens_per_s": 10_000_000.0}


def tiny(args: dict[str, Any] | None = None, **engine: Any) -> Engine:
    cfg = RunConfig(
        engine=EngineConfig(name="tiny", args=FAST | (args or {}), **engine),
        scenario=BatchConfig(lengths=LengthConfig(input_tokens=1000, output_tokens=1000)),
    )
    return create(cfg, [], Path("unused"))


def plan(offsets_ms: list[float], output_tokens: int = 4, *, forced: bool = True) -> LoadPlan:
    count = len(offsets_ms)
    return LoadPlan(
        (np.array(offsets_ms) * 1e6).astype(np.int64),
        np.full(count, 8, np.int32),
        np.full(count, output_tokens, np.int32),
        forced,
        seed=1,
    )


def run(
    engine: Engine, load: LoadPlan, *, limit_s: float = 10.0, window_ms: float | None = 0.0, **options: Any
) -> LoadGenerator:
    """The whole life of a generator, the engine's included."""

    async def live() -> LoadGenerator:
        await engine.start()
        try:
            start = None if window_ms is None else round(window_ms * 1e6)
            generator = LoadGenerator(engine, load, vocab_size=VOCAB, window_start_offset_ns=start, **options)
            await generator.run(now_ns() + 5_000_000)
            generator.cancelled = await generator.drain(limit_s)  # type: ignore[attr-defined]
            return generator
        finally:
            await engine.stop()

    return virtual_time.run(live())


class ScriptedEngine(Engine):
    """An engine whose `generate` is a function given by the test."""

    def __init__(self, script: Callable[[GenerationRequest], AsyncIterator[TokenChunk]]) -> None:
        super().__init__()
        self.script = script

    async def start(self) -> EngineInfo:
        return EngineInfo("scripted", "1", "cpu", (), VOCAB, 4096, {})

    def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        return self.script(request)

    async def stop(self) -> None:
        pass


def test_records_have_the_columns_of_the_schema() -> None:
    record = RequestRecord("r", 0, "window")
    assert list(record.to_dict()) == REQUESTS_SCHEMA.names
    assert not hasattr(record, "__dict__")


def test_requests_are_sent_on_time_and_followed_to_the_end() -> None:
    generator = run(tiny(), plan([0, 10, 20, 20, 40, 60]), window_ms=20)
    assert generator.completed == generator.sent == 6
    assert generator.failed == generator.in_flight == 0
    assert generator.output_tokens == 24
    assert [record.phase for record in generator.records] == ["warmup"] * 2 + ["window"] * 4
    assert len({record.request_id for record in generator.records}) == 6
    planned = [record.planned_send_ns for record in generator.records]
    assert [value - planned[0] for value in planned if planned[0] is not None and value is not None] == [
        0, 10_000_000, 20_000_000, 20_000_000, 40_000_000, 60_000_000
    ]  # fmt: skip
    for record in generator.records:
        assert record.status == RequestStatus.COMPLETED
        assert record.error is None
        assert record.planned_send_ns is not None
        assert record.actual_send_ns is not None
        assert record.planned_send_ns <= record.actual_send_ns < record.planned_send_ns + 100_000
        assert record.output_tokens == sum(record.token_count) == 4
        assert record.token_ts_ns == sorted(record.token_ts_ns)
        assert record.first_token_ns == record.token_ts_ns[0]
        assert record.last_token_ns == record.token_ts_ns[-1]
        assert record.engine_queued_ns is not None
        assert record.engine_first_token_ns is not None
        assert (
            record.actual_send_ns
            <= record.engine_queued_ns
            < record.engine_first_token_ns
            <= record.first_token_ns
        )
        assert (record.input_tokens, record.cached_tokens, record.preemptions) == (8, 0, 0)


def test_a_send_does_not_trust_the_event_loop_s_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers of an event loop are up to a millisecond late, each time."""
    sleep = asyncio.sleep

    async def late(delay: float, result: Any = None) -> Any:
        return await sleep(delay + 0.001 if delay > 0 else 0, result)

    monkeypatch.setattr(asyncio, "sleep", late)
    generator = run(tiny(), plan([float(i * 7) + 0.37 for i in range(60)]))
    lags = [(r.actual_send_ns or 0) - (r.planned_send_ns or 0) for r in generator.records]
    assert min(lags) >= 0
    assert max(lags) < 100_000


def test_a_late_send_does_not_push_back_the_next() -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if request.request_id == "w0":
            virtual_time.block_s(0.05)  # what a blocked event loop does to everybody
        yield TokenChunk(now_ns(), 4, True)

    generator = run(ScriptedEngine(script), plan([0, 10, 20, 150]))
    lags_ms = [((r.actual_send_ns or 0) - (r.planned_send_ns or 0)) / 1e6 for r in generator.records]
    assert lags_ms == pytest.approx([0, 40, 30, 0], abs=0.1)


def test_a_thousand_at_once_do_not_starve_the_first() -> None:
    """Each send costs 0.2 ms: the first answer must be read while the later ones are still being sent."""
    sends: list[int] = []

    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:  # noqa: ARG001
        virtual_time.block_s(0.0002)
        sends.append(now_ns())
        await asyncio.sleep(0.005)
        yield TokenChunk(now_ns(), 4, True)

    generator = run(ScriptedEngine(script), plan([0.0] * 1000))
    assert generator.completed == 1000
    first = generator.records[0]
    assert first.first_token_ns is not None
    assert first.first_token_ns < sends[500]
    order = [record.actual_send_ns or 0 for record in generator.records]
    assert order == sorted(order)


def test_prompts_are_the_plans() -> None:
    seen: list[GenerationRequest] = []

    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        seen.append(request)
        yield TokenChunk(now_ns(), request.max_output_tokens, True)

    load = plan([0, 1, 2], forced=False)
    run(ScriptedEngine(script), load)
    assert [list(request.prompt_token_ids) for request in seen] == [
        load.token_ids(i, VOCAB) for i in range(3)
    ]
    assert all(type(token) is int for token in seen[0].prompt_token_ids)
    assert [request.force_output_length for request in seen] == [False] * 3


def test_each_request_says_how_its_tokens_are_drawn() -> None:
    heard: list[SamplingConfig] = []

    async def listening(request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        heard.append(request.sampling)
        yield TokenChunk(now_ns(), request.max_output_tokens, True, "length")

    sampling = SamplingConfig(temperature=0.0, top_k=5, seed=3)
    scenario = BatchConfig(
        num_requests=3,
        warmup_requests=2,
        lengths=LengthConfig(input_tokens=4, output_tokens=2),
        sampling=sampling,
    )
    built = build_plan(scenario, 0, 0)
    assert built.warmup is not None
    plans = [built.main, built.warmup, beginning(built.main, 0, 2)]
    for sent in plans:
        run(ScriptedEngine(listening), sent)
    assert len(heard) == sum(map(len, plans))
    assert set(map(id, heard)) == {id(sampling)}


def test_plan_without_a_window_is_all_warmup() -> None:
    generator = run(tiny(), plan([0, 0]), window_ms=None, id_prefix="x-")
    assert [record.phase for record in generator.records] == ["warmup"] * 2
    assert all(record.request_id.startswith("x-") for record in generator.records)


def test_failed_requests_keep_what_they_had_and_say_why() -> None:
    generator = run(tiny({"fail_request_every": 2}), plan([0, 1, 2, 3], output_tokens=10))
    assert [record.status for record in generator.records] == ["completed", "failed"] * 2
    assert (generator.completed, generator.failed) == (2, 2)
    failed = generator.records[1]
    assert failed.output_tokens == sum(failed.token_count) == 5
    assert failed.error is not None
    assert "fail_request_every" in failed.error


@pytest.mark.parametrize(
    ("counts", "forced", "status", "error"),
    [
        ([2, 2], True, "completed", None),
        ([3], True, "failed", "ended after 3 of 4 output tokens, finish reason stop"),
        ([3, 2], True, "failed", "ended after 5 of 4 output tokens, finish reason stop"),
        ([3], False, "completed", None),
        ([0], False, "failed", "ended without an output token"),
    ],
)
def test_output_length_is_checked(counts: list[int], forced: bool, status: str, error: str | None) -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:  # noqa: ARG001
        for count in counts[:-1]:
            yield TokenChunk(now_ns(), count)
        yield TokenChunk(now_ns(), counts[-1], True, "stop")

    (record,) = run(ScriptedEngine(script), plan([0], forced=forced)).records
    assert (record.status, record.error) == (status, error)
    assert record.token_count == [count for count in counts if count]


def test_unexpected_exception_fails_the_request_alone() -> None:
    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if request.request_id == "w0":
            raise ValueError("two\nlines")
        yield TokenChunk(now_ns(), 4, True)

    generator = run(ScriptedEngine(script), plan([0, 1]))
    assert [record.error for record in generator.records] == ["ValueError: two lines", None]


def test_dead_engine_stops_the_sending() -> None:
    engine = tiny({"die_after_s": 1.0, "step_base_ms": 5.0})
    load = plan([float(10 * i) for i in range(1000)], output_tokens=500)

    async def live() -> tuple[LoadGenerator, int]:
        await engine.start()
        generator = LoadGenerator(engine, load, vocab_size=VOCAB, window_start_offset_ns=0)
        begin = now_ns()
        with pytest.raises(RunFailedError) as failure:
            await generator.run(begin)
        assert failure.value.reason == "engine_died"
        took = now_ns() - begin
        with pytest.raises(RunFailedError):
            await generator.drain(5)
        await engine.stop()
        return generator, took

    generator, took = virtual_time.run(live())
    assert took < 1_100_000_000  # of the plan's ten seconds
    statuses = {record.status for record in generator.records}
    assert statuses == {"failed", "not_sent"}
    for record in generator.records:
        assert (record.status == "not_sent") == (record.actual_send_ns is None)
        assert record.planned_send_ns is not None
    assert any(record.output_tokens for record in generator.records if record.status == "failed")


def test_engine_that_dies_in_the_drain() -> None:
    engine = tiny({"die_after_s": 0.05, "step_base_ms": 1.0})

    async def live() -> LoadGenerator:
        await engine.start()
        generator = LoadGenerator(engine, plan([0, 1], 900), vocab_size=VOCAB, window_start_offset_ns=0)
        await generator.run(now_ns())
        with pytest.raises(RunFailedError, match="died"):
            await generator.drain(20)
        await engine.stop()
        return generator

    assert [record.status for record in virtual_time.run(live()).records] == ["failed"] * 2


def test_drain_cancels_what_is_not_done_and_keeps_its_tokens() -> None:
    generator = run(tiny({"step_base_ms": 2.0}), plan([0, 0], output_tokens=900), limit_s=0.1)
    assert generator.cancelled == 2  # type: ignore[attr-defined]
    for record in generator.records:
        assert record.status == RequestStatus.CANCELLED
        assert 0 < record.output_tokens == sum(record.token_count) < 900
        assert record.last_token_ns == record.token_ts_ns[-1]
    assert generator.in_flight == 0


def test_cancelled_run_leaves_the_rest_not_sent() -> None:
    engine = tiny({"step_base_ms": 2.0})

    async def live() -> LoadGenerator:
        await engine.start()
        generator = LoadGenerator(
            engine, plan([0, 0, 60_000], 900), vocab_size=VOCAB, window_start_offset_ns=0
        )
        sending = asyncio.create_task(generator.run(now_ns()))
        await asyncio.sleep(0.05)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert generator.in_flight == 2
        assert [record.status for record in generator.records] == ["cancelled", "cancelled", "not_sent"]
        await generator.cancel()
        await engine.stop()
        return generator

    generator = virtual_time.run(live())
    assert generator.in_flight == 0
    assert generator.records[0].output_tokens > 0


def test_max_in_flight_holds_sends_back() -> None:
    in_flight: list[int] = []

    class Watched(LoadGenerator):
        def _take(self, record: RequestRecord, chunk: TokenChunk) -> None:
            super()._take(record, chunk)
            in_flight.append(self.in_flight)

    engine = tiny({"step_base_ms": 2.0})

    async def live() -> LoadGenerator:
        await engine.start()
        generator = Watched(
            engine, plan([0.0] * 9, 5), vocab_size=VOCAB, window_start_offset_ns=0, max_in_flight=3
        )
        await generator.run(now_ns())
        await generator.drain(10)
        await engine.stop()
        return generator

    generator = virtual_time.run(live())
    assert generator.completed == 9
    assert max(in_flight) == 3
    lags_ms = [((r.actual_send_ns or 0) - (r.planned_send_ns or 0)) / 1e6 for r in generator.records]
    assert lags_ms[8] > 15


def test_bad_cap() -> None:
    with pytest.raises(ValueError, match="max_in_flight must be at least 1"):
        LoadGenerator(tiny(), plan([0]), vocab_size=VOCAB, window_start_offset_ns=0, max_in_flight=0)


def test_prompt_of_another_vocabulary_is_refused() -> None:
    one = np.ones(1, np.int32)
    load = LoadPlan(np.zeros(1, np.int64), one * 3, one, True, 0, prompt_token_ids=((1, 2, 1000),))
    with pytest.raises(
        RunFailedError, match="prompt 0 holds token id 1000, the model's vocabulary ends at 999"
    ):
        LoadGenerator(tiny(), load, vocab_size=VOCAB, window_start_offset_ns=0)


def test_server_and_batch_loads_end_to_end() -> None:
    lengths = LengthConfig(input_tokens=16, output_tokens=4)
    server = build_plan(ServerConfig(rate_rps=200.0, warmup_s=0.1, window_s=0.4, lengths=lengths), 0, 0)
    generator = run(tiny(), server.main, window_ms=100)
    assert generator.completed == len(server.main) > 50
    assert {record.phase for record in generator.records} == {"warmup", "window"}
    batch = build_plan(BatchConfig(num_requests=300, warmup_requests=0, lengths=lengths), 0, 0)
    assert run(tiny(max_num_seqs=64), batch.main).completed == 300


# --- a window that waits -------------------------------------------------------------------------


def together(work: Callable[[Engine], Any], args: dict[str, Any] | None = None) -> Any:
    async def live() -> Any:
        engine = tiny(args)
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.stop()

    return virtual_time.run(live())


def test_a_window_that_is_held_waits_and_keeps_its_distances() -> None:
    async def work(engine: Engine) -> LoadGenerator:
        generator = LoadGenerator(
            engine,
            plan([0, 5, 20, 26, 40]),
            vocab_size=VOCAB,
            window_start_offset_ns=20_000_000,
            hold_window=True,
        )
        sending = asyncio.create_task(generator.run(now_ns()))
        await asyncio.sleep(0.1)
        assert (generator.sent, sending.done()) == (2, False)
        generator.release_window(200_000_000)
        await sending
        await generator.drain(5.0)
        return generator

    generator = together(work)
    planned = [record.planned_send_ns for record in generator.records]
    assert [(value - planned[0]) // 1_000_000 for value in planned] == [0, 5, 220, 226, 240]
    assert generator.completed == 5
    for record in generator.records:
        assert 0 <= record.actual_send_ns - record.planned_send_ns < 100_000


def test_a_window_that_is_released_in_time_is_as_planned() -> None:
    async def work(engine: Engine) -> LoadGenerator:
        generator = LoadGenerator(
            engine, plan([0, 60, 70]), vocab_size=VOCAB, window_start_offset_ns=50_000_000, hold_window=True
        )
        sending = asyncio.create_task(generator.run(now_ns()))
        await asyncio.sleep(0.01)
        generator.release_window()
        await sending
        await generator.drain(5.0)
        return generator

    first, *rest = [record.planned_send_ns for record in together(work).records]
    assert [value - first for value in rest] == [60_000_000, 70_000_000]


def test_an_engine_that_dies_ends_a_held_window() -> None:
    async def work(engine: Engine) -> None:
        generator = LoadGenerator(
            engine, plan([0, 20], 900), vocab_size=VOCAB, window_start_offset_ns=10_000_000, hold_window=True
        )
        async with asyncio.timeout(5):
            await generator.run(now_ns())

    with pytest.raises(RunFailedError, match="died"):
        together(work, {"die_after_s": 0.2, "step_base_ms": 20.0})


def test_what_is_stopped_was_never_planned() -> None:
    async def work(engine: Engine) -> LoadGenerator:
        generator = LoadGenerator(
            engine, plan([0, 10, 80, 81, 5000]), vocab_size=VOCAB, window_start_offset_ns=None
        )
        start_ns = now_ns()
        sending = asyncio.create_task(generator.run(start_ns))
        await asyncio.sleep(0.03)
        generator.stop_at(start_ns + 80_000_000)
        async with asyncio.timeout(1):
            await sending
        await generator.drain(5.0)
        return generator

    records = together(work).records
    assert [record.status for record in records] == ["completed"] * 2 + ["not_sent"] * 3
    assert [record.planned_send_ns is None for record in records] == [False] * 2 + [True] * 3


@pytest.mark.parametrize("asked", ["other", "warmup"])
def test_a_request_that_waits_for_a_slot_is_not_sent_once_it_is_too_late(asked: str) -> None:
    """Both ways in which a window ends what came before it: the extra load's `stop_at`, and the main load's warm-up."""
    gates: list[asyncio.Event] = []

    async def script(request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        gate = asyncio.Event()
        gates.append(gate)
        await gate.wait()
        yield TokenChunk(now_ns(), request.max_output_tokens, "length")

    async def work() -> list[RequestRecord]:
        engine = ScriptedEngine(script)
        start_ms = None if asked == "other" else 1000.0
        start = None if start_ms is None else round(start_ms * 1e6)
        load = LoadGenerator(
            engine,
            plan([0, 0, 0, *([] if start is None else [1000.0])]),
            vocab_size=VOCAB,
            window_start_offset_ns=start,
            max_in_flight=1,
        )
        sending = asyncio.create_task(load.run(now_ns() - 2_000_000_000))
        while not gates:
            await asyncio.sleep(0)
        load.stop_at(now_ns(), None if asked == "other" else "warmup")
        gates[0].set()
        if start is not None:
            while len(gates) < 2:
                await asyncio.sleep(0)
            gates[1].set()
        await sending
        await load.drain(10.0)
        return load.records

    records = asyncio.run(work())
    assert [record.status for record in records[:3]] == ["completed", "not_sent", "not_sent"]
    assert [record.status for record in records[3:]] == ([] if asked == "other" else ["completed"])
    assert [record.planned_send_ns is None for record in records[1:3]] == [asked == "other"] * 2


def test_two_generators_share_their_slots() -> None:
    async def work(engine: Engine) -> int:
        one = LoadGenerator(
            engine, plan([0] * 5, 20), vocab_size=VOCAB, window_start_offset_ns=0, max_in_flight=3
        )
        other = LoadGenerator(
            engine,
            plan([0] * 5, 20),
            vocab_size=VOCAB,
            window_start_offset_ns=None,
            share_slots=one,
            id_prefix="b",
        )
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, one.in_flight + other.in_flight)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await asyncio.gather(one.run(now_ns()), other.run(now_ns()))
        await asyncio.gather(one.drain(5.0), other.drain(5.0))
        watching.cancel()
        assert one.completed == other.completed == 5
        return most

    assert together(work, {"step_base_ms": 1.0}) == 3
