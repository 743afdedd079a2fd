"""The tiny engine as a plug-in: what can be set of it, and its limits where none are given."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from math import inf
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from wattcount.config.schema import Device, EngineConfig, RunConfig
from wattcount.engines.base import Engine
from wattcount.engines.defaults import Defaults
from wattcount.engines.plugin import Capabilities, EnginePlugin, Expected
from wattcount.errors import NotStartedError

MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS = 256, 8192
"""Requests that run at once and tokens of a step, where the configuration leaves them to the engine."""
START_FAILURES = ("engine_start_failed", "out_of_memory", "unsupported_model")
"""Reasons that `engine.args.fail_at_start` may give."""
_AT_LEAST_ONE = {"vocab_size", "kv_cache_tokens", "natural_mean_tokens", "fail_request_every"}
"""Arguments that 0 makes no sense for."""


@dataclass(frozen=True)
class TinyArgs:
    """`engine.args` of the tiny engine: its cost model, its limits, and failures on order."""

    step_base_ms: float = 2.0
    prefill_tokens_per_s: float = 100_000.0
    decode_ms_per_seq: float = 0.05
    vocab_size: int = 32_000
    kv_cache_tokens: int = 1_000_000
    natural_mean_tokens: float = 64.0
    """Mean of the geometric length of a completion that is not forced."""
    seed: int = 0
    """Of the natural lengths."""
    compile_ms: float = 0.0
    """What the first step of each kind takes longer: by the power of two above its tokens and by which of 16, 8, 4 and 2
    divides them; and again by the number of blocks of 32 tokens."""

    slow_start_s: float = 0.0
    """Start takes this long."""
    fail_at_start: str | None = None
    """Start raises `RunFailedError` with this reason."""
    hang_at_start: bool = False
    """Start never returns by itself; `engine.start_timeout_s` ends it."""
    die_after_s: float | None = None
    """From the end of start on: everything in flight and to come fails with `engine_died`."""
    exit_after_s: float | None = None
    """From the end of start on: the whole process ends at once, as if killed."""
    exit_code: int = 86
    fail_request_every: int | None = None
    """Every n-th request fails with `request_failed` after half of its tokens."""

    @classmethod
    def parse(cls, args: dict[str, Any]) -> TinyArgs:
        """Checked values. Raises `NotStartedError`."""
        hints = get_type_hints(cls)
        for name, value in args.items():
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=3)
                raise NotStartedError(
                    f"engine.args.{name}: the tiny engine has no such argument"
                    + (f"; did you mean {' or '.join(close)}?" if close else f"; it has {', '.join(hints)}")
                )
            allowed = get_args(hints[name]) if isinstance(hints[name], UnionType) else (hints[name],)
            # bool is an int and an int is a good float; an int flag or a bool count is a mistake.
            fits = type(value) in allowed or (float in allowed and type(value) is int)
            if not fits:
                wanted = " or ".join(kind.__name__ for kind in allowed if kind is not type(None))
                raise NotStartedError(f"engine.args.{name} must be {wanted}, got {value!r}")
        parsed = cls(**args)
        for item in fields(cls):
            value = getattr(parsed, item.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                least = 1 if item.name in _AT_LEAST_ONE else 0
                if not least <= value < inf:
                    raise NotStartedError(f"engine.args.{item.name} must be at least {least}, got {value}")
        if parsed.prefill_tokens_per_s == 0:
            raise NotStartedError("engine.args.prefill_tokens_per_s must be above 0")
        if parsed.fail_at_start is not None and parsed.fail_at_start not in START_FAILURES:
            raise NotStartedError(
                f"engine.args.fail_at_start must be one of {', '.join(START_FAILURES)}, got {parsed.fail_at_start!r}"
            )
        return parsed


class TinyPlugin(EnginePlugin):
    """Runs everywhere and on the CPU only, without a model."""

    title = "the tiny engine"
    capabilities = Capabilities(computes_model=False)

    def create(self, cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
        del gpu_uuids, log_dir
        from wattcount.engines.tiny.engine import TinyEngine

        return TinyEngine(cfg)

    def device(self, asked: Device, *, emulated: bool) -> Device:
        del asked, emulated
        return Device.cpu

    def problems(self, cfg: RunConfig) -> Iterator[str]:
        try:
            TinyArgs.parse(cfg.engine.args)
        except NotStartedError as error:
            yield str(error)

    def defaults(self, cfg: RunConfig, memory_bytes: int | None = None) -> Defaults:
        del memory_bytes
        return Defaults(MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS).under(cfg.engine)

    def filled(self, engine: EngineConfig, chosen: Defaults) -> EngineConfig:
        """They are the same everywhere, so a point has them as null."""
        del chosen
        return engine

    def expected(self, cfg: RunConfig) -> Expected:
        del cfg
        return Expected(start_s=0.1, overhead_s=2.0, step_s=0.01)
