"""The shape of what the sampler hands out, shared by everything that reads a power trace.

No native code is needed to import this module: a record is read on any machine.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Source(IntEnum):
    """What was read. The numbers are those of `csrc/sampler/event.h`; the names go into Parquet."""

    ENERGY_COUNTER = 0  # mJ, nvmlDeviceGetTotalEnergyConsumption
    POWER_AVERAGE = 1  # mW, field 185: a 1 s box average on Ampere and later data-centre GPUs
    POWER_INSTANT = 2  # mW, field 186
    POWER_USAGE = 3  # mW, nvmlDeviceGetPowerUsage
    POWER_SAMPLES = 4  # mW, nvmlDeviceGetSamples(NVML_TOTAL_POWER_SAMPLES)
    TEMPERATURE_GPU = 5  # degrees C
    TEMPERATURE_MEMORY = 6  # degrees C, field 82
    CLOCK_SM = 7  # MHz
    CLOCK_MEMORY = 8  # MHz
    UTILIZATION_GPU = 9  # percent
    UTILIZATION_MEMORY = 10  # percent
    MEMORY_USED = 11  # bytes
    CLOCK_EVENT_REASONS = 12  # bit mask, nvmlDeviceGetCurrentClocksEventReasons
    POWER_LIMIT = 13  # mW, nvmlDeviceGetEnforcedPowerLimit
    COMPUTE_PROCESSES = 14  # number of compute processes on the GPU
    REALTIME = 15  # ns, CLOCK_REALTIME read between t0_ns and t1_ns, at each drain of the ring


SOURCE_UNITS: dict[Source, str] = {
    Source.ENERGY_COUNTER: "mJ",
    Source.POWER_AVERAGE: "mW",
    Source.POWER_INSTANT: "mW",
    Source.POWER_USAGE: "mW",
    Source.POWER_SAMPLES: "mW",
    Source.TEMPERATURE_GPU: "C",
    Source.TEMPERATURE_MEMORY: "C",
    Source.CLOCK_SM: "MHz",
    Source.CLOCK_MEMORY: "MHz",
    Source.UTILIZATION_GPU: "percent",
    Source.UTILIZATION_MEMORY: "percent",
    Source.MEMORY_USED: "bytes",
    Source.CLOCK_EVENT_REASONS: "bitmask",
    Source.POWER_LIMIT: "mW",
    Source.COMPUTE_PROCESSES: "count",
    Source.REALTIME: "ns",
}
"""Unit of the raw value of each source."""

EVENT_DTYPE = np.dtype(
    [
        ("prev_t0_ns", "<i8"),
        ("t0_ns", "<i8"),
        ("t1_ns", "<i8"),
        ("source_ts_us", "<i8"),
        ("value", "<i8"),
        ("nvml_return", "<i4"),
        ("source", "<u2"),
        ("gpu", "<u2"),
    ]
)
"""One observation, 48 bytes, laid out as `wattcount::Event` in `csrc/sampler/event.h`.

prev_t0_ns   start of the last call that still returned the old value (-1: there was none)
t0_ns, t1_ns around the call that returned this value
source_ts_us the driver's own stamp, raw (-1: the source has none)
value        int64 in the source's unit; meaningless where nvml_return != 0
nvml_return  NVML's return code of that call or field; an error is stored when it appears and when it goes
source       a `Source`
gpu          index into the trace's list of GPU UUIDs

An event is kept when a value or return code changes; a value that stays is repeated as a heartbeat.
"""

GPU_IS_LOST = 15
"""NVML_ERROR_GPU_IS_LOST, a return code."""


def says_lost(events: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which of `events` (`EVENT_DTYPE`) are calls that NVML answered with "GPU is lost"."""
    return np.asarray(events["nvml_return"] == GPU_IS_LOST, dtype=np.bool_)


def lost_line(uuid: str) -> str:
    """What has become of such a GPU, for people."""
    return f"{uuid} fell off the bus (NVML: GPU is lost)"
