"""vLLM in the run's own process: `AsyncLLM`, whose engine core is a child process.

The constructor and everything it checks work without importing vllm; `start` imports it in a thread,
because importing, compiling and loading weights take seconds to minutes and the event loop has to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging.config
import multiprocessing.resource_tracker
import os
import shutil
import tempfile
import threading
import traceback
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil

from wattcount import ownership
from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig, Weights
from wattcount.engines.base import Engine, EngineInfo
from wattcount.engines.vllm.reports import (
    KernelLog,
    describe,
    engine_step,
    log_size,
    resolved_facts,
    root_cause,
    start_error,
    token_chunk,
)
from wattcount.engines.vllm.setup import VllmSetup, logging_config
from wattcount.engines.vllm.started import engine_info
from wattcount.errors import RunFailedError
from wattcount.load.request import GenerationRequest, TokenChunk

ENGINE_LOG = "engine.log"
"""Name of vLLM's log in `log_dir`; the same as `records.schema.ENGINE_LOG`."""

CLEAR_TRIES, CLEAR_PAUSE_S = 50, 0.1
"""How often vLLM is asked to forget its prompts, and how long it is waited in between [s]."""
STOP_GRACE_S = {"cuda": 1.0, "cpu": 0.5}
"""Time in which vLLM's processes may end by themselves, by device [s]. Everything is measured by then, and killing them frees the same:
on an H200 the engine core was still tearing down after 3 s (vLLM 0.26)."""
_ABANDON_NS = 15_000_000_000
"""How long a failed start may go on in its thread [ns]: an import or a download cannot be interrupted."""


class VllmEngine(Engine):
    """See the module.

    `gpu_uuids`: NVML UUIDs of the GPUs to compute on, as many as the engine is spread over; not
    looked at on a CPU. The log of vLLM and its child processes is appended to `log_dir/engine.log`.
    """

    def __init__(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> None:
        super().__init__()
        self._setup = VllmSetup.of(cfg, gpu_uuids)
        # Not on a CPU, where there is no Triton: 62 prefills of a small Llama took a time in proportion to their tokens.
        self.compiles_on_first_use = self._setup.device != "cpu"
        self._log = Path(log_dir) / ENGINE_LOG
        self._log_offset = 0
        self._kernels = KernelLog(self._log, 0)
        self._scratch: Path | None = None
        self._claim: ownership.Claim | None = None
        self._arguments: dict[str, Any] = {}
        self._environment: dict[str, str] = {}
        self._environment_before: dict[str, str] | None = None
        self._llm: Any = None
        self._eos_ids: list[int] = []
        self._children: list[psutil.Process] = []
        self._active: set[str] = set()
        self._info: EngineInfo | None = None
        self._stopping = False

    # --- starting -------------------------------------------------------------------------------

    async def start(self) -> EngineInfo:
        if self._llm is not None:
            raise RuntimeError("the engine is already up")
        self._stopping = False
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_offset = log_size(self._log)
        self._kernels = KernelLog(self._log, self._log_offset)
        self._scratch = Path(tempfile.mkdtemp(prefix="wattcount-vllm-"))
        self._claim = ownership.claim(self._scratch / ownership.CLAIM_NAME)
        self._environment_before = dict(os.environ)
        self._environment = self._setup.environment(self._scratch, self._log, self._environment_before)
        os.environ.update(self._environment)
        before = set(own_children())
        limit_s = self._setup.engine.start_timeout_s
        launch = in_thread(self._launch)
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                await asyncio.shield(launch)
                self._children = [child for child in own_children() if child not in before]
                self._info = await self._describe()
                return self._info
        except RunFailedError:
            await self._abandon(launch, before)
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                await self._abandon(launch, before)
                raise RunFailedError(
                    "engine_start_failed",
                    f"vLLM was not up within engine.start_timeout_s={limit_s:g} s (log: {self._log})",
                ) from None
            # vLLM's own time-outs (a download, a socket, NCCL) are errors like any other.
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
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        setup = self._setup
        if setup.model.weights is Weights.random or not setup.engine.args.get("trust_remote_code"):
            from wattcount.engines.vllm.extensions import register

            register()
        # For this process, where vllm may have been imported before; children read it from the environment.
        logging.config.dictConfig(logging_config(self._log))
        assert self._scratch is not None
        self._arguments = setup.arguments(self._scratch)
        args = AsyncEngineArgs(**self._arguments)
        if self._stopping:
            return
        # Without it vLLM takes limits of a batch that are meant for tests (`defaults`).
        usage_context = UsageContext[setup.usage_context]
        self._llm = AsyncLLM.from_engine_args(
            args, usage_context=usage_context, stat_loggers=[self._step_logger()]
        )

    async def _describe(self) -> EngineInfo:
        llm = self._llm
        facts = resolved_facts(llm.vllm_config)
        self._eos_ids = facts["eos_ids"]

        async def ask_workers(method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
            return list(await llm.collective_rpc(method, args=args))

        return await engine_info("vllm", self._setup, facts, self._arguments, self._environment, ask_workers)

    async def _abandon(self, launch: asyncio.Future[None], before: set[psutil.Process]) -> None:
        """Cleans up after a start that failed, was cancelled or took too long."""
        self._stopping = True
        deadline_ns = now_ns() + _ABANDON_NS
        # Without its child the launch ends by itself; an import or a download cannot be interrupted, and
        # the child may come only after it.
        while not launch.done() and now_ns() < deadline_ns:
            kill_all([child for child in own_children() if child not in before])
            await asyncio.wait({launch}, timeout=0.2)
        if launch.done():
            launch.exception()  # told already; asyncio would report it as never retrieved
        self._children = [child for child in own_children() if child not in before]
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
                chunk = token_chunk(output, now_ns())
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

    @property
    def _speculates(self) -> bool:
        return (
            self._setup.engine.speculative.method is not None
            or "speculative_config" in self._setup.engine.args
        )

    def _sampling(self, request: GenerationRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        tokens = request.max_output_tokens
        forced = request.force_output_length
        return SamplingParams(
            **dataclasses.asdict(request.sampling),
            ignore_eos=forced,
            # Nothing else can end it then, and not every version takes min_tokens beside speculation.
            min_tokens=tokens if forced and not self._speculates else 0,
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

    def kernels_compiled(self) -> list[str] | None:
        """Kernels that vLLM's JIT monitor has named. Its workers begin it when they are warm; on a CPU there is none."""
        return None if self._setup.device == "cpu" else self._kernels.read()

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

    async def clear(self) -> EngineInfo | None:
        llm = self._llm
        if llm is None or llm.errored:
            return None
        if self._active:
            await llm.abort(list(self._active))
        # The scheduler forgets prompts only while no request holds any of them: those that were aborted go in its next step.
        for _ in range(CLEAR_TRIES):
            if await llm.reset_prefix_cache():
                return None if llm.errored else self._info
            await asyncio.sleep(CLEAR_PAUSE_S)
        return None

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
            await in_thread(lambda: kill_all(children))
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None
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
        grace_s = STOP_GRACE_S[self._setup.device]
        with contextlib.suppress(Exception):
            await in_thread(lambda: llm.shutdown(timeout=grace_s))


def _forget_frames(error: BaseException | None) -> None:
    """Drops the tracebacks of an exception and of its causes, which would keep vLLM's sockets and engine alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


_T = TypeVar("_T")
"""What is waited for."""


def own_children() -> list[psutil.Process]:
    """This process's descendants, without Python's resource tracker. The tracker is shared and outlives engines."""
    tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
    tracker_pid = getattr(tracker, "_pid", None)
    return [child for child in psutil.Process().children(recursive=True) if child.pid != tracker_pid]


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """Ends the processes that are still there and waits until they are gone."""
    _, alive = psutil.wait_procs(processes, timeout=0.0)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def in_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Runs `work` in a daemon thread. Unlike a thread of the loop's own pool, a thread that hangs does not keep the program."""
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
