"""`vllm serve` as a plug-in: vLLM as in process, but for where its requests come from. Importing this imports no vllm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wattcount.config.schema import RunConfig, ScenarioKind
from wattcount.engines.base import Engine
from wattcount.engines.defaults import Defaults
from wattcount.engines.vllm import defaults
from wattcount.engines.vllm.plugin import VllmPlugin


class VllmServePlugin(VllmPlugin):
    """A server that the run starts and stops."""

    title = "vLLM server"

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        from wattcount.engines.vllm_serve.engine import VllmServeEngine

        return VllmServeEngine(cfg, gpu_uuids, log_dir)

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        from wattcount.engines.vllm_serve import command

        yield from super().problems(cfg)
        yield from command.problems(cfg)

    def defaults(self, cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
        """Always those of a server: `vllm serve` has one set, whether requests come one by one or all at once."""
        return defaults.defaults(cfg, memory_bytes, ScenarioKind.server)
