"""Between runs of a sweep: waits until the GPU is as it was before the first one, or changes no more.

A GPU that is still warm from the run before leaks more current at idle, and boosts less: the order of the runs
would show in their energies. And what an engine that is gone still holds of its memory, the next one lacks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wattcount.config.schema import PowerConfig
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import NvmlSession
from wattcount.statistics import theil_sen

SAMPLE_S = 0.5
NEAR_C = 3.0
NEAR_POWER_PERCENT = 5.0
"""Within these of what it was before the first run, a GPU is back."""
NEAR_MEMORY_BYTES = 256 * 2**20
STEADY_SAMPLES = 40
"""20 s: a temperature is told in whole degrees."""
STEADY_PERCENT = 2.0
"""A trend within this over STEADY_SAMPLES is none, however certain."""

_POWER = ("power_average", "power_usage", "power_instant", "power_samples")
POWER_W, TEMPERATURE_C, MEMORY_USED_BYTES = "power_w", "temperature_c", "memory_used_bytes"
Readings = dict[str, dict[str, float]]
"""By GPU UUID: POWER_W, TEMPERATURE_C and MEMORY_USED_BYTES, those that NVML tells."""


@dataclass
class Rest:
    """The pauses of one sweep. Made before the first run, which finds the GPUs as they are to be again."""

    before: Readings = field(default_factory=dict)

    def wait(
        self,
        session: NvmlSession,
        gpu_uuids: Sequence[str],
        limit_s: float,
        notice: Callable[[str], object],
    ) -> dict[str, Any]:
        """Returns once all GPUs are back, or steady with their memory back, or after `limit_s`; for `run.json`.

        Raises `WattcountError` where the GPUs cannot be read.
        """
        power = PowerConfig(power_period_ms=100.0, status_period_ms=250.0, energy_counter_period_ms=60_000.0)
        began_s = time.monotonic()
        last: deque[Readings] = deque(maxlen=STEADY_SAMPLES)
        told = False
        with PowerSampler(list(gpu_uuids), session, power) as sampler:
            while True:
                now = dict(zip(gpu_uuids, map(_reading, sampler.latest()), strict=True))
                last.append(now)
                for uuid in gpu_uuids:
                    self.before.setdefault(uuid, now[uuid])
                back = all(is_near(now[uuid], self.before[uuid]) for uuid in gpu_uuids)
                steady = not back and all(
                    has_memory_back(now[uuid], self.before[uuid])
                    and is_steady([sample[uuid] for sample in last])
                    for uuid in gpu_uuids
                )
                waited_s = time.monotonic() - began_s
                if back or steady or waited_s >= limit_s:
                    return {
                        "seconds": round(waited_s, 3),
                        "limit_s": limit_s,
                        "ended": "back" if back else "steady" if steady else "limit",
                        "before": {uuid: self.before[uuid] for uuid in gpu_uuids},
                        "after": now,
                    }
                if not told:
                    notice(f"letting the GPU cool down, at most {limit_s:g} s")
                    told = True
                time.sleep(min(SAMPLE_S, max(0.0, limit_s - waited_s)))


def is_near(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether what is known of both is about the same; colder, or less power, is near too."""
    known = now.keys() & before.keys()
    limits = {
        POWER_W: before.get(POWER_W, 0.0) * (1 + NEAR_POWER_PERCENT / 100),
        TEMPERATURE_C: before.get(TEMPERATURE_C, 0.0) + NEAR_C,
        MEMORY_USED_BYTES: before.get(MEMORY_USED_BYTES, 0.0) + NEAR_MEMORY_BYTES,
    }
    return all(now[name] <= limits[name] for name in known)


def has_memory_back(now: Mapping[str, float], before: Mapping[str, float]) -> bool:
    """Whether no more of the GPU's memory is in use than before, as far as it is known."""
    used, base = now.get(MEMORY_USED_BYTES), before.get(MEMORY_USED_BYTES)
    return used is None or base is None or used <= base + NEAR_MEMORY_BYTES


def is_steady(samples: Sequence[Mapping[str, float]]) -> bool:
    """Whether nothing has a trend over the last STEADY_SAMPLES, taken at even intervals."""
    if len(samples) < STEADY_SAMPLES:
        return False
    for name in (POWER_W, TEMPERATURE_C):
        values = np.array([sample[name] for sample in samples if name in sample])
        drift = theil_sen(values) if len(values) == len(samples) else None
        if drift is not None and drift.certain and abs(drift.percent) > STEADY_PERCENT:
            return False
    return True


def _reading(latest: Mapping[str, int]) -> dict[str, float]:
    found = {}
    if (power := next((name for name in _POWER if name in latest), None)) is not None:
        found[POWER_W] = latest[power] / 1e3
    if "temperature_gpu" in latest:
        found[TEMPERATURE_C] = float(latest["temperature_gpu"])
    if "memory_used" in latest:
        found[MEMORY_USED_BYTES] = float(latest["memory_used"])
    return found
