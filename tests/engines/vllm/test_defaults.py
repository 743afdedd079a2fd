"""What is expected of vLLM where a setting is left to it: against records of bare engines, and against vLLM's own function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wattcount.config import compose
from wattcount.config.loader import changed
from wattcount.config.schema import Device, ScenarioKind
from wattcount.engines import defaults as left_to_engine
from wattcount.engines import registry
from wattcount.engines.vllm import defaults as table
from wattcount.engines.vllm.setup import USAGE_CONTEXTS

GIB = 2**30
VLLM = registry.plugin("vllm")
DATA = Path(__file__).resolve().parents[3] / "data"


def run(*overrides: str, version: str | None = "0.32", **engine: Any) -> Any:
    cfg = compose(["model=llama3_8b", *overrides])
    cfg = changed(cfg, {"engine.version_minor": version})
    return changed(cfg, {f"engine.{name}": value for name, value in engine.items()})


@pytest.mark.parametrize(
    ("gpu", "memory_gib", "version", "server", "batch"),
    [
        ("h100", 79.6, "0.26", (1024, 8192), (1024, 16384)),
        ("h200", 140.4, "0.32", (1024, 8192), (1024, 16384)),
        ("h200", None, "0.32", (1024, 8192), (1024, 16384)),
        ("a100_80gb", 80.0, "0.26", (256, 2048), (256, 8192)),
        ("l4", 22.5, "0.26", (256, 2048), (256, 8192)),
        ("b200", 179.0, "0.27", (1024, 8192), (1024, 16384)),
        ("b200", 179.0, "0.28", (1024, 16384), (1024, 16384)),
        ("b200", 179.0, None, (1024, 16384), (1024, 16384)),
    ],
)
def test_the_limits_of_a_batch_depend_on_gpu_scenario_and_version(
    gpu: str, memory_gib: float | None, version: str | None, server: tuple[int, int], batch: tuple[int, int]
) -> None:
    memory_bytes = None if memory_gib is None else int(memory_gib * GIB)
    for name, expected in (("server", server), ("batch", batch)):
        found = table.defaults(run(f"gpu={gpu}", f"scenario={name}", version=version), memory_bytes)
        assert (found.max_num_seqs, found.max_num_batched_tokens) == expected


def test_a_setting_that_is_given_bounds_the_other() -> None:
    found = table.defaults(run("gpu=h100", "scenario=batch", "engine.max_num_seqs=8"))
    assert found.max_num_batched_tokens == 8 * 768
    found = table.defaults(run("gpu=h100", "scenario=batch", "engine.max_num_batched_tokens=512"))
    assert found.max_num_seqs == 512


def test_without_chunked_prefill_a_step_holds_the_longest_prompt() -> None:
    cfg = run("gpu=l4", "scenario=server", "engine.max_model_len=8192", "engine.enable_chunked_prefill=false")
    assert table.defaults(cfg).max_num_batched_tokens == 8192


def test_an_engine_without_attention_keeps_no_prefixes() -> None:
    assert table.defaults(run()).enable_prefix_caching is True
    hybrid = "model=nemotron3_nano_30b_a3b"
    assert table.defaults(run(hybrid)).enable_prefix_caching is True
    assert table.defaults(run(hybrid, version="0.28")).enable_prefix_caching is True
    assert table.defaults(run(hybrid, version="0.27")).enable_prefix_caching is False
    assert table.defaults(run("model=falcon3_mamba_7b")).enable_prefix_caching is False


def test_what_was_left_to_the_engine_is_filled_in_and_can_be_told_from_what_was_asked() -> None:
    cfg = run("gpu=h100", "scenario=server", "engine.max_num_seqs=64", "engine.enable_prefix_caching=false")
    filled = VLLM.resolved(cfg)
    assert (filled.max_num_seqs, filled.max_num_batched_tokens) == (64, 8192)
    assert filled.enable_prefix_caching is False
    assert filled.unset == ["enable_chunked_prefill", "gpu_memory_utilization", "max_num_batched_tokens"]
    assert left_to_engine.asked(filled) == cfg.engine
    cfg = changed(cfg, {"engine": filled})
    assert VLLM.resolved(cfg) == filled


def test_what_the_engine_chose_otherwise_is_found() -> None:
    cfg = run("gpu=h100", "scenario=server", "engine.max_num_seqs=64")
    cfg = changed(cfg, {"engine": VLLM.resolved(cfg)})
    told = {"max_num_seqs": 32, "max_num_batched_tokens": 4096, "enable_prefix_caching": True, "other": 1}
    found = left_to_engine.differences(cfg.engine, told)
    assert found == {"max_num_batched_tokens": {"expected": 8192, "chosen": 4096}}
    assert left_to_engine.notes(found) == [
        "engine.max_num_batched_tokens was left to the engine, which chose 4096; expected, and in the record's identity, was "
        "8192: set engine.max_num_batched_tokens to measure a point that says so"
    ]


def test_records_of_bare_engines_show_no_usage_context() -> None:
    """They were `AsyncLLM` without one: 128 and 2,048, which no usage context of the table has on these GPUs."""
    seen = set()
    for file in sorted(DATA.glob("h*/records/*/*/run.json")):
        info = json.loads(file.read_bytes())
        asked, told = info["config"]["engine"], info["engine"]["details"]
        if asked["max_num_seqs"] is None and asked["max_num_batched_tokens"] is None:
            seen.add((told["max_num_seqs"], told["max_num_batched_tokens"]))
            assert told.get("enable_chunked_prefill") in (None, True)
    assert seen == {(128, 2048)}
    large = table.LARGE_GPU
    assert not seen & {(large.requests[kind], large.tokens[kind]) for kind in ScenarioKind}


class TestInstalled:
    """Against the vLLM that is installed, with a GPU made up for it."""

    @pytest.fixture
    def vllm_defaults(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        arg_utils = pytest.importorskip("vllm.engine.arg_utils")
        from vllm.usage.usage_lib import UsageContext

        def of(
            kind: ScenarioKind, name: str, memory_bytes: int, processes: int, cpu: bool
        ) -> tuple[int, int]:
            class Platform:
                def get_device_total_memory(self) -> int:
                    return memory_bytes

                def get_device_name(self) -> str:
                    return name

                def is_tpu(self) -> bool:
                    return False

                def is_cpu(self) -> bool:
                    return cpu

            monkeypatch.setattr(arg_utils, "current_platform", Platform())
            tokens, requests = arg_utils.EngineArgs.get_batch_defaults(processes)
            context = UsageContext[USAGE_CONTEXTS[kind]]
            return requests[context], tokens[context]

        return of

    @pytest.mark.parametrize("kind", list(ScenarioKind))
    @pytest.mark.parametrize(
        ("gpu", "name", "memory_gib"),
        [
            ("h100", "NVIDIA H100 80GB HBM3", 79.6),
            ("h200", "NVIDIA H200", 140.4),
            ("a100_80gb", "NVIDIA A100-SXM4-80GB", 80.0),
            ("l4", "NVIDIA L4", 22.5),
            ("t4", "Tesla T4", 15.0),
            ("b200", "NVIDIA B200", 179.0),
            ("h100", "NVIDIA H100 80GB HBM3", 69.9),
        ],
    )
    def test_the_table_is_vllms(
        self, vllm_defaults: Any, kind: ScenarioKind, gpu: str, name: str, memory_gib: float
    ) -> None:
        cfg = run(f"gpu={gpu}", f"scenario={kind.value}")
        cfg = changed(cfg, {"gpu.found_name": name})
        memory_bytes = int(memory_gib * GIB)
        found = table.defaults(cfg, memory_bytes)
        theirs = vllm_defaults(kind, name, memory_bytes, 1, False)
        assert (found.max_num_seqs, found.max_num_batched_tokens) == theirs

    @pytest.mark.parametrize("kind", list(ScenarioKind))
    @pytest.mark.parametrize("processes", [1, 2])
    def test_the_table_is_vllms_on_a_cpu(
        self, vllm_defaults: Any, kind: ScenarioKind, processes: int
    ) -> None:
        cfg = run(f"scenario={kind.value}", device=Device.cpu, tensor_parallel_size=processes)
        found = table.defaults(cfg)
        theirs = vllm_defaults(kind, "cpu", 0, processes, True)
        assert (found.max_num_seqs, found.max_num_batched_tokens) == theirs
        assert found.gpu_memory_utilization is None

    def test_the_share_of_memory_is_vllms(self) -> None:
        cache = pytest.importorskip("vllm.config.cache")
        assert cache.CacheConfig().gpu_memory_utilization == table.GPU_MEMORY_UTILIZATION
