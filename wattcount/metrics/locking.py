"""Whether a load keeps step with the power sensor, which then sees it at one phase only."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wattcount.energy import EnergyEstimate
from wattcount.energy.events import Source
from wattcount.metrics.observations import gpu_uuids, int_column
from wattcount.metrics.window import Window
from wattcount.records import Record

Ints = NDArray[np.int64]

SENSITIVITY = {1: 0.16, 2: 0.08}
"""By how many steps fall to one sample: largest error of the energy counter, as a share, of a load that is half on and half off.

Measured on an H200 (benchmarks/bench_load_period.py, docs/h200.md): 16 % at the samples' own period of 20 ms, 7 and 9 % at half
of it, within the 1 % of its scatter at a quarter and below.
"""
MIN_STEPS = 20


@dataclass(frozen=True)
class Locking:
    """Steps against samples. `coherence` is 0 where steps fall anywhere between two samples, 1 where always alike."""

    step_ns: float
    steps_a_sample: int
    coherence: float

    @property
    def error_share(self) -> float:
        """Largest share by which the counter may be off: the sensitivity, as far as the steps keep step."""
        return SENSITIVITY.get(self.steps_a_sample, 0.0) * self.coherence


def locking(step_ns: Ints, sample_period_ns: float) -> Locking | None:
    """Of steps logged at these times, int64[n] increasing; None where there are too few.

    The phase of each step in the period that matters, the samples' or a fraction of it, is a unit vector; coherence is
    the length of their mean, less what as many steps at random phases would have (Mardia and Jupp, Directional
    Statistics, 2000, section 2.3.1: the mean square length of n random unit vectors' mean is 1 / n).
    """
    if len(step_ns) < MIN_STEPS:
        return None
    length_ns = float(np.median(np.diff(step_ns)))
    if length_ns <= 0:
        return None
    a_sample = max(1, round(sample_period_ns / length_ns))
    phase = (
        2 * np.pi * ((step_ns - step_ns[0]) % (sample_period_ns / a_sample)) / (sample_period_ns / a_sample)
    )
    square = float(np.mean(np.cos(phase)) ** 2 + np.mean(np.sin(phase)) ** 2)
    chance = 1 / len(step_ns)
    return Locking(length_ns, a_sample, max(0.0, (square - chance) / (1 - chance)) ** 0.5)


def locking_of(record: Record, window: Window, gpu_uuid: str) -> Locking | None:
    """Of a record's engine steps in a window against one GPU's samples ring; None where either is missing."""
    logged_ns = np.sort(int_column(record.steps, "logged_ns"))
    inside = logged_ns[(logged_ns >= window.start_ns) & (logged_ns < window.end_ns)]
    stamps_us = np.unique(record.power.of(gpu_uuid, Source.POWER_SAMPLES)["source_ts_us"])
    if len(stamps_us) < 2:
        return None
    return locking(inside, 1e3 * float(np.median(np.diff(stamps_us))))


def window_energy(record: Record, window: Window, gpu_uuid: str) -> EnergyEstimate:
    """Energy of a window, with what locking may do to it in the sensor's part of the uncertainty (`locking`).

    The sensor's, because runs of the same load on one board would share it.
    """
    estimate = record.power.energy(window.start_ns, window.end_ns, gpu_uuid)
    found = locking_of(record, window, gpu_uuid)
    if (
        found is None
        or estimate.value_j is None
        or estimate.u95_method_j is None
        or estimate.u95_sensor_j is None
    ):
        return estimate
    locked_j = found.error_share * estimate.value_j
    sensor_j = math.hypot(estimate.u95_sensor_j, locked_j)
    return replace(
        estimate,
        u95_j=math.hypot(estimate.u95_method_j, sensor_j),
        u95_sensor_j=sensor_j,
        budget_j={**estimate.budget_j, "locking": locked_j},
    )


@dataclass(frozen=True)
class EnergySum:
    """Energy of a window, all GPUs together, with its 95 % uncertainties."""

    value_j: float
    u95_method_j: float
    u95_sensor_j: float

    @property
    def u95_j(self) -> float:
        return math.hypot(self.u95_method_j, self.u95_sensor_j)


def window_energy_sum(record: Record, window: Window) -> EnergySum | None:
    """The sum over the GPUs of the run; None where the energy or the uncertainty of one is not known.

    The estimator's errors are independent: in quadrature. Those of the boards' sensors may not be: they are added.
    """
    estimates = []
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return None
        estimates.append(window_energy(record, window, uuid))
    values = [e.value_j for e in estimates if e.value_j is not None]
    method = [e.u95_method_j for e in estimates if e.u95_method_j is not None]
    sensor = [e.u95_sensor_j for e in estimates if e.u95_sensor_j is not None]
    if not estimates or not len(values) == len(method) == len(sensor) == len(estimates):
        return None
    return EnergySum(math.fsum(values), math.sqrt(math.fsum(u**2 for u in method)), math.fsum(sensor))
