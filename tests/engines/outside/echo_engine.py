"""An engine of another distribution, with as little as an engine can have: a server that somebody else runs.

It reports no steps, tells no limits and knows no model. `test_registry.py` installs this file beside wattcount.
"""

# ruff: noqa: ARG002 - an engine needs not all that it is told

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from wattcount.clock import now_ns
from wattcount.config import RunConfig
from wattcount.config.schema import Device
from wattcount.engines.base import Engine, EngineInfo
from wattcount.engines.plugin import Capabilities, EnginePlugin
from wattcount.load.request import GenerationRequest, TokenChunk


class EchoPlugin(EnginePlugin):
    title = "Echo"
    capabilities = Capabilities(owns_process=False, computes_model=False, reports_steps=False)

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        return EchoEngine(float(cfg.engine.args.get("token_ms", 40.0)))

    def device(self, asked: Device, *, emulated: bool) -> Device:
        return Device.cuda

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        for name in cfg.engine.args.keys() - {"token_ms"}:
            yield f"engine.args.{name}: Echo has token_ms only"

    def identity_facts(self) -> dict[str, str]:
        return {"version_minor": "3.1"}


class EchoEngine(Engine):
    compiles_on_first_use = False

    def __init__(self, token_ms: float) -> None:
        super().__init__()
        self._token_s = token_ms / 1e3

    async def start(self) -> EngineInfo:
        return EngineInfo(
            name="echo",
            version="3.1.4",
            device="remote",
            gpu_uuids=(),
            vocab_size=1000,
            max_model_len=4096,
            details={},
        )

    async def generate(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        for number in range(1, request.max_output_tokens + 1):
            await asyncio.sleep(self._token_s)
            last = number == request.max_output_tokens
            yield TokenChunk(now_ns(), 1, finished=last, finish_reason="length" if last else None)

    async def stop(self) -> None:
        pass
