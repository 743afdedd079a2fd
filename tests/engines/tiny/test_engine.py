from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import virtual_time
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.config.schema import BatchConfig, EngineConfig, LengthConfig, RunConfig
from wattcount.engines.base import EngineStep
from wattcount.engines.registry import create
from wattcount.engines.tiny.engine import TinyArgs, TinyEngine
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load.request import GenerationRequest, TokenChunk

FAST: dict[str, Any] = {"step_base_ms": 0.2, "decode_ms_per_seq": 0.001, "prefill_tokens_per_s": 10_000_000.0}


def make(args: dict[str, Any] | None = None, **engine: Any) -> TinyEngine:
    cfg = RunConfig(
        engine=EngineConfig(name="tiny", args=FAST | (args or {}), **engine),
        scenario=BatchConfig(lengths=LengthConfig(input_tokens=1000, output_tokens=1000)),
    )
    made = create(cfg, [], Path("unused"))
    assert isinstance(made, TinyEngine)
    return made


def request(name: str, prompt: int = 16, output: int = 8, *, forced: bool = True) -> GenerationRequest:
    return GenerationRequest(name, range(prompt), output, forced)


async def complete(engine: TinyEngine, wanted: GenerationRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(wanted)]


def serve(
    engine: TinyEngine, *wanted: GenerationRequest, after: Callable[[], None] | None = None
) -> tuple[list[Any], list[EngineStep]]:
    """Starts the engine, sends all requests at once, stops it. Returns what each gave, and the steps."""
    steps: list[EngineStep] = []
    engine.on_step = steps.append

    async def run() -> list[Any]:
        await engine.start()
        try:
            return await asyncio.gather(*[complete(engine, one) for one in wanted], return_exceptions=True)
        finally:
            if after is not None:
                after()
            await engine.stop()

    return virtual_time.run(run()), steps


def tokens(chunks: list[TokenChunk]) -> int:
    return sum(chunk.token_count for chunk in chunks)


def test_forced_length_and_stamps() -> None:
    (chunks,), steps = serve(make(), request("a", 20, 9))
    assert tokens(chunks) == 9
    assert chunks[-1].finished
    assert chunks[-1].finish_reason == "length"
    stamps = chunks[-1].stamps
    order = [
        stamps.queued_ns,
        stamps.scheduled_ns,
        stamps.first_token_ns,
        stamps.last_token_ns,
        chunks[-1].t_ns,
    ]
    assert order == sorted(order)
    assert stamps.cached_tokens == stamps.preemptions == 0
    assert [step.prefill_tokens for step in steps] == [20] + [0] * 8
    assert [step.decode_tokens for step in steps] == [0] + [1] * 8


def test_natural_lengths_come_from_the_seed() -> None:
    wanted = [request(f"r{i}", 4, 500, forced=False) for i in range(100)]
    args = {"natural_mean_tokens": 20.0, "step_base_ms": 0.01}
    lengths = [tokens(chunks) for chunks in serve(make(args), *wanted)[0]]
    again = [tokens(chunks) for chunks in serve(make(args), *wanted)[0]]
    other = [tokens(chunks) for chunks in serve(make(args | {"seed": 1}), *wanted)[0]]
    assert lengths == again != other
    # A geometric length has a standard deviation of nearly its mean.
    assert sum(lengths) / 100 == pytest.approx(20, abs=8)
    short, _ = serve(make(args), request("r0", 4, 1, forced=False))
    assert tokens(short[0]) == 1


def test_steps_take_the_time_of_the_cost_model() -> None:
    args = {"step_base_ms": 2.0, "prefill_tokens_per_s": 10_000.0, "decode_ms_per_seq": 0.5}
    results, steps = serve(make(args), *[request(f"r{i}", 50, 5) for i in range(4)])
    durations = [
        round((2.0 + (step.prefill_tokens or 0) / 10 + (step.decode_tokens or 0) * 0.5) * 1e6)
        for step in steps
    ]
    assert [step.duration_ns for step in steps] == durations
    assert steps[-1].logged_ns - steps[0].logged_ns == pytest.approx(sum(durations[1:]), abs=100_000)
    # It is never idle, so one step ends where the next begins.
    stamps = [step.engine_ts_ns or 0 for step in steps]
    assert [after - before for before, after in itertools.pairwise(stamps)] == durations[1:]
    # Nothing is seen before the step that made it has ended.
    assert min(chunk.t_ns for chunks in results for chunk in chunks) >= stamps[0]


def test_batch_limits() -> None:
    _, steps = serve(
        make(max_num_seqs=3, max_num_batched_tokens=40), *[request(f"r{i}", 30, 6) for i in range(8)]
    )
    assert max(step.running for step in steps) == 3
    assert max((step.prefill_tokens or 0) + (step.decode_tokens or 0) for step in steps) == 40
    assert sum(step.prefill_tokens or 0 for step in steps) == 8 * 30
    assert sum(step.decode_tokens or 0 for step in steps) == 8 * 5
    assert max(step.waiting for step in steps) > 0
    assert (steps[-1].running, steps[-1].waiting) == (0, 0)


def test_full_kv_cache_preempts_the_latest_and_all_end() -> None:
    results, steps = serve(make({"kv_cache_tokens": 100}), *[request(f"r{i}", 20, 60) for i in range(4)])
    assert [tokens(chunks) for chunks in results] == [60] * 4
    preemptions = [chunks[-1].stamps.preemptions for chunks in results]
    assert preemptions[0] == 0
    assert sum(preemptions) > 0
    assert 0 < max(step.kv_cache_usage or 0 for step in steps) <= 1
    # What was preempted is computed again.
    assert sum(step.prefill_tokens or 0 for step in steps) > 4 * 20


@settings(max_examples=40)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 25)), min_size=1, max_size=12),
    kv=st.integers(65, 200),
    budget=st.integers(1, 60),
    seqs=st.integers(1, 6),
)
def test_every_request_ends_with_its_tokens(
    sizes: list[tuple[int, int]], kv: int, budget: int, seqs: int
) -> None:
    engine = make(
        {"kv_cache_tokens": kv, "step_base_ms": 0.0, "decode_ms_per_seq": 0.0},
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
    )
    results, steps = serve(engine, *[request(f"r{i}", *size) for i, size in enumerate(sizes)])
    assert [tokens(chunks) for chunks in results] == [size[1] for size in sizes]
    for step in steps:
        assert step.running <= seqs
        assert (step.prefill_tokens or 0) + (step.decode_tokens or 0) <= budget
        assert 0 <= (step.kv_cache_usage or 0) <= 1
    if not any(chunks[-1].stamps.preemptions for chunks in results):
        assert sum(step.prefill_tokens or 0 for step in steps) == sum(size[0] for size in sizes)
        assert sum(step.decode_tokens or 0 for step in steps) == sum(size[1] - 1 for size in sizes)


def test_cancelled_request_leaves_the_engine() -> None:
    engine = make({"step_base_ms": 1.0})

    async def run() -> int:
        await engine.start()
        task = asyncio.create_task(complete(engine, request("gone", 16, 900)))
        await asyncio.sleep(0.02)
        assert len(engine._running) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = len(engine._running) + len(engine._waiting)
        assert tokens(await complete(engine, request("next", 4, 4))) == 4
        await engine.stop()
        return left

    assert virtual_time.run(run()) == 0


def test_info() -> None:
    engine = make({"vocab_size": 77}, max_model_len=123)
    info = virtual_time.run(engine.start())
    assert (info.name, info.device, info.gpu_uuids) == ("tiny", "cpu", ())
    assert (info.vocab_size, info.max_model_len) == (77, 123)
    assert virtual_time.run(make().start()).max_model_len == 2000


@pytest.mark.parametrize(
    "wanted", [request("a", 0, 1), request("a", 1, 0), request("a", 600, 500), request("a", 1, 2000)]
)
def test_request_that_does_not_fit_fails_alone(wanted: GenerationRequest) -> None:
    (failed, fits), _ = serve(make(max_model_len=1000), wanted, request("b"))
    assert isinstance(failed, RunFailedError)
    assert failed.reason == "request_failed"
    assert tokens(fits) == 8


def test_every_nth_request_fails_half_way() -> None:
    results, _ = serve(make({"fail_request_every": 3}), *[request(f"r{i}", 4, 10) for i in range(7)])
    assert [isinstance(result, RunFailedError) for result in results] == [
        False,
        False,
        True,
        False,
        False,
        True,
        False,
    ]
    assert results[2].reason == "request_failed"


@pytest.mark.parametrize("reason", ["engine_start_failed", "out_of_memory", "unsupported_model"])
def test_failing_start(reason: str) -> None:
    engine = make({"fail_at_start": reason})
    with pytest.raises(RunFailedError) as failure:
        virtual_time.run(engine.start())
    assert failure.value.reason == reason
    virtual_time.run(engine.stop())


def test_hanging_start_is_ended_by_its_timeout() -> None:
    with pytest.raises(RunFailedError, match=r"start_timeout_s=0\.05") as failure:
        took_s(make({"hang_at_start": True}, start_timeout_s=0.05).start())
    assert failure.value.reason == "engine_start_failed"


def took_s(work: Coroutine[Any, Any, Any]) -> float:
    """Seconds of virtual time."""

    async def timed(clock: virtual_time.VirtualClock) -> float:
        begin_ns = clock.now_ns()
        await work
        return (clock.now_ns() - begin_ns) / 1e9

    return float(virtual_time.run(timed))


def test_slow_start_is_slow() -> None:
    assert took_s(make({"slow_start_s": 100.0}).start()) == pytest.approx(100.0, abs=0.001)
    assert took_s(make().start()) < 0.001


def test_death_fails_what_runs_waits_and_comes() -> None:
    engine = make({"die_after_s": 0.05, "step_base_ms": 1.0}, max_num_seqs=1)

    async def run() -> list[Any]:
        await engine.start()
        wanted = [complete(engine, request(name, 4, 900)) for name in ("runs", "waits")]
        ended = await asyncio.wait_for(asyncio.gather(*wanted, return_exceptions=True), 10)
        ended += await asyncio.gather(complete(engine, request("comes")), return_exceptions=True)
        await engine.stop()
        return ended

    ended = virtual_time.run(run())
    assert [error.reason for error in ended] == ["engine_died"] * 3
    assert len({id(error) for error in ended}) == 3


def test_idle_engine_dies_too() -> None:
    engine = make({"die_after_s": 0.02})

    async def run() -> None:
        await engine.start()
        await asyncio.sleep(0.05)
        await complete(engine, request("late"))

    with pytest.raises(RunFailedError, match="die_after_s"):
        virtual_time.run(run())


def test_exit_ends_the_whole_process() -> None:
    program = """
        import asyncio
        from pathlib import Path
        from wattcount.config.schema import *
        from wattcount.engines.registry import create

        async def main():
            args = {"exit_after_s": 0.05, "exit_code": 77}
            cfg = RunConfig(engine=EngineConfig(name="tiny", args=args), scenario=BatchConfig())
            engine = create(cfg, [], Path("unused"))
            try:
                await engine.start()
                await asyncio.sleep(20)
            finally:
                print("not reached")

        asyncio.run(main())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (77, b""), done.stderr


def test_stop_is_idempotent_and_final() -> None:
    engine = make({"step_base_ms": 1.0, "exit_after_s": 3600.0})

    async def run() -> Any:
        await engine.stop()
        await engine.start()
        pending = asyncio.create_task(complete(engine, request("a", 4, 900)))
        await asyncio.sleep(0.01)
        await engine.stop()
        await engine.stop()
        return await asyncio.gather(pending, complete(engine, request("b")), return_exceptions=True)

    assert [error.reason for error in virtual_time.run(run())] == ["engine_died"] * 2


def test_generating_before_start() -> None:
    with pytest.raises(RunFailedError, match="not started"):
        virtual_time.run(complete(make(), request("a")))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"vocab": 3}, r"engine\.args\.vocab: .* did you mean vocab_size"),
        ({"zzz": 3}, r"engine\.args\.zzz: .*it has step_base_ms"),
        ({"vocab_size": "many"}, r"engine\.args\.vocab_size must be int, got 'many'"),
        ({"vocab_size": 2.5}, r"vocab_size must be int"),
        ({"vocab_size": True}, r"vocab_size must be int"),
        ({"vocab_size": None}, r"vocab_size must be int"),
        ({"vocab_size": 0}, r"vocab_size must be at least 1"),
        ({"step_base_ms": -1.0}, r"step_base_ms must be at least 0"),
        ({"step_base_ms": float("nan")}, r"step_base_ms must be at least 0"),
        ({"prefill_tokens_per_s": 0}, r"prefill_tokens_per_s must be above 0"),
        ({"hang_at_start": 1}, r"hang_at_start must be bool"),
        ({"die_after_s": "soon"}, r"die_after_s must be float"),
        ({"fail_at_start": "gremlins"}, r"fail_at_start must be one of engine_start_failed"),
        ({"fail_request_every": 0}, r"fail_request_every must be at least 1"),
    ],
)
def test_bad_arguments(args: dict[str, Any], message: str) -> None:
    with pytest.raises(NotStartedError, match=message):
        TinyArgs.parse(args)


def test_whole_numbers_are_good_floats() -> None:
    assert TinyArgs.parse({"step_base_ms": 1, "die_after_s": 2}).step_base_ms == 1


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "max_model_len"])
def test_bad_limits(name: str) -> None:
    with pytest.raises(NotStartedError, match=rf"engine\.{name} must be at least 1, got 0"):
        make(**{name: 0})


def test_the_first_step_of_each_kind_compiles() -> None:
    async def run() -> list[int]:
        engine = make({"compile_ms": 50.0})
        steps: list[EngineStep] = []
        engine.on_step = steps.append
        await engine.start()
        for name, prompt in (("a", 16), ("b", 17), ("c", 19), ("d", 20), ("e", 16), ("f", 20)):
            await complete(engine, request(name, prompt, 1))
        await engine.stop()
        return [step.duration_ns for step in steps]

    first, odd, odd_again, by_four, first_again, by_four_again = virtual_time.run(run())
    assert min(first, odd, by_four) > 50e6
    assert max(odd_again, first_again, by_four_again) < 50e6


def test_prompts_are_kept_until_it_is_cleared() -> None:
    engine = make({"prefix_caching": True})

    async def run() -> list[int | None]:
        info = await engine.start()
        cached = []
        for name in ("new", "again", "cleared"):
            if name == "cleared":
                assert await engine.clear() == info
            last = (await complete(engine, request(name)))[-1]
            assert last.stamps is not None
            cached.append(last.stamps.cached_tokens)
        waiting = asyncio.ensure_future(complete(engine, request("runs", output=900)))
        await asyncio.sleep(0)
        assert await engine.clear() is None  # not while a request is in it
        await engine.stop()
        await asyncio.gather(waiting, return_exceptions=True)
        assert await engine.clear() is None
        return cached

    assert virtual_time.run(run()) == [0, 15, 0]
