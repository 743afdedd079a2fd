"""A server that runs already: found, asked whether it can be measured, and sent requests over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence

from wattcount.config.schema import Device, RunConfig
from wattcount.engines.base import EngineInfo
from wattcount.engines.http.client import HttpClients
from wattcount.engines.http.discovery import ServerFacts
from wattcount.engines.http.engine import HttpEngine
from wattcount.engines.http.fetch import Site, tls
from wattcount.engines.openai import server
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.gpu.nvml import attach_session


def _facts(cfg: RunConfig) -> ServerFacts:
    """What serves there now, and which of its processes compute on the GPUs."""
    with attach_session(cfg.power.remote) as session:
        return server.facts_of(cfg, session)


class OpenAiEngine(HttpEngine):
    """See the module. Its server stays up: `start` and `stop` are those of the client."""

    def __init__(self, cfg: RunConfig, gpu_uuids: Sequence[str]) -> None:
        super().__init__()
        server.headers(cfg)
        self._cfg = cfg
        self._gpu_uuids = tuple(gpu_uuids)

    async def start(self) -> EngineInfo:
        """Raises `RunFailedError` (`engine_start_failed`) where the server is another one by now, or gone."""
        if self._clients is not None:
            raise RuntimeError("the client is already up")
        cfg = self._cfg
        try:
            facts = await asyncio.to_thread(_facts, cfg)
            if server.served(facts) != cfg.engine.served:
                raise NotStartedError(f"the server at {cfg.engine.base_url} is another one than a moment ago")
            endpoint = await server.agreed(cfg)
        except NotStartedError as error:
            raise RunFailedError("engine_start_failed", str(error)) from None
        if facts.engine == "vllm":
            # Prompts that it keeps of a run before, with the same seed, are not found by this one.
            endpoint = dataclasses.replace(endpoint, body={"cache_salt": secrets.token_hex(16)})
        self._clients = HttpClients(endpoint, cfg.engine.client_processes)
        await self._clients.start()
        site = Site(endpoint.base_url, server.all_headers(cfg), tls(cfg.engine.ca_file))
        await self._count(site)
        size = server.vocab_size(cfg)
        self._details |= {
            "server": facts.to_json() | {"gpu_uuids": list(self._gpu_uuids)},
            "vocab_size": size,
            "client": self._clients.details,
        }
        on_gpu = cfg.engine.device is Device.cuda
        return EngineInfo(
            name="openai",
            version=facts.version,
            device="remote" if not facts.local else "cuda" if on_gpu else "cpu",
            gpu_uuids=self._gpu_uuids,
            vocab_size=size or server.COMMON_TOKENS,
            max_model_len=facts.max_model_len,
            details=self._details,
        )

    async def stop(self) -> None:
        await self._stop_clients()
