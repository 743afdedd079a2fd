"""What engines share that are driven over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Unpack

from wattcount.engines.base import Engine
from wattcount.engines.http.client import HttpClients
from wattcount.errors import RunFailedError
from wattcount.load.generator import Generator, GeneratorOptions
from wattcount.load.plan import LoadPlan


class HttpEngine(Engine):
    """An engine whose requests are sent by client processes; `_clients` is set while it is up."""

    def __init__(self) -> None:
        super().__init__()
        self._clients: HttpClients | None = None
        self._details: dict[str, Any] = {}
        """`EngineInfo.details`, kept up to date until the record is written."""

    def generator(self, plan: LoadPlan, **options: Unpack[GeneratorOptions]) -> Generator:
        if self._clients is None:
            raise RunFailedError("engine_died", "the server is not up")
        return self._clients.generator(plan, **options)

    async def _stop_clients(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.stop()
            self._details["client"] = clients.details


async def cancelled(task: asyncio.Task[Any] | None) -> None:
    """Ends a task in the background, whatever it does."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(BaseException):
            await task
