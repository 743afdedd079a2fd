"""What vLLM chooses for the settings that are left to it (null): the one table of it.

A setting that is null means what people deploy: what `vllm serve` chooses on that GPU for the scenario `server`, and what
vLLM's class `LLM` chooses for `batch`. vLLM calls the two its usage contexts. A bare `AsyncLLM` has none of them and
takes values meant for tests (128 requests, 2,048 tokens a step).

Source: `EngineArgs.get_batch_defaults`, `_set_default_max_num_seqs_and_batched_tokens_args` and
`_set_default_chunked_prefill_and_prefix_caching_args` in `vllm/engine/arg_utils.py`, and
`ModelConfig.is_prefix_caching_supported`, read in vLLM 0.26.0, 0.27.1, 0.28.0, 0.29.0, 0.30.0, 0.31.0 and 0.32.0. They are of two
families: from 0.28 on GPUs of 160 GiB and more have values of their own, and hybrids of attention and state-space layers keep
prefixes by default. Seen to be so on H200s with 0.26.0: Llama, Qwen3, OLMoE, gpt-oss, Nemotron 3 Nano, Falcon Mamba.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wattcount.config.fit import max_model_len
from wattcount.config.model_shape import model_kind
from wattcount.config.schema import Device, EngineConfig, RunConfig, ScenarioKind
from wattcount.engines.defaults import Defaults

GIB = 2**30
"""Bytes of a GiB, as vLLM compares memory."""
HUGE_GPU_BYTES = 160 * GIB
"""GPU memory from which on vLLM takes the values of HUGE_GPU (B200 and larger) [bytes], in its second family of versions."""
SECOND_FAMILY = (0, 28)
"""First version of vLLM that has the values of HUGE_GPU and keeps prefixes of hybrids of attention and state-space layers."""
LARGE_GPU_BYTES = 70 * GIB
"""GPU memory from which on vLLM takes the values of LARGE_GPU [bytes], but for an A100, which got slower (vLLM's pull request 17885)."""
GPU_MEMORY_UTILIZATION = 0.92
"""Share of a GPU's memory for weights, activations and KV cache: `CacheConfig.gpu_memory_utilization` in all these versions."""
BATCHED_DATA_PARALLEL_TOKENS = 256
"""Tokens a step of mixtures of experts whose replicas exchange tokens in batches
(`DEFAULT_MAX_NUM_BATCHED_TOKENS_FOR_BATCHED_DP`)."""
BATCHED_DATA_PARALLEL_BACKENDS = frozenset({"deepep_low_latency", "nixl_ep"})
"""Backends that exchange tokens so (`all2all_backend`)."""


@dataclass(frozen=True)
class BatchLimits:
    """Limits of one engine: requests that run at once, and tokens of a step, for a server and for a batch."""

    requests: Mapping[ScenarioKind, int]
    tokens: Mapping[ScenarioKind, int]


def _limits(*, server: tuple[int, int], batch: tuple[int, int]) -> BatchLimits:
    return BatchLimits(
        {kind: (batch if kind is ScenarioKind.batch else server)[0] for kind in ScenarioKind},
        {kind: (batch if kind is ScenarioKind.batch else server)[1] for kind in ScenarioKind},
    )


HUGE_GPU = _limits(server=(1024, 16384), batch=(1024, 16384))
"""Limits by the GPU: from HUGE_GPU_BYTES on, in the second family."""
LARGE_GPU = _limits(server=(1024, 8192), batch=(1024, 16384))
"""Limits on GPUs with LARGE_GPU_BYTES or more."""
OTHER_GPU = _limits(server=(256, 2048), batch=(256, 8192))
"""Limits on all other GPUs."""
CPU = _limits(server=(128, 2048), batch=(256, 4096))
"""Limits on a CPU; vLLM multiplies them by tensor parallel and by pipeline parallel."""


def defaults(
    cfg: RunConfig, memory_bytes: int | None = None, scenario: ScenarioKind | None = None
) -> Defaults:
    """What vLLM works with: what `cfg` sets, and vLLM's own choice for everything that is null.

    memory_bytes  of one GPU, as NVML or CUDA tells; None: by the data sheet, and without one as of a small GPU
    scenario      whose choice it is; None: the run's own
    """
    engine, kind = cfg.engine, scenario or cfg.scenario.kind
    limits = _batch_limits(cfg, memory_bytes)
    requests, tokens = limits.requests[kind], limits.tokens[kind]
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
    return chosen.under(engine)


def _keeps_prefixes(cfg: RunConfig) -> bool:
    """Whether prefixes are kept by default: not of attention-free models, of hybrids from the second family on."""
    kind = model_kind(cfg.model.hf_config)
    return kind != "ssm" and (kind != "hybrid" or _version(cfg.engine) >= SECOND_FAMILY)


def _batch_limits(cfg: RunConfig, memory_bytes: int | None) -> BatchLimits:
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
    """The version of vLLM; where it is not known yet, one of the later family of defaults."""
    match = re.fullmatch(r"(\d+)\.(\d+)", engine.version_minor or "")
    return (int(match[1]), int(match[2])) if match else SECOND_FAMILY


BARE_ENGINE = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "enable_chunked_prefill": True}
"""Values in earlier versions for settings that were null: vLLM's `AsyncLLM` without a usage context takes them (`SchedulerConfig` in
vLLM 0.26 to 0.32), and the records in `data/` have them in `engine.details`. Now null is what `vllm serve` or `LLM` chooses."""
FORMER_DEFAULTS = {"gpu_memory_utilization": 0.9, "enable_prefix_caching": False}
"""Defaults of wattcount itself in those versions."""


def upgraded(engine: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The group `engine` of a record's configuration; `details` as vLLM told them.

    Settings that were left to vLLM get the values that they had, by `details` as far as it tells. These and those that
    were as wattcount had them by default are listed in `unset`.
    """
    if "unset" in engine:
        return engine
    left = {name: value for name, value in BARE_ENGINE.items() if engine.get(name) is None}
    known = {name: details[name] for name in left if details.get(name) is not None}
    by_default = {name: value for name, value in FORMER_DEFAULTS.items() if engine.get(name) in (None, value)}
    return {**engine, **left, **known, **by_default, "unset": sorted({*left, *by_default})}
