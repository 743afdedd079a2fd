"""Energy of prefill, of decode and of each request, from a record (docs/attribution.md).

`work` says what was computed when, `design` cuts the window into intervals, `least_squares` fits their energy,
`phase_energy` divides it, `request_energy` divides it further; here is what they want to know of a record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wattcount.energy.events import Source
from wattcount.energy.trace import PowerTrace
from wattcount.metrics.clocks import LoadClocks, load_clocks
from wattcount.metrics.design import (
    COLLINEAR,
    HARDLY_PRESENT,
    MAX_CONDITION_NUMBER,
    MIN_EFFECTIVE_INTERVALS,
    NO_STEPS,
    EnergyAt,
)
from wattcount.metrics.locking import window_energy_sum
from wattcount.metrics.observations import MISSING, Requests, gpu_uuids, int_column
from wattcount.metrics.phase_energy import (
    MIN_INTERVALS,
    NOT_RESOLVED,
    TOO_FEW_INTERVALS,
    Attribution,
    attribute,
)
from wattcount.metrics.request_energy import RequestEnergies, divide_among_requests
from wattcount.metrics.transfer import CLOCK_TOLERANCE_SHARE
from wattcount.metrics.window import Window, phase_window
from wattcount.metrics.work import Context, Work, begun_ns, locate_steps
from wattcount.records import Record
from wattcount.records.schema import Phase

NO_IDLE = "no_loaded_idle"
NO_CURVE = "no_power_curve"

REASONS = {
    NO_STEPS: "the engine does not tell what its steps computed, or there was none",
    NO_IDLE: "no loaded idle was measured",
    NO_CURVE: "the sensors give no power curve finer than a second",
    TOO_FEW_INTERVALS: f"the window holds fewer than {MIN_INTERVALS} intervals that can be told apart",
    COLLINEAR: f"prefill and decode kept one proportion: condition number above {MAX_CONDITION_NUMBER:g}",
    HARDLY_PRESENT: f"prefill or decode was there in fewer than {MIN_EFFECTIVE_INTERVALS} intervals",
    NOT_RESOLVED: "the energy of prefill or of decode is less than its uncertainty",
}
"""Codes of why there is no attribution."""


def attribute_record(record: Record, window: Window) -> Attribution | str:
    """`attribute` with what a record holds; a code of `REASONS` where it does not hold enough."""
    inputs = read_inputs(record, window)
    if isinstance(inputs, str):
        return inputs
    return attribute(
        inputs.energy_at,
        window,
        inputs.work,
        inputs.idle_w,
        idle_u95_w=inputs.idle_u95_w,
        energy_u95_share=inputs.energy_u95_share,
        resolution_s=inputs.resolution_s,
        clock_mhz=inputs.clocks.mean_mhz,
        slowed=(inputs.clocks.slowdown or 0.0) > CLOCK_TOLERANCE_SHARE,
    )


def request_energies(record: Record, window: Window) -> RequestEnergies | str:
    """Energy of each request of `record.requests`, same order; the code of `attribute_record` where there is none."""
    found = attribute_record(record, window)
    return found if isinstance(found, str) else divide_among_requests(found, Requests.of(record.requests))


@dataclass(frozen=True)
class Inputs:
    """What `attribute` wants to know of a window, from a record."""

    energy_at: EnergyAt
    energy_u95_share: float
    resolution_s: float
    work: Work
    idle_w: float
    idle_u95_w: float
    clocks: LoadClocks


def read_inputs(record: Record, window: Window) -> Inputs | str:
    """A code of `REASONS` where the record does not hold enough."""
    work = _work_of(record)
    if work is None:
        return NO_STEPS
    idle = _idle_power_w(record)
    if idle is None:
        return NO_IDLE
    curves: list[EnergyAt] = []
    resolution_s = 0.0
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return NO_CURVE
        estimate = record.power.energy(window.start_ns, window.end_ns, uuid)
        curve = power_curve(record.power, uuid, estimate.basis or "")
        if estimate.value_j is None or curve is None:
            return NO_CURVE
        curves.append(curve[0])
        resolution_s = max(resolution_s, curve[1])
    total = window_energy_sum(record, window)
    if total is None or total.value_j <= 0:
        return NO_CURVE
    return Inputs(
        energy_at=lambda t_ns: np.sum([curve(t_ns) for curve in curves], axis=0),
        energy_u95_share=total.u95_j / total.value_j,
        resolution_s=resolution_s,
        work=work,
        idle_w=idle[0],
        idle_u95_w=idle[1],
        clocks=load_clocks(record, window),
    )


def power_curve(power: PowerTrace, gpu_uuid: str, basis: str) -> tuple[EnergyAt, float] | None:
    """Cumulative energy of one GPU and the spacing, s, of the power samples behind it.

    None where `basis`, of the estimate for the window, has no curve at that resolution: the counter or averaged
    power alone.
    """
    model = power.model(gpu_uuid)
    if basis.endswith("power_samples"):
        curve, stamps_ns = (
            model.scaled if "counter" in basis else model.ring,
            np.unique(power.of(gpu_uuid, Source.POWER_SAMPLES)["source_ts_us"]) * 1000,
        )
    elif basis.endswith("power_instant"):
        curve, stamps_ns = (
            model.scaled if "counter" in basis else model.instant,
            np.unique(power.of(gpu_uuid, Source.POWER_INSTANT)["t0_ns"]),
        )
    else:
        return None
    if curve is None or len(stamps_ns) < 2:
        return None
    return curve.at, float(np.median(np.diff(stamps_ns))) / 1e9


def _work_of(record: Record) -> Work | None:
    steps = record.steps
    running, waiting = int_column(steps, "running"), int_column(steps, "waiting")
    requests = Requests.of(record.requests)
    return locate_steps(
        int_column(steps, "logged_ns"),
        int_column(steps, "engine_ts_ns"),
        int_column(steps, "duration_ns"),
        int_column(steps, "prefill_tokens"),
        int_column(steps, "decode_tokens"),
        np.where((running == MISSING) | (waiting == MISSING), 1, running + waiting),
        begun_ns(requests),
        Context.of(requests),
    )


def _idle_power_w(record: Record) -> tuple[float, float] | None:
    """Loaded idle of all GPUs, W, and its 95 % uncertainty: mean and half difference of before and after."""
    means = []
    for phase in (Phase.LOADED_IDLE, Phase.IDLE_AFTER):
        span = phase_window(record.info.phases, phase)
        if span is None:
            continue
        values = [
            record.power.energy(span.start_ns, span.end_ns, uuid).value_j
            for uuid in gpu_uuids(record)
            if uuid in record.power.gpu_uuids
        ]
        known = [value for value in values if value is not None]
        if known and len(known) == len(gpu_uuids(record)):
            means.append(math.fsum(known) / span.duration_s)
    if not means:
        return None
    return (max(means) + min(means)) / 2, (max(means) - min(means)) / 2
