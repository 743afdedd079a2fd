"""`vllm serve` as a child of the run's process: the same settings as `AsyncLLM` in process, driven over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wattcount import ownership
from wattcount.config.schema import RunConfig, ScenarioKind
from wattcount.engines.base import EngineInfo, EngineStep
from wattcount.engines.http.client import Endpoint, HttpClients
from wattcount.engines.http.engine import HttpEngine
from wattcount.engines.http.fetch import Site
from wattcount.engines.vllm.engine import CLEAR_PAUSE_S, CLEAR_TRIES, ENGINE_LOG, STOP_GRACE_S
from wattcount.engines.vllm.install import server_argument_names
from wattcount.engines.vllm.reports import KernelLog, log_size, root_cause, start_error
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.engines.vllm.started import engine_info
from wattcount.engines.vllm_serve import told
from wattcount.engines.vllm_serve.command import HOST, command, environment, server_arguments
from wattcount.engines.vllm_serve.process import HeldPort, ServerProcess
from wattcount.errors import RunFailedError
from wattcount.load.generator import ENGINE_DIED

POLL_S = 0.25
"""How often a server that starts is asked whether it is up [s]."""
ASK_LIMIT_S = 60.0
"""The longest that it may take to answer, its workers to draw their weights or to say where they compute [s]."""
PARSER_SAYS = ": error: "
"""Before what `argparse` says of a command line that it refuses."""
FORGOTTEN = b"Successfully reset prefix cache"
"""In its log, once it has forgotten the prompts that it kept."""


class VllmServeEngine(HttpEngine):
    """See the module; arguments as of `VllmEngine`."""

    def __init__(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> None:
        super().__init__()
        self._setup = VllmSetup.of(
            cfg, gpu_uuids, scenario=ScenarioKind.server, further_arguments=server_argument_names()
        )
        self.compiles_on_first_use = self._setup.device != "cpu"
        self._client_processes = cfg.engine.client_processes
        self._log = Path(log_dir) / ENGINE_LOG
        self._log_offset = 0
        self._kernels = KernelLog(self._log, 0)
        self._scratch: Path | None = None
        self._claim: ownership.Claim | None = None
        self._server = ServerProcess()
        self._reader: told.StepReader | None = None
        self._watch: asyncio.Task[None] | None = None
        self._up: tuple[Site, Endpoint, EngineInfo] | None = None
        """The server that is up."""

    async def start(self) -> EngineInfo:
        if self._scratch is not None:
            raise RuntimeError("the engine is already up")
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log_offset = log_size(self._log)
        self._kernels = KernelLog(self._log, self._log_offset)
        self._scratch = scratch = Path(tempfile.mkdtemp(prefix="wattcount-vllm-"))
        self._claim = ownership.claim(scratch / ownership.CLAIM_NAME)
        self._reader = told.StepReader(scratch, self._heard)
        limit_s = self._setup.engine.start_timeout_s
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                return await self._launch(scratch)
        except TimeoutError as error:
            await self.stop()
            if not limit.expired():
                raise
            raise RunFailedError(
                "engine_start_failed",
                f"vLLM was not up within engine.start_timeout_s={limit_s:g} s (log: {self._log})",
            ) from error
        except BaseException:
            await self.stop()
            raise

    async def _launch(self, scratch: Path) -> EngineInfo:
        arguments = server_arguments(self._setup, scratch)
        own = environment(self._setup, scratch, self._log, os.environ)
        port = HeldPort(HOST)
        try:
            line = command(self._setup.install, arguments, port.number)
            await self._server.start(line, {**os.environ, **own}, self._log)
            site = Site(f"http://{HOST}:{port.number}")
            await self._until_up(site)
        finally:
            port.release()
        facts = told.facts(scratch)
        if facts is None:
            raise RunFailedError(
                "engine_start_failed", f"vLLM told nothing of its settings (log: {self._log})"
            )

        async def ask_workers(method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
            return await asyncio.to_thread(_ask_workers, site, method, args)

        info = await engine_info("vllm_serve", self._setup, facts, arguments, own, ask_workers)
        # Without a tokenizer, vLLM's server takes the end-of-sequence tokens of the model's config.
        endpoint = Endpoint(base_url=site.base_url, model=str(arguments["model"]))
        info.details["command"] = line
        # A server without a tokenizer tells of errors as it starts, and is up all the same.
        self._log_offset = log_size(self._log)
        self._up = (site, endpoint, info)
        return await self._with_clients()

    async def _with_clients(self) -> EngineInfo:
        """Starts the clients of a run, and counts; returns what is known of the server, to which both add."""
        assert self._up is not None
        site, endpoint, info = self._up
        self._clients = clients = HttpClients(endpoint, self._client_processes)
        await clients.start()
        clients.server_gone = lambda: self._server.gone
        self._watch = asyncio.create_task(self._tell_of_death(clients))
        self._details = {**info.details, "client": clients.details}
        await self._count(site)
        return dataclasses.replace(info, details=self._details)

    async def _without_clients(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        await self._stop_clients()
        if self._reader is not None:
            self._details["steps_lost"], self._reader.lost = self._reader.lost, 0

    async def clear(self) -> EngineInfo | None:
        if self._up is None:
            return None
        await self._without_clients()  # what they still had in flight ends with them
        for _ in range(CLEAR_TRIES):
            if self._server.ended is not None:
                return None
            if await asyncio.to_thread(self._forget, self._up[0]):
                return await self._with_clients()
            await asyncio.sleep(CLEAR_PAUSE_S)
        return None

    def _forget(self, site: Site) -> bool:
        """Whether the server has forgotten its prompts; older ones tell only their log."""
        before = log_size(self._log)
        answer = site.post("/reset_prefix_cache", {}, ASK_LIMIT_S)
        if isinstance(answer, dict):
            return answer.get("success") is True
        with self._log.open("rb") as log:
            log.seek(before)
            return FORGOTTEN in log.read()

    async def _until_up(self, site: Site) -> None:
        """Returns once the server answers. Raises `RunFailedError` where it ends before."""
        while (await asyncio.to_thread(site.get, "/health")).status != 200:
            self._server.note_children()
            if (status := self._server.ended) is not None:
                raise self._start_error(status)
            await asyncio.sleep(POLL_S)
        self._server.note_children()

    def _start_error(self, status: int) -> RunFailedError:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
        what = refused_argument(self._log, self._log_offset) or f"vllm serve {how}, see root cause above"
        return start_error(RuntimeError(what), self._log, self._log_offset)

    def _heard(self, step: EngineStep) -> None:
        if self.on_step is not None:
            self.on_step(step)

    def kernels_compiled(self) -> list[str] | None:
        """As of vLLM in process."""
        return None if self._setup.device == "cpu" else self._kernels.read()

    async def _tell_of_death(self, clients: HttpClients) -> None:
        """Says what the server died of; its clients would only say that it does not answer."""
        status = await self._server.wait()
        cause = root_cause(self._log, self._log_offset)
        how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
        clients.failed(RunFailedError(ENGINE_DIED, f"vllm serve died: {cause or how} (log: {self._log})"))

    async def stop(self) -> None:
        self._up = None
        await self._without_clients()
        await self._server.stop(STOP_GRACE_S[self._setup.device])
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        if self._claim is not None:
            self._claim.release()
            self._claim = None


def refused_argument(log: Path, offset: int) -> str | None:
    """What the parser of the server's command line said of an argument; None: nothing."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((line.partition(PARSER_SAYS)[2] for line in reversed(lines) if PARSER_SAYS in line), None)


def _ask_workers(site: Site, method: str, args: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Through the server's page for developers; its arguments are JSON."""
    answer = site.post("/collective_rpc", {"method": method, "args": list(args)}, ASK_LIMIT_S)
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise RunFailedError("engine_start_failed", f"vLLM's workers did not answer {method}")
    return results
