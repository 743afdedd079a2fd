"""What engines share that are driven over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any, Unpack

from wattcount.engines.base import Engine
from wattcount.engines.http.client import HttpClients
from wattcount.engines.http.counters import CounterLog
from wattcount.engines.http.fetch import Site
from wattcount.errors import RunFailedError
from wattcount.load.generator import Generator, GeneratorOptions
from wattcount.load.plan import LoadPlan


class HttpEngine(Engine):
    """An engine whose requests are sent by client processes; `_clients` is set while it is up."""

    def __init__(self) -> None:
        super().__init__()
        self._clients: HttpClients | None = None
        self._counters: CounterLog | None = None
        self._details: dict[str, Any] = {}
        """`EngineInfo.details`, kept up to date until the record is written."""

    @property
    def client_pids(self) -> frozenset[int]:
        return frozenset() if self._clients is None else frozenset(self._clients.alive)

    def generator(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> Generator:
        if self._clients is None:
            raise RunFailedError("engine_died", "the server is not up")
        return self._clients.generator(plan, **options)

    async def _count(self, site: Site) -> None:
        """Keeps what the server counts of itself, from now on."""
        self._counters = counters = CounterLog(site)
        await asyncio.to_thread(counters.start)

    async def _stop_clients(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.stop()
            self._details["client"] = clients.details
        counters, self._counters = self._counters, None
        if counters is not None:
            await asyncio.to_thread(counters.stop)
            self._details["server_counters"] = counters.to_json()
