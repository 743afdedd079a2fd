"""Somebody else's server as a plug-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.config.schema import Device, EngineConfig, RunConfig
from wattcount.engines.base import Engine
from wattcount.engines.plugin import Capabilities, EnginePlugin, Expected

if TYPE_CHECKING:
    from wattcount.gpu.nvml import NvmlSession

OF_THE_SERVER = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "gpu_memory_utilization", "enforce_eager", "enable_prefix_caching", "kv_cache_dtype",
    "enable_chunked_prefill", "speculative", "args",
)  # fmt: skip
"""Settings of an engine that whoever started the server has chosen."""


class OpenAiPlugin(EnginePlugin):
    """A server at `engine.base_url`."""

    title = "Server"
    capabilities = Capabilities(owns_process=False, computes_model=False, reports_steps=False)

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        from wattcount.engines.openai.engine import OpenAiEngine

        del log_dir  # its log is its owner's
        return OpenAiEngine(cfg, gpu_uuids)

    def device(self, asked: Device, *, emulated: bool) -> Device:
        del emulated
        return Device.cuda if asked is Device.auto else asked

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        from wattcount.engines.openai import server

        engine, untouched = cfg.engine, EngineConfig()
        if engine.base_url is None:
            yield "engine.base_url: must be given: the server's URL, such as http://localhost:8000"
            return
        for name in OF_THE_SERVER:
            if getattr(engine, name) != getattr(untouched, name):
                yield (
                    f"engine.{name}: is chosen where the server is started; leave it out, or let wattcount start the server "
                    "(engine=vllm_serve)"
                )
        yield from server.problems(cfg)

    def discovered(self, cfg: RunConfig, session: NvmlSession) -> RunConfig:
        from wattcount.engines.openai import server

        return server.discovered(cfg, session)

    def own_processes(self, cfg: RunConfig) -> frozenset[int] | None:
        """None where the server is on another machine, or in a container that cannot be looked into."""
        from wattcount.engines.http.processes import processes

        if cfg.power.remote is not None:
            return None
        found = processes(str(cfg.engine.base_url), {})
        return frozenset(found.pids | found.wider) or None

    def expected(self, cfg: RunConfig) -> Expected:
        del cfg
        return Expected(start_s=1.0)
