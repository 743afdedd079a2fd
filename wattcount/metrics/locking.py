"""Whether a load keeps step with the power sensor, which then sees it at one phase only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
