"""What vLLM tells, in the words of `engines.base`: steps, tokens, stamps, resolved settings, and what went wrong.

vLLM's engine core is a child process. When the child fails, the parent says only "see root cause above". The cause is in
the log, as a traceback of the child.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import Any

from wattcount.engines.base import EngineStep
from wattcount.errors import RunFailedError, one_line
from wattcount.load.request import EngineStamps, TokenChunk

LINE_CHARACTERS = 400
"""Most of what is shown of an error of vLLM [characters]: its configuration checks take a line or three."""
_COMPILED = re.compile(rb"JIT compilation during inference: ([^\s(]+?)(?: \(|\. |\.?$)", re.MULTILINE)
"""A line of vLLM's JIT monitor (`vllm/utils/jit_monitor.py`, vLLM 0.26 to 0.32) on a kernel of Triton, CuTeDSL or TileLang."""
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt))(?::\s*(.*))?$")
"""The last line of a traceback."""
_PREFIX = re.compile(r"^(?:\([^)]*\)\s*)?(?:[A-Z]+ [\d:. -]+(?:\[[^\]]*\])? ?)?")
"""What vLLM's logger puts before a line: process, level, time, place."""
_NOT_A_CAUSE = ("see root cause above", "See stack trace", "please check the stack trace", "EngineDeadError")
"""Texts of exceptions that only point to another one."""
_KILLED = re.compile(r"Failed core proc\(s\): \{[^}]*: -9\b")
"""An engine process that was ended by SIGKILL, in the message of the front end."""
_START_FAILURES = tuple(
    (re.compile(pattern, re.IGNORECASE), reason, message)
    for pattern, reason, message in (
        (
            r"out of memory|OutOfMemory|MemoryError|cannot allocate memory|can't allocate memory"
            r"|No available memory for the cache blocks|larger than the available KV cache memory"
            r"|Free memory on device .* less than desired|Available memory .* less than requested"
            r"|not enough (?:GPU |free )?memory",
            "out_of_memory",
            "vLLM ran out of memory while starting: {} (lower engine.max_model_len or engine.max_num_seqs, or take a GPU with "
            "more memory)",
        ),
        (
            r"architectures? .* (?:is|are) not supported|does not recognize this architecture|has no vLLM implementation"
            r"|no module or parameter named|Cannot find model module|model type .* (?:is not supported|not recogni[sz]ed)"
            r"|not support(?:ed)? .*(?:quantization|dtype)|Bfloat16 is only supported on GPUs",
            "unsupported_model",
            "vLLM cannot run this model: {}",
        ),
        (
            r"gated repo|access to model .* is restricted|401 Client Error|403 Client Error|Cannot access gated"
            r"|awaiting a review",
            "engine_start_failed",
            "the hub refuses the weights: {} (accept the licence and set HF_TOKEN, or use model.weights=random)",
        ),
        (
            r"is not a local folder and is not a valid model identifier|Repository Not Found|couldn't connect to"
            r"|offline mode is enabled|LocalEntryNotFound|Can't load the configuration of|OfflineModeIsEnabled",
            "engine_start_failed",
            "the model could not be had from the hub: {} (check model.hf_id and the network, or use model.weights=random)",
        ),
    )
)
"""Failed starts of vLLM: what its error or its log says, our reason, and our message around its text."""


class KernelLog:
    """The kernels that were compiled while serving, by vLLM's log, which is read as it grows.

    log     vLLM's log file, which need not exist yet
    offset  bytes of the log that are from earlier engines
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


def resolved_facts(vllm_config: Any) -> dict[str, Any]:
    """What a vLLM that is up tells of itself, in the process of its front end; plain values."""
    model = vllm_config.model_config
    torch = sys.modules["torch"]
    return {
        "vocab_size": int(model.get_vocab_size()),
        "max_model_len": int(model.max_model_len),
        "architecture": str(getattr(model, "architecture", None)),
        "dtype": str(model.dtype),
        "eos_ids": eos_ids(model),
        "torch": str(torch.__version__),
        "cuda": getattr(torch.version, "cuda", None),
        "settings": resolved_settings(vllm_config),
    }


def resolved_settings(vllm_config: Any) -> dict[str, Any]:
    """The settings in force, as vLLM resolved them: what was left to it, and what it changed. None: not told."""
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
        "cuda_graph_sizes": _plain_list(getattr(compilation, "cudagraph_capture_sizes", None)),
        "stream_interval": getattr(scheduler, "stream_interval", None),
        "tensor_parallel_size": getattr(parallel, "tensor_parallel_size", None),
        "pipeline_parallel_size": getattr(parallel, "pipeline_parallel_size", None),
        "data_parallel_size": getattr(parallel, "data_parallel_size", None),
        "speculative": None,
    }
    if speculative is not None:
        names = ("method", "num_speculative_tokens", "prompt_lookup_min", "prompt_lookup_max")
        settings["speculative"] = {name: getattr(speculative, name, None) for name in names}
    return settings


def _plain_list(values: Any) -> list[int] | None:
    return None if values is None else [int(value) for value in values]


def log_size(path: Path) -> int:
    """Bytes in the log now; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def root_cause(log: Path, offset: int) -> str | None:
    """The first exception that the log shows from byte `offset` on, as `Type: message`; None: none."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    for number, raw in enumerate(lines):
        line = _PREFIX.sub("", raw).strip()
        match = _EXCEPTION.match(line)
        if match is None or any(text in line for text in _NOT_A_CAUSE):
            continue
        message = match[2] or ""
        # Pydantic puts the message on the next lines.
        if message.endswith(("validation error", "validation errors")) or "validation error for" in message:
            message = " ".join(_PREFIX.sub("", text).strip() for text in lines[number + 1 : number + 3])
        return one_line(f"{match[1]}: {message}" if message else match[1], LINE_CHARACTERS)
    return None


def describe(error: BaseException) -> str:
    """The innermost cause of an exception as `Type: message`."""
    while (cause := error.__cause__) is not None:
        error = cause
    text = str(error)
    details = getattr(error, "errors", None)
    if callable(details) and type(error).__name__ == "ValidationError":
        first = details()[0]
        where = ".".join(str(part) for part in first["loc"])
        text = f"{where}: {first['msg']}" if where else str(first["msg"])
        return one_line(text.replace("Value error, ", ""), LINE_CHARACTERS)
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, LINE_CHARACTERS)


def _chain(error: BaseException | None) -> str:
    """Everything an exception and its causes say, for searching."""
    texts = []
    while error is not None:
        texts.append(f"{type(error).__name__}: {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


def start_error(error: BaseException, log: Path, offset: int) -> RunFailedError:
    """The error of a failed start: the cause in the child's log, else the exception itself."""
    shown = describe(error)
    cause = root_cause(log, offset) if "root cause above" in shown or "stack trace" in shown else None
    text = cause or shown
    told = cause or _chain(error)
    for pattern, reason, message in _START_FAILURES:
        if pattern.search(told):
            return RunFailedError(reason, message.format(text))
    if cause is None and _KILLED.search(shown):
        return RunFailedError(
            "out_of_memory",
            "vLLM's engine process was killed while starting (signal 9): most likely out of host memory",
        )
    return RunFailedError("engine_start_failed", f"vLLM did not start: {text} (full log: {log})")
