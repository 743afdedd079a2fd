"""What an engine chooses for the settings that are left to it (null): the one table of it.

For vLLM a setting that is null means what people deploy: what `vllm serve` chooses on that GPU for the scenario `server`, and
what vLLM's class `LLM` chooses for `batch`. vLLM calls the two its usage contexts. A bare `AsyncLLM` has none of them and
takes values meant for tests (128 requests, 2,048 tokens a step).

::

    asked (null) --- resolved() --- in the configuration, its identity, the plan and the fit arithmetic
                                    the engine is still asked with null, and what it chose is compared (`differences`)

Source: `EngineArgs.get_batch_defaults`, `_set_default_max_num_seqs_and_batched_tokens_args` and
`_set_default_chunked_prefill_and_prefix_caching_args` in `vllm/engine/arg_utils.py`, and
`ModelConfig.is_prefix_caching_supported`, read in vLLM 0.26.0, 0.27.1, 0.28.0, 0.29.0, 0.30.0, 0.31.0 and 0.32.0. They are of two
families: from 0.28 on GPUs of 160 GiB and more have values of their own, and hybrids of attention and state-space layers keep
prefixes by default. Seen to be so on H200s with 0.26.0: Llama, Qwen3, OLMoE, gpt-oss, Nemotron 3 Nano, Falcon Mamba.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wattcount.config.context_length import max_model_len
from wattcount.config.hf_config import model_kind
from wattcount.config.schema import Device, EngineConfig, EngineKind, RunConfig, ScenarioKind

GIB = 2**30
HUGE_GPU_BYTES = 160 * GIB
"""From here on vLLM takes the values of HUGE_GPU (B200 and larger), in its second family of versions."""
SECOND_FAMILY = (0, 28)
"""vLLM's version from which on it has HUGE_GPU's values, and keeps prefixes of hybrids of attention and state-space layers."""
LARGE_GPU_BYTES = 70 * GIB
"""From here on vLLM takes the values of LARGE_GPU, but for an A100 (vLLM's pull request 17885: it got slower)."""
GPU_MEMORY_UTILIZATION = 0.92
"""Of a GPU's memory, for weights, activations and KV cache: `CacheConfig.gpu_memory_utilization` in all these versions."""
BATCHED_DATA_PARALLEL_TOKENS = 256
"""Tokens a step of mixtures of experts whose replicas exchange tokens in batches (`DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP`)."""
BATCHED_DATA_PARALLEL_BACKENDS = frozenset({"deepep_low_latency", "nixl_ep"})


@dataclass(frozen=True)
class BatchLimits:
    """Of one engine: requests that run at once, and tokens of a step for a server and for a batch."""

    requests: Mapping[ScenarioKind, int]
    tokens: Mapping[ScenarioKind, int]


def _limits(*, server: tuple[int, int], batch: tuple[int, int]) -> BatchLimits:
    return BatchLimits(
        {ScenarioKind.server: server[0], ScenarioKind.batch: batch[0]},
        {ScenarioKind.server: server[1], ScenarioKind.batch: batch[1]},
    )


HUGE_GPU = _limits(server=(1024, 16384), batch=(1024, 16384))
LARGE_GPU = _limits(server=(1024, 8192), batch=(1024, 16384))
OTHER_GPU = _limits(server=(256, 2048), batch=(256, 8192))
CPU = _limits(server=(128, 2048), batch=(256, 4096))
"""Times tensor parallel times pipeline parallel."""
TINY = _limits(server=(256, 8192), batch=(256, 8192))
"""Of the tiny engine (`engines.tiny.engine`)."""


@dataclass(frozen=True)
class Defaults:
    """A value for each setting that may be left to the engine; fields are named as in `EngineConfig`. None: it has none."""

    max_num_seqs: int
    max_num_batched_tokens: int
    gpu_memory_utilization: float | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None


SETTINGS = tuple(item.name for item in dataclasses.fields(Defaults))


def defaults(cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
    """What the engine of `cfg` works with: what is set there, and its own choice for everything that is null.

    memory_bytes  of one GPU, as NVML or CUDA tells; None: by the data sheet, and without one as of a small GPU
    """
    engine = cfg.engine
    if engine.name is EngineKind.tiny:
        return _as_set(engine, Defaults(*_of(TINY, cfg)))
    requests, tokens = _of(_vllm_limits(cfg, memory_bytes), cfg)
    length = max_model_len(cfg)
    factor = 2 if engine.args.get("performance_mode") == "throughput" else 1
    if (
        engine.data_parallel_size > 1
        and engine.args.get("enable_expert_parallel")
        and engine.args.get("all2all_backend") in BATCHED_DATA_PARALLEL_BACKENDS
    ):
        tokens = BATCHED_DATA_PARALLEL_TOKENS
    requests, tokens = requests * factor, tokens * factor
    if engine.max_num_seqs is not None:
        requests = engine.max_num_seqs
    if engine.max_num_batched_tokens is not None:
        tokens = engine.max_num_batched_tokens
    else:
        if engine.enable_chunked_prefill is False:
            tokens = max(length, tokens)
        tokens = min(requests * length, tokens)
    if engine.max_num_seqs is None:
        requests = min(requests, tokens)
    chosen = Defaults(
        requests,
        tokens,
        None if engine.device is Device.cpu else GPU_MEMORY_UTILIZATION,
        enable_prefix_caching=_keeps_prefixes(cfg),
        enable_chunked_prefill=True,
    )
    return _as_set(engine, chosen)


def resolved(cfg: RunConfig, memory_bytes: int | None = None) -> EngineConfig:
    """`cfg.engine` with the settings that were left to vLLM filled in, and their names in `unset`; others as they are.

    Arguments as of `defaults`. The tiny engine's stay null: they are the same everywhere.
    """
    return filled(cfg.engine, defaults(cfg, memory_bytes))


def filled(engine: EngineConfig, chosen: Defaults) -> EngineConfig:
    """`engine` with what is null taken from `chosen`: see `resolved`."""
    if engine.name is not EngineKind.vllm:
        return engine
    found = {
        name: getattr(chosen, name)
        for name in SETTINGS
        if getattr(engine, name) is None and getattr(chosen, name) is not None
    }
    if not found:
        return engine
    return dataclasses.replace(engine, **found, unset=sorted({*engine.unset, *found}))


def asked(engine: EngineConfig) -> EngineConfig:
    """The inverse of `resolved`: null again for what was left to the engine."""
    nulls: dict[str, Any] = dict.fromkeys(engine.unset)
    return dataclasses.replace(engine, unset=[], **nulls)


def differences(engine: EngineConfig, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By setting that was left to the engine: what was `expected` and what it has `chosen`, where these differ.

    engine  as `resolved` made it
    chosen  as the engine tells; a setting that is not in it, or None, is not compared
    """
    return {
        name: {"expected": getattr(engine, name), "chosen": chosen[name]}
        for name in engine.unset
        if chosen.get(name) is not None and chosen[name] != getattr(engine, name)
    }


def notes(different: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of a record should know of `differences`, a line each."""
    return [
        f"engine.{name} was left to the engine, which chose {values['chosen']}; expected, and in the record's identity, was "
        f"{values['expected']}: set engine.{name} to measure a point that says so"
        for name, values in different.items()
    ]


def _keeps_prefixes(cfg: RunConfig) -> bool:
    """Whether prefixes are kept by default: not of attention-free models, of hybrids from the second family on."""
    kind = model_kind(cfg.model.hf_config)
    return kind != "ssm" and (kind != "hybrid" or _version(cfg.engine) >= SECOND_FAMILY)


def _as_set(engine: EngineConfig, chosen: Defaults) -> Defaults:
    """`chosen`, but for what is set in `engine`."""
    set_here = {name: getattr(engine, name) for name in SETTINGS if getattr(engine, name) is not None}
    return dataclasses.replace(chosen, **set_here)


def _of(limits: BatchLimits, cfg: RunConfig) -> tuple[int, int]:
    kind = cfg.scenario.kind
    return limits.requests[kind], limits.tokens[kind]


def _vllm_limits(cfg: RunConfig, memory_bytes: int | None) -> BatchLimits:
    engine, gpu = cfg.engine, cfg.gpu
    if engine.device is Device.cpu:
        processes = engine.tensor_parallel_size * engine.pipeline_parallel_size
        return BatchLimits(
            {kind: value * processes for kind, value in CPU.requests.items()},
            {kind: value * processes for kind, value in CPU.tokens.items()},
        )
    if memory_bytes is None:
        memory_bytes = 0 if gpu.memory_gib is None else int(gpu.memory_gib * GIB)
    name = (gpu.found_name or gpu.emulated_name or gpu.name).lower()
    if memory_bytes >= HUGE_GPU_BYTES and _version(engine) >= SECOND_FAMILY:
        return HUGE_GPU
    if memory_bytes >= LARGE_GPU_BYTES and "a100" not in name:
        return LARGE_GPU
    return OTHER_GPU


def _version(engine: EngineConfig) -> tuple[int, int]:
    """Of vLLM; where it is not known yet, as of the latest family of defaults."""
    match = re.fullmatch(r"(\d+)\.(\d+)", engine.version_minor or "")
    return (int(match[1]), int(match[2])) if match else SECOND_FAMILY
