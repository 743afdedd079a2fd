"""Lets the true power of emulated GPUs follow what the engine does."""

from __future__ import annotations

import os
from pathlib import Path

from wattcount.clock import now_ns
from wattcount.config.schema import GpuConfig
from wattcount.emulation.machine import CONFIG_ENV, ActivityPower, LiveTruth
from wattcount.engines.base import EngineStep

STALL_NS = 2_000_000_000
"""An engine with requests that takes no step for this long draws idle power."""


class EmulatedActivity:
    """The stimulus of an emulated run; what it was is kept beside the record, and is never evidence.

    A step is heard of when it has ended, so its power holds until the next one is heard of.
    """

    def __init__(self, gpu: GpuConfig, truths: dict[str, LiveTruth], limit_w: float | None = None) -> None:
        """`limit_w`: the power limit in force, which no step exceeds."""
        self._limit_w = limit_w if limit_w is not None else float("inf")
        self._model = ActivityPower(gpu)
        self._truths = truths
        self._idle_w = self._model.idle_bare_w
        self._last_step_ns = 0
        self._busy = False
        self._set(self._idle_w)

    @classmethod
    def attach(cls, gpu: GpuConfig, limit_w: float | None = None) -> EmulatedActivity | None:
        """To the run's GPUs on the machine that the environment names; None where they follow curves of their own."""
        config = os.environ.get(CONFIG_ENV)
        if config is None:
            return None
        truths = LiveTruth.attach(Path(config), gpu.devices)
        return cls(gpu, truths, limit_w) if truths else None

    def engine_up(self) -> None:
        self._idle_w = self._model.idle_loaded_w
        self._set(self._idle_w)

    def engine_down(self) -> None:
        self._busy = False
        self._idle_w = self._model.idle_bare_w
        self._set(self._idle_w)

    def on_step(self, step: EngineStep) -> None:
        self._last_step_ns = step.logged_ns
        self._busy = step.running > 0 or step.waiting > 0
        self._set(self._model.step_power_w(step) if self._busy else self._idle_w)

    def check_stall(self) -> None:
        """To be called now and then."""
        if self._busy and now_ns() - self._last_step_ns > STALL_NS:
            self._busy = False
            self._set(self._idle_w)

    @property
    def clamped(self) -> int:
        return sum(truth.clamped for truth in self._truths.values())

    def save(self, path: Path) -> None:
        """The curve as it was in effect; the same for all GPUs of the run."""
        next(iter(self._truths.values())).save(path)

    def _set(self, power_w: float) -> None:
        t_ns, power_mw = now_ns(), round(min(power_w, self._limit_w) * 1e3)
        for truth in self._truths.values():
            truth.append(t_ns, power_mw)
