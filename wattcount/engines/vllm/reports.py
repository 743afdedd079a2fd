"""What vLLM tells, in the words of `engines.base`: steps, tokens, stamps, and the settings it resolved."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from wattcount.engines.base import EngineStamps, EngineStep, TokenChunk

_COMPILED = re.compile(rb"JIT compilation during inference: ([^\s(]+?)(?: \(|\. |\.?$)", re.MULTILINE)
"""A line of vLLM's JIT monitor (`vllm/utils/jit_monitor.py`, vLLM 0.26 to 0.32): Triton's kernels, CuTeDSL's and TileLang's."""


class KernelLog:
    """The kernels that vLLM's log says were compiled while serving, read as the log grows.

    log     vLLM's log file, which need not be there yet
    offset  bytes of it that are of earlier engines
    """

    def __init__(self, log: Path, offset: int) -> None:
        self._log = log
        self._offset = offset
        self._names: list[str] = []

    def read(self) -> list[str]:
        """Names so far, one each time, in order. Lines that are not whole yet wait for the next call."""
        try:
            with self._log.open("rb") as stream:
                stream.seek(self._offset)
                new = stream.read()
        except FileNotFoundError:
            return list(self._names)
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._names += [name.decode(errors="replace") for name in _COMPILED.findall(whole)]
        return list(self._names)


def engine_step(scheduler_stats: Any, iteration_stats: Any, logged_ns: int) -> EngineStep:
    """vLLM's report of a step as an `EngineStep`.

    `iteration_stats` is None on steps without output. Decode tokens are those computed for requests past
    their prompt: the first token of a request comes out of a prefill.
    """
    details = getattr(scheduler_stats, "iteration_details", None)
    prefill: int | None
    decode: int | None
    duration_ns: int | None = None
    if details is not None:
        prefill, decode = int(details.num_ctx_tokens), int(details.num_generation_tokens)
        duration_ns = round(details.elapsed_ms * 1e6)
    elif iteration_stats is not None:
        # Without details a prompt counts as a whole, in the step that ends its prefill.
        prefill = int(iteration_stats.num_prompt_tokens)
        decode = int(iteration_stats.num_generation_tokens) - len(iteration_stats.time_to_first_tokens_iter)
    else:
        prefill = decode = 0
    drafts = getattr(scheduler_stats, "spec_decoding_stats", None)
    return EngineStep(
        logged_ns=logged_ns,
        engine_ts_ns=None,
        duration_ns=duration_ns,
        prefill_tokens=prefill,
        decode_tokens=decode,
        running=int(scheduler_stats.num_running_reqs),
        waiting=int(scheduler_stats.num_waiting_reqs)
        + int(getattr(scheduler_stats, "num_skipped_waiting_reqs", 0)),
        kv_cache_usage=float(scheduler_stats.kv_cache_usage),
        draft_tokens=int(drafts.num_draft_tokens) if drafts is not None else None,
        accepted_tokens=int(drafts.num_accepted_tokens) if drafts is not None else None,
    )


def token_chunk(output: Any, t_ns: int) -> TokenChunk:
    """What a `RequestOutput` that came at `t_ns` adds to its request."""
    completion = output.outputs[0] if output.outputs else None
    return TokenChunk(
        t_ns=t_ns,
        token_count=len(completion.token_ids) if completion is not None else 0,
        finished=bool(output.finished),
        finish_reason=completion.finish_reason if completion is not None else None,
        stamps=_stamps(output) if output.finished else None,
    )


def _stamps(output: Any) -> EngineStamps:
    metrics = output.metrics
    cached = getattr(output, "num_cached_tokens", None)
    if metrics is None:
        return EngineStamps(cached_tokens=cached)
    preemptions = getattr(metrics, "num_preemptions", None)
    return EngineStamps(
        queued_ns=_ns(metrics.queued_ts),
        scheduled_ns=_ns(metrics.scheduled_ts),
        first_token_ns=_ns(metrics.first_token_ts),
        last_token_ns=_ns(metrics.last_token_ts),
        cached_tokens=cached,
        preemptions=preemptions,
    )


def _ns(seconds: float | None) -> int | None:
    """vLLM writes 0.0 for a stamp that was never taken."""
    return round(seconds * 1e9) if seconds else None


def eos_ids(model_config: Any) -> list[int]:
    """End-of-sequence token ids, of the model's config and its generation config."""
    found: set[int] = set()
    generation: dict[str, Any] = {}
    with contextlib.suppress(Exception):
        generation = model_config.try_get_generation_config() or {}
    for value in (getattr(model_config.hf_text_config, "eos_token_id", None), generation.get("eos_token_id")):
        if isinstance(value, int):
            found.add(value)
        elif isinstance(value, list | tuple):
            found.update(int(token) for token in value)
    return sorted(found)


def resolved_settings(vllm_config: Any) -> dict[str, Any]:
    """What is in force, as vLLM resolved it: what was left to it, and what it changed. None: not told."""
    cache, scheduler = vllm_config.cache_config, vllm_config.scheduler_config
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    speculative = getattr(vllm_config, "speculative_config", None)
    compilation = getattr(vllm_config, "compilation_config", None)
    cuda_graphs = getattr(compilation, "cudagraph_mode", None)
    settings = {
        "kv_cache_blocks": getattr(cache, "num_gpu_blocks", None),
        "kv_cache_block_size": getattr(cache, "block_size", None),
        "kv_cache_dtype": getattr(cache, "cache_dtype", None),
        "gpu_memory_utilization": getattr(cache, "gpu_memory_utilization", None),
        "enable_prefix_caching": getattr(cache, "enable_prefix_caching", None),
        "max_num_seqs": getattr(scheduler, "max_num_seqs", None),
        "max_num_batched_tokens": getattr(scheduler, "max_num_batched_tokens", None),
        "enable_chunked_prefill": getattr(scheduler, "enable_chunked_prefill", None),
        "async_scheduling": getattr(scheduler, "async_scheduling", None),
        "quantization": getattr(model, "quantization", None),
        "enforce_eager": getattr(model, "enforce_eager", None),
        "cuda_graphs": getattr(cuda_graphs, "name", None),
        "tensor_parallel_size": getattr(parallel, "tensor_parallel_size", None),
        "pipeline_parallel_size": getattr(parallel, "pipeline_parallel_size", None),
        "data_parallel_size": getattr(parallel, "data_parallel_size", None),
        "speculative": None,
    }
    if speculative is not None:
        names = ("method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")
        settings["speculative"] = {name: getattr(speculative, name, None) for name in names}
    return settings
