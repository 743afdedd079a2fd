"""SM clocks under load, and what slowed them: the bits of NVML's clock event reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wattcount.energy.events import Source
from wattcount.metrics.observations import MISSING, Ints, held
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record

GPU_IDLE = 0x1
SW_POWER_CAP = 0x4
HW_SLOWDOWN = 0x8
SYNC_BOOST = 0x10
THERMAL_SLOWDOWN = 0x20 | 0x40
"""Software's and hardware's."""
POWER_BRAKE = 0x80
SLOWING = SW_POWER_CAP | HW_SLOWDOWN | SYNC_BOOST | THERMAL_SLOWDOWN | POWER_BRAKE
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h). `applications_clocks` (0x2) is a setting, `gpu_idle` a state:
neither slows a clock."""
WHAT_SLOWS = (
    (SW_POWER_CAP, "the power limit"),
    (THERMAL_SLOWDOWN, "temperature"),
    (HW_SLOWDOWN, "the board's own protection"),
    (POWER_BRAKE, "an external power brake"),
    (SYNC_BOOST, "its sync boost group"),
)


@dataclass(frozen=True)
class LoadClocks:
    """SM clocks of a stretch under load, of the GPU that was slowed most.

    mean_mhz, highest_mhz  mean under load in the stretch, and the highest in the whole record; None: not recorded
    slowed_share           share of the stretch with a reason that slows clocks, 0..1; None: not recorded
    slowed_by              what these reasons were, in words
    """

    mean_mhz: float | None
    highest_mhz: int | None
    slowed_share: float | None
    slowed_by: tuple[str, ...]

    @property
    def slowdown(self) -> float | None:
        """By which share the mean lies below the highest; None where it is not known."""
        if self.mean_mhz is None or not self.highest_mhz:
            return None
        return 1 - self.mean_mhz / self.highest_mhz


def load_clocks(record: Record, window: Window) -> LoadClocks:
    events, found = record.power.events, []
    for gpu in range(len(record.power.gpu_uuids)):
        clocks, lengths = clock_under_load(record, gpu, window)
        mean_mhz = float((clocks * lengths).sum()) / int(lengths.sum()) if len(clocks) else None
        mine = events[
            (events["gpu"] == gpu) & (events["source"] == Source.CLOCK_SM) & (events["nvml_return"] == 0)
        ]
        reasons, spans = held(events, gpu, Source.CLOCK_EVENT_REASONS, window)
        slowed = spans[(reasons & SLOWING) != 0]
        every = int(np.bitwise_or.reduce(reasons)) if len(reasons) else 0
        found.append(
            LoadClocks(
                mean_mhz,
                int(mine["value"].max()) if len(mine) else None,
                int(slowed.sum()) / int(spans.sum()) if len(spans) else None,
                tuple(what for bits, what in WHAT_SLOWS if every & bits),
            )
        )
    nothing = LoadClocks(None, None, None, ())
    return max(found, key=lambda one: (one.slowdown or 0.0, one.slowed_share or 0.0), default=nothing)


def clock_under_load(record: Record, index: int, window: Window) -> tuple[Ints, Ints]:
    """(SM clock in MHz, nanoseconds) while the GPU does not say that it is idle: an idle one may clock down."""
    events = record.power.events[record.power.events["gpu"] == index]
    series = []
    for source in (Source.CLOCK_SM, Source.CLOCK_EVENT_REASONS):
        mine = np.sort(events[events["source"] == source], order="t1_ns")
        values = np.where(mine["nvml_return"] == 0, mine["value"], MISSING).astype(np.int64)
        series.append((mine["t1_ns"].astype(np.int64), values))
    inside = [times[(times > window.start_ns) & (times < window.end_ns)] for times, _ in series]
    edges = np.unique(np.concatenate([[window.start_ns, window.end_ns], *inside]))

    def at(times: Ints, values: Ints) -> Ints:
        # The first entry stands for the time before anything was read.
        return np.append(MISSING, values)[np.searchsorted(times, edges[:-1], side="right")]

    clocks, reasons = at(*series[0]), at(*series[1])
    loaded = (clocks != MISSING) & ((reasons == MISSING) | (reasons & GPU_IDLE == 0))
    return clocks[loaded], np.diff(edges)[loaded]
