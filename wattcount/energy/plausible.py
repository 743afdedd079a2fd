"""What a power sensor cannot have shown: readings that no board gives, and those of a sensor that stands still.

A reading is left out, and the stretch around it gets a reason code, so that only intervals that meet it carry the code.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.curve import Ints

Events = NDArray[np.void]
Bools = NDArray[np.bool_]

ZERO = "zero_power_readings"
"""Reason code: readings of 0 W were left out."""
ABSURD = "absurd_power_readings"
"""Reason code: readings beyond what the board can draw were left out."""
FROZEN = "power_samples_frozen"
"""Reason code: the samples ring stood still."""
POLLED_FROZEN = "polled_power_frozen"
"""Reason code: polled power stood still."""
CLOCK_STEPPED = "wall_clock_stepped"
"""Reason code: the wall clock was stepped while it was sampled."""

STANDS_STILL = (FROZEN, POLLED_FROZEN)
"""Of these codes, those that sensors which work give too: of 151 traces of healthy boards 18 had samples that stood still in idle."""

MOST_POWER_W = 5_000.0
"""Power [W] that no single board reaches: the largest of 2026 is built for 1.4 kW."""
LEAST_POWER_W = 0.5
"""Power [W] below which no powered board stays: the smallest idle at some 5 W."""
READING_OVER_LIMIT = 2.0
"""Largest believed reading, in power limits of the board: samples of 20 ms reached 1.3 on H100s."""
MEAN_OVER_LIMIT = 1.2
"""Largest believed mean over a second or more, in power limits: the board regulates its mean within a second."""
FROZEN_SAMPLES = 12
"""Length of a run of equal samples that is a sensor standing still: an idle H200 gave up to 9."""
FROZEN_TIMES = 3.0
"""The same, in usual runs, where long runs are usual because the sensor is coarse."""
FROZEN_POLLED_NS = 2_500_000_000
"""Time that polled power may stay the same: it is updated every 100 ms or faster, and kept once a second where it stays."""
USUAL_QUANTILE = 0.95
"""Quantile over the runs, one value a run, that is called usual: a single run is never its own measure."""


def board_limit_w(limits: Events) -> float | None:
    """Highest power limit that was read [W]; None where none was, or none that a board has."""
    good = limits["value"][(limits["nvml_return"] == 0) & (limits["value"] > 0)] / 1e3
    good = good[good <= MOST_POWER_W]
    return float(good.max()) if len(good) else None


def most_reading_w(limit_w: float | None) -> float:
    """Power [W] that a single reading may show."""
    return MOST_POWER_W if limit_w is None else min(MOST_POWER_W, READING_OVER_LIMIT * limit_w)


def most_mean_w(limit_w: float | None) -> float:
    """Power [W] that a mean over a second or more may reach."""
    return MOST_POWER_W if limit_w is None else min(MOST_POWER_W, MEAN_OVER_LIMIT * limit_w)


def faults_of_power(value_mw: Ints, most_w: float) -> dict[str, Bools]:
    """By reason code: which readings of power no board gives."""
    return {ZERO: value_mw < LEAST_POWER_W * 1e3, ABSURD: value_mw > most_w * 1e3}


def around(t_ns: Ints, bad: Bools) -> Ints:
    """Stretches [m, 2] ns of bad readings: each from the good reading before a run of them to the one after."""
    if not bad.any():
        return np.empty((0, 2), np.int64)
    edges = np.flatnonzero(np.diff(np.concatenate(([False], bad, [False])).astype(int)))
    before, after = np.maximum(edges[::2] - 1, 0), np.minimum(edges[1::2], len(t_ns) - 1)
    spans: Ints = np.stack((t_ns[before], np.maximum(t_ns[after], t_ns[before] + 1)), axis=1)
    return spans


def same_for_long(value: Ints) -> Bools:
    """Samples that repeat the one before in a run that is too long; the first of a run is good.

    Too long is `FROZEN_SAMPLES` and `FROZEN_TIMES` times a usual run. Runs count once each, whatever their length, and the longest
    never counts: a sensor that stands still for longer is never found the less.
    """
    return _in_long_runs(value, np.arange(len(value)), float(FROZEN_SAMPLES - 1))


def held_for_long(value: Ints, t_ns: Ints) -> Bools:
    """The same of polled values, by the time [ns] that a run lasts: values that stay are kept now and then only."""
    return _in_long_runs(value, t_ns, float(FROZEN_POLLED_NS))


def _in_long_runs(value: Ints, place: Ints, least: float) -> Bools:
    repeats = np.concatenate(([False], np.diff(value) == 0)) if len(value) else np.zeros(0, bool)
    if not repeats.any():
        return repeats
    run = np.cumsum(~repeats) - 1
    first = np.flatnonzero(~repeats)
    last = np.append(first[1:], len(value)) - 1
    lengths = (place[last] - place[first]).astype(float)
    others = np.sort(lengths)[:-1]
    usual = float(np.quantile(others, USUAL_QUANTILE, method="lower")) if len(others) else 0.0
    long: Bools = repeats & (lengths[run] >= max(least, FROZEN_TIMES * usual))
    return long
