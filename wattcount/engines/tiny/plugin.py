"""The tiny engine as a plug-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wattcount.config.schema import Device, EngineConfig, RunConfig
from wattcount.engines.base import Engine
from wattcount.engines.defaults import Defaults
from wattcount.engines.plugin import Capabilities, EnginePlugin, Expected
from wattcount.errors import NotStartedError


class TinyPlugin(EnginePlugin):
    """Runs everywhere and on the CPU only, without a model."""

    title = "the tiny engine"
    capabilities = Capabilities(computes_model=False, can_be_shared=True)

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        del gpu_uuids, log_dir
        from wattcount.engines.tiny.engine import TinyEngine

        return TinyEngine(cfg)

    def device(self, asked: Device, *, emulated: bool) -> Device:
        del asked, emulated
        return Device.cpu

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        from wattcount.engines.tiny.engine import TinyArgs

        try:
            TinyArgs.parse(cfg.engine.args)
        except NotStartedError as error:
            yield str(error)

    def defaults(self, cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
        del memory_bytes
        from wattcount.engines.tiny.engine import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS

        return Defaults(MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS).under(cfg.engine)

    def filled(self, engine: EngineConfig, chosen: Defaults) -> EngineConfig:
        """They are the same everywhere, so a point has them as null."""
        del chosen
        return engine

    def expected(self, cfg: RunConfig) -> Expected:
        del cfg
        return Expected(start_s=0.1, overhead_s=2.0, step_s=0.01)
