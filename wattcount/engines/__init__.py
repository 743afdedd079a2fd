"""Engines under measurement: vLLM, and a tiny one to test everything around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wattcount.config.schema import EngineKind, RunConfig
from wattcount.engines.base import Engine

__all__ = ["create"]


def create(cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
    """The engine a run asks for, not started. Only checks: raises `NotStartedError`, imports no vllm.

    `gpu_uuids`: the NVML UUIDs of the GPUs to compute on; empty on a CPU. `log_dir`: the folder its log
    goes to (`records.schema.ENGINE_LOG`).
    """
    if cfg.engine.name is EngineKind.tiny:
        from wattcount.engines.tiny.engine import TinyEngine

        return TinyEngine(cfg)
    from wattcount.engines.vllm.engine import VllmEngine

    return VllmEngine(cfg, gpu_uuids, log_dir)
