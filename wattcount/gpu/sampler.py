"""The sampler as Python sees it: a context manager around the native threads."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import PowerConfig
from wattcount.energy.events import EVENT_DTYPE, SOURCE_UNITS, Source
from wattcount.energy.trace import PowerTrace
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.gpu import _native
from wattcount.gpu.characterise import sampling_plan
from wattcount.gpu.nvml import GpuFacts, NvmlSession, attach_session
from wattcount.gpu.remote.client import RemoteThreads

EVENT_BYTES = EVENT_DTYPE.itemsize
"""Size of one observation [bytes], for the size of the buffer."""
STOP_LIMIT_S = 5.0
"""Longest wait of `stop` for the end of the threads [s]: for the call under way and the last read, which take up to a second on a
busy host. A driver that hangs may never return."""


class PowerSampler:
    """Reads every NVML source of some GPUs, from one native thread a GPU that never holds the GIL.

    ::

        with PowerSampler(gpus=[0]) as sampler:
            ...
        trace = sampler.trace()

    gpus     indices or UUIDs; default all
    session  an open NVML session; default the library that the environment names
    config   periods and buffer size
    keep     keep what is drained for `trace()`; off where the caller stores it
    usage_beside_average  read GetPowerUsage as fast as the fields even where field 185 works. Off: at the status
             rate, since on most GPUs it repeats field 185; a probe must not take that for granted (A100)
    Raises `NotStartedError` if NVML or a GPU is not there.
    """

    def __init__(
        self,
        gpus: Sequence[int | str] | None = None,
        session: NvmlSession | None = None,
        config: PowerConfig | None = None,
        *,
        keep: bool = True,
        usage_beside_average: bool = False,
    ) -> None:
        self._own_session = session is None
        self.session = session if session is not None else attach_session()
        try:
            there = self.session.gpus()
            self.gpus: tuple[GpuFacts, ...] = tuple(
                there if gpus is None else (_find(there, gpu) for gpu in gpus)
            )
            self.gpu_uuids = tuple(gpu.uuid for gpu in self.gpus)
            if not self.gpus:
                raise NotStartedError("there is no GPU to sample: none was named, or NVML shows none")
            if len(set(self.gpu_uuids)) < len(self.gpu_uuids):
                raise NotStartedError(f"a GPU is named twice: {', '.join(map(str, gpus or ()))}")
            self._native = self.session.threads(
                self.gpu_uuids, _plan(sampling_plan(None, config or PowerConfig()), usage_beside_average)
            )
        except BaseException as error:
            if self._own_session:
                self.session.close()
            if isinstance(error, _native.NvmlError):
                raise NotStartedError(f"cannot sample {', '.join(self.gpu_uuids)}: {error}") from error
            raise
        self._closed = False
        self._keep = keep
        self._kept: list[NDArray[np.void]] = []
        # At exit the interpreter goes before the thread would: stop it first.
        _running.add(self)

    def start(self) -> None:
        """Starts the threads and returns once they have read every source. Raises `RunFailedError`."""
        if self._closed:
            raise RunFailedError("sampler_failed", "the sampler let go of NVML at its end: make a new one")
        try:
            self._native.start()
        except RuntimeError as error:
            raise RunFailedError("sampler_failed", f"the sampler did not start: {error}") from error

    def stop(self, limit_s: float = STOP_LIMIT_S) -> bool:
        """Has the threads read every source once more and end; whether they ended within `limit_s`.

        May be called at any time and more than once; a signal interrupts it. A thread that does not return from a call
        of NVML is left alone (`health` says `stuck`): what was collected until then stays, and NVML stays open.
        """
        return self._native.stop(round(limit_s * 1e9))

    def mark(self) -> None:
        """Has every source read once, now; returns at once."""
        self._native.mark()

    def drain(self) -> NDArray[np.void]:
        """Events since the last drain, EVENT_DTYPE[n]; for one GPU without copying."""
        arrays = self._native.drain()
        fresh = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if self._keep and len(fresh):
            self._kept.append(fresh)
        return fresh

    def trace(self) -> PowerTrace:
        """Everything seen so far (with `keep`)."""
        self.drain()
        events = np.concatenate(self._kept) if self._kept else np.empty(0, EVENT_DTYPE)
        self._kept = [events]
        clock = self.clock
        return PowerTrace(self.gpu_uuids, events, clock_bound_ns=0 if clock is None else clock["bound_ns"])

    @property
    def failure(self) -> RunFailedError | None:
        """What ended the observations of another machine's GPUs, or spoilt them; None: nothing, or the GPUs are this one's."""
        return self._native.failure if isinstance(self._native, RemoteThreads) else None

    @property
    def clock(self) -> dict[str, Any] | None:
        """How another machine's time was made this one's (`ClockOffset.to_json`); None: the GPUs are this machine's."""
        return self._native.clock.to_json() if isinstance(self._native, RemoteThreads) else None

    def latest(self) -> list[dict[str, int]]:
        """Per GPU the newest value of each source that works, by the source's name."""
        return self._native.latest()

    def latest_power_w(self) -> float | None:
        """Sum over the GPUs of the newest power reading, for a display."""
        return self._sum_of_first(("power_instant", "power_usage", "power_average", "power_samples"))

    def average_power_w(self) -> float | None:
        """Sum over the GPUs of the 1 s average; of a GPU that has none, its newest power reading."""
        return self._sum_of_first(("power_average", "power_usage", "power_instant", "power_samples"))

    def _sum_of_first(self, names: Sequence[str]) -> float | None:
        """The first of these sources that each GPU has, summed over GPUs; None where one has none."""
        total_w = 0.0
        for values in self.latest():
            for name in names:
                if name in values:
                    total_w += values[name] / 1e3
                    break
            else:
                return None
        return total_w

    def health(self) -> list[dict[str, Any]]:
        """Per GPU: CPU time, missed deadlines, drops, and by source calls, errors, call times and lateness.

        `stuck`: a thread had not returned from a call of NVML when `stop` gave up waiting for it.
        """
        return self._native.health()

    def sensors(self) -> dict[str, Any]:
        """What each source of each GPU, by UUID, was like: unit, whether it works, how often and at what cost it was read, and how far
        apart its new values came (median; no finer than it was read, the ring by its own stamps)."""
        report: dict[str, Any] = {}
        for health in self.health():
            report[health["uuid"]] = {
                name: {
                    "unit": SOURCE_UNITS[Source[name.upper()]],
                    "state": found["state"],
                    "last_error": found["last_error"] or None,
                    "calls": found["calls"],
                    "errors": found["errors"],
                    "read_period_ns": found["period_ns"],
                    "new_value_p50_ns": None if found["news_p50_ns"] is None else round(found["news_p50_ns"]),
                    "call_p50_ns": round(found["call_p50_ns"]),
                    "call_p99_ns": round(found["call_p99_ns"]),
                }
                | (
                    {"ring_depth": health["ring_depth"], "ring_period_us": health["ring_period_us"]}
                    if name == "power_samples"
                    else {}
                )
                for name, found in health["sources"].items()
            }
        return report

    def __enter__(self) -> PowerSampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.drain()
        if self._own_session:
            self._closed = True
            self.session.close()


def _plan(config: PowerConfig, usage_beside_average: bool) -> dict[str, int]:
    def ns(ms: float | None) -> int:
        assert ms is not None
        return round(ms * 1e6)

    return {
        "energy_counter_period_ns": ns(config.energy_counter_period_ms),
        "power_period_ns": ns(config.power_period_ms),
        "samples_period_ns": ns(config.samples_period_ms),
        "status_period_ns": ns(config.status_period_ms),
        "heartbeat_ns": ns(config.heartbeat_ms),
        "capacity_events": config.buffer_mib_per_gpu * 2**20 // EVENT_BYTES,
        "usage_beside_average": usage_beside_average,
    }


def _find(there: Sequence[GpuFacts], gpu: int | str) -> GpuFacts:
    for facts in there:
        if gpu in (facts.uuid, facts.index):
            return facts
    listed = ", ".join(f"{facts.index}: {facts.name} ({facts.uuid})" for facts in there) or "none"
    raise NotStartedError(f"no GPU {gpu!r}; NVML shows {listed}")


_running: weakref.WeakSet[PowerSampler] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for sampler in list(_running):
        sampler.stop()
