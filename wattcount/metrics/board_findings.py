"""What speaks against the board: others on it, clocks that were slowed or changed, its temperature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from wattcount.energy.events import Source
from wattcount.metrics.clocks import (
    HW_SLOWDOWN,
    POWER_BRAKE,
    SLOWING,
    SW_POWER_CAP,
    SYNC_BOOST,
    THERMAL_SLOWDOWN,
    WHAT_SLOWS,
    clock_under_load,
)
from wattcount.metrics.findings import Finding, on
from wattcount.metrics.observations import Ints, held
from wattcount.metrics.window import Window, phase_window
from wattcount.records.schema import Phase

if TYPE_CHECKING:
    from wattcount.records import Record

THROTTLED_SHARE = 0.01
CAPPED_SHARE = 0.05
"""Above a single read of the status in 20; a power cap is how a board works at its limit."""
LIMIT_TOLERANCE_W = 1.0
CLOCK_TOLERANCE = 0.01
"""Share of a locked SM clock; clocks come in steps of 15 MHz, so this is less than one."""
NOT_HELD_SHARE = 0.05
"""Share of a window's time under load in which a locked clock may be another; above a single read in 20."""
CLOCK_SPREAD = 0.1
"""Share of the window's highest SM clock between percentiles 5 and 95 (by time)."""
TEMPERATURE_C = (10.0, 85.0)
"""Outside of it a sensor is broken, or a board is close to its slowdown (87 to 95 degrees C on data-centre boards)."""

THROTTLES = (
    # (bits, code, NVML's names, limit, invalidates)
    (SW_POWER_CAP, "power_capped", "SwPowerCap", CAPPED_SHARE, False),
    (
        THERMAL_SLOWDOWN,
        "thermal_slowdown",
        "SwThermalSlowdown, HwThermalSlowdown",
        THROTTLED_SHARE,
        True,
    ),
    (HW_SLOWDOWN, "hw_slowdown", "HwSlowdown", THROTTLED_SHARE, True),
    (POWER_BRAKE, "power_brake", "HwPowerBrakeSlowdown", THROTTLED_SHARE, True),
    (SYNC_BOOST, "sync_boost", "SyncBoost", CAPPED_SHARE, False),
)
"""Reasons that are findings of their own where they slowed the clocks for longer than their limit, a share of the window."""


def foreign_process(record: Record, window: Window | None) -> Iterator[Finding]:
    """Compute processes in bare idle, or more of them in the window than the engine has in loaded idle."""
    phases, trace = record.info.phases, record.power
    bare = phase_window(phases, Phase.BARE_IDLE)
    loaded = phase_window(phases, Phase.LOADED_IDLE)
    for index, uuid in enumerate(trace.gpu_uuids):

        def most(span: Window | None, gpu: int = index) -> int | None:
            if span is None:
                return None
            counts, _ = held(trace.events, gpu, Source.COMPUTE_PROCESSES, span)
            return int(counts.max()) if len(counts) else None

        in_bare, in_loaded, in_window = most(bare), most(loaded), most(window)
        if in_bare:
            yield Finding(
                "foreign_process",
                in_bare,
                0,
                "processes",
                f"{in_bare} other process(es) on {uuid} before the engine started",
                True,
            )
        elif in_loaded is not None and in_window is not None and in_window > in_loaded:
            yield Finding(
                "foreign_process",
                in_window,
                in_loaded,
                "processes",
                f"more compute processes on {uuid} in the window than in loaded idle",
                True,
            )


def power_shared(record: Record) -> Iterator[Finding]:
    shared = [
        gpu
        for gpu in record.info.gpus
        # nvmlGpuVirtualizationMode_t: 2 vGPU, 3 host vGPU, 4 host vSGA; passthrough (1) has the board to itself
        if gpu.get("mig_mode") == 1 or gpu.get("virtualization_mode") in (2, 3, 4)
    ]
    if shared:
        how = "MIG is on" if shared[0].get("mig_mode") == 1 else "it is a virtual GPU"
        yield Finding(
            "power_shared",
            len(shared),
            0,
            "GPUs",
            f"the sensors of {shared[0].get('uuid')} are of the whole board, others may compute on it ({how})",
            True,
        )


def throttles(record: Record, window: Window) -> Iterator[Finding]:
    """Which reason slowed the clocks, and for how long."""
    for index, uuid in enumerate(record.power.gpu_uuids):
        reasons, lengths = held(record.power.events, index, Source.CLOCK_EVENT_REASONS, window)
        total = int(lengths.sum())
        for bits, code, names, limit, invalidates in THROTTLES:
            slowed = int(lengths[(reasons & bits) != 0].sum())
            if total and slowed / total > limit:
                yield Finding(
                    code,
                    slowed / total,
                    limit,
                    "1",
                    f"{dict(WHAT_SLOWS)[bits]} slowed the clocks{on(record, uuid)} for {slowed / 1e9:.3g} s of the window ({names})",
                    invalidates,
                )


def settings_changed(record: Record, window: Window) -> Iterator[Finding]:
    """Power limit and clocks that did not stay what they were."""
    for index, uuid in enumerate(record.power.gpu_uuids):
        limits, _ = held(record.power.events, index, Source.POWER_LIMIT, window)
        if len(limits) and limits.max() > limits.min():
            low, high = int(limits.min()) / 1e3, int(limits.max()) / 1e3
            yield Finding(
                "power_limit_changed",
                high - low,
                0,
                "W",
                f"the power limit{on(record, uuid)} changed in the window, between {low:g} and {high:g} W",
                True,
            )
        reasons, _ = held(record.power.events, index, Source.CLOCK_EVENT_REASONS, window)
        slowed = bool((reasons & SLOWING).any())  # then it is known why the SM clock moves
        for source, code, name in (
            (Source.CLOCK_SM, "sm_clock_varied", "SM"),
            (Source.CLOCK_MEMORY, "memory_clock_varied", "memory"),
        ):
            clocks, lengths = held(record.power.events, index, source, window)
            if not len(clocks) or clocks.max() <= 0 or (source == Source.CLOCK_SM and slowed):
                continue
            low_mhz, high_mhz = _by_time(clocks, lengths, 0.05), _by_time(clocks, lengths, 0.95)
            spread = (high_mhz - low_mhz) / int(clocks.max())
            if spread > CLOCK_SPREAD:
                yield Finding(
                    code,
                    spread,
                    CLOCK_SPREAD,
                    "1",
                    f"the {name} clock{on(record, uuid)} moved between {low_mhz} and {high_mhz} MHz in the window",
                    False,
                )


def asked_of_gpu(record: Record, window: Window) -> Iterator[Finding]:
    """SM clock and power limit that the point asked for, against what was there."""
    gpu = record.info.config.get("gpu") or {}
    clock_mhz, limit_w = gpu.get("sm_clock_mhz"), gpu.get("power_limit_w")
    for index, uuid in enumerate(record.power.gpu_uuids):
        if limit_w is not None:
            limits, lengths = held(record.power.events, index, Source.POWER_LIMIT, window)
            away_w = np.abs(limits / 1e3 - float(limit_w))
            if len(away_w) and away_w.max() > LIMIT_TOLERANCE_W:
                worst_w = int(limits[np.argmax(away_w)]) / 1e3
                seconds = int(lengths[away_w > LIMIT_TOLERANCE_W].sum()) / 1e9
                yield Finding(
                    "power_limit_not_held",
                    float(away_w.max()),
                    LIMIT_TOLERANCE_W,
                    "W",
                    f"{limit_w:g} W were asked for, but for {seconds:.3g} s of the window the power "
                    f"limit{on(record, uuid)} was another, such as {worst_w:g} W",
                    True,
                )
        if clock_mhz is not None:
            clocks, lengths = clock_under_load(record, index, window)
            off = np.abs(clocks - int(clock_mhz)) > CLOCK_TOLERANCE * int(clock_mhz)
            share = int(lengths[off].sum()) / int(lengths.sum()) if len(lengths) else 0.0
            if share > NOT_HELD_SHARE:
                low, high = int(clocks[off].min()), int(clocks[off].max())
                yield Finding(
                    "sm_clock_not_held",
                    share,
                    NOT_HELD_SHARE,
                    "1",
                    f"the SM clock{on(record, uuid)} was {low} to {high} MHz for {share:.0%} of the window's time under "
                    f"load, {clock_mhz} MHz was asked for",
                    True,
                )


def _by_time(values: Ints, lengths: Ints, share: float) -> int:
    """The value that is not exceeded for this share of the time."""
    order = np.argsort(values, kind="stable")
    until = np.cumsum(lengths[order])
    return int(values[order][np.searchsorted(until, share * int(until[-1]))])


def temperature(record: Record, window: Window) -> Iterator[Finding]:
    low, high = TEMPERATURE_C
    for index, uuid in enumerate(record.power.gpu_uuids):
        degrees, _ = held(record.power.events, index, Source.TEMPERATURE_GPU, window)
        if not len(degrees):
            continue
        for figure, limit, out in (
            (int(degrees.max()), high, int(degrees.max()) > high),
            (int(degrees.min()), low, int(degrees.min()) < low),
        ):
            if out:
                yield Finding(
                    "temperature_out_of_range",
                    figure,
                    limit,
                    "C",
                    f"the GPU{on(record, uuid)} was at {figure} degrees C in the window; {low:g} to {high:g} are usual",
                    False,
                )
