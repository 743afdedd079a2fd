"""What of the readings can be believed: which no board gives, which come from a sensor that stands still, and whether two sources tell
the same energy, of each step of the counter and of a whole interval.

A reading that is not believed is left out, and the stretch around it gets a reason code, so that only intervals that meet it carry
the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.uncertainty import LOCAL_TICKS, doubt_j2

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
"""Reason codes that sensors which work give too: of 151 traces of healthy boards 18 had samples that stood still in idle."""

MOST_POWER_W = 5_000.0
"""Power that no single board reaches [W]. Chosen: the largest of 2026 is built for 1.4 kW."""
LEAST_POWER_W = 0.5
"""Power below which no powered board stays [W]. Chosen: the smallest idle at some 5 W."""
READING_OVER_LIMIT = 2.0
"""Largest believed reading [power limits of the board]. Chosen: samples of 20 ms reached 1.3 on H100s."""
MEAN_OVER_LIMIT = 1.2
"""Largest believed mean over a second or more [power limits of the board]. Chosen: the board regulates its mean within a second."""
FROZEN_SAMPLES = 12
"""Length of a run of equal samples that is a sensor standing still [samples]. Chosen: an idle H200 gave up to 9."""
FROZEN_TIMES = 3.0
"""The same where long runs are usual, because the sensor is coarse [usual runs]. Chosen: well above what usual runs differ by."""
FROZEN_POLLED_NS = 2_500_000_000
"""Longest time that polled power may stay the same [ns]. Chosen: it is updated every 100 ms or faster, and kept once a second where it
stays."""
USUAL_QUANTILE = 0.95
"""Quantile over the runs, one value a run, that is called usual [share]. Chosen: a single run is never its own measure."""


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
    """Readings of power that no board gives, by the code of the reason."""
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


DISAGREE = "sources_disagree"
"""Reason code: two sources of an energy lie further apart than `DISAGREE_SHARE`."""
DISAGREE_SHARE = 0.05
"""Difference of two sources over an interval that is reported [share of the energy]. Chosen: on steady serving loads they agree
within 1 %; 20 ms samples alias loads that repeat faster than some 100 ms, by up to 16 %."""
BROKEN_SHARE = 0.25
"""Difference above which one of the two sources is broken [share of the energy]. Chosen: aliasing explains up to 16 %."""
LEAST_COMPARED_S = 1.0
"""Length of an interval from which sources are compared [s]. Chosen: in less, an update of either at the ends is more than what a sensor may be off by."""
LEAST_COMPARED_AVERAGE_S = 10.0
"""Length of an interval from which the 1 s average is compared [s]. Chosen: its lag of up to a second cannot matter much then."""

STEP_SDS = 6.0
"""Largest difference of a step of the counter from what power samples show of it [standard deviations]. Chosen: of 12,201 steps in
real records two did by more, by 7 J each."""
STEP_FREE_S = 0.1
"""Difference of a step that is allowed on top [s at the local power]. Derived: one tick of a 100 ms counter that was taken for the next."""
WIDEN_SDS = 2.5
"""Difference of a step above which it widens the interval of every window that meets it [standard deviations]. Chosen: chance gives as
much to one step in 80."""
WIDEN_SHARE = 1 / 3
"""Standard uncertainty of such a step's energy [share of the difference]. Chosen: the counter may be the wrong one, but seldom is. Three
95 % intervals then hold twice the difference."""
UNTOLD_SHARE = 1 / 6
"""Standard uncertainty of one step in each interval of a trace with faults [share of the largest difference that widens nothing,
`WIDEN_SDS`]. Derived: three 95 % intervals of it alone, 3 x 1.96 / 6, hold that difference."""
LONG_GAP_NS = 70_000_000
"""Length above which a gap in a power source is bridged and not seen [ns]. Chosen: three lost samples of 20 ms."""
UNSEEN_S = 0.3
"""Time of such gaps that a power source may have within a step of the counter and still witness it [s]. Chosen: a third of a step of a
second."""
WITNESS_LAG_S = 0.1
"""Standard deviation of how late polled power is shown [s]. Chosen: one update of the slowest fields."""
TICK_SD_S = 0.001
"""Least standard deviation of one tick's place [s]. Chosen: a hundredth of the ticks' period."""
GAIN_ONES = 3
"""Weight of the belief that counter and samples have one gain [steps]. Chosen: few against the 17 steps around."""
GAIN_LIMITS = (0.75, 1.35)
"""Lowest and highest local gain of counter against samples that is believed [1]. Chosen: aliasing explains up to 16 %, and some more."""


@dataclass(frozen=True)
class Steps:
    """Steps of the counter against the power that was seen between the same two ticks; float64[steps] each.

    off_j      counter's joules - the witness's, which are scaled by the gain around
    seen_j     the witness's joules
    sd_j       standard deviation that this difference is expected to have
    power_w    power around the step, by the witness
    seen       False: no power source saw the step, and `seen_j` is bridged
    whole      the finest source saw the step without a long gap
    """

    off_j: Floats
    seen_j: Floats
    sd_j: Floats
    power_w: Floats
    seen: Bools
    whole: Bools

    @property
    def limit_j(self) -> Floats:
        """What a difference may be."""
        return STEP_SDS * self.sd_j + STEP_FREE_S * self.power_w

    @property
    def widening_j(self) -> Floats:
        """Standard uncertainty of each step by its difference: 0 where chance explains it and the step was seen whole."""
        usual = self.whole & (np.abs(self.off_j) < WIDEN_SDS * self.sd_j)
        return np.where(usual, 0.0, WIDEN_SHARE * np.abs(self.off_j))

    @property
    def untold_j(self) -> Floats:
        """Standard uncertainty of each step by what may be wrong with it and pass for chance."""
        return UNTOLD_SHARE * WIDEN_SDS * self.sd_j


def check_steps(
    ticks_ns: Ints, energy_j: Floats, witnesses: Sequence[PowerCurve], tick_sd_s: float, lag_sd_s: float
) -> Steps | None:
    """What is found of each step, by the first witness that saw it; None where there is no witness or no step.

    ticks_ns, energy_j  the counter's, at least 2
    witnesses           power curves in true time as far as it is known, the finest first
    tick_sd_s           standard deviation of a tick's place
    lag_sd_s            of the lag of the first witness; the others trail by up to `WITNESS_LAG_S`
    """
    if len(ticks_ns) < 2 or not witnesses:
        return None
    steps_j = np.diff(energy_j)
    found: Steps | None = None
    for curve, lag_s in zip(witnesses, (lag_sd_s, *[WITNESS_LAG_S] * len(witnesses)), strict=False):
        one = _by(curve, ticks_ns, steps_j, max(tick_sd_s, TICK_SD_S), lag_s)
        if found is None:
            found = one
            continue
        use = ~found.seen & one.seen
        found = Steps(
            off_j=np.where(use, one.off_j, found.off_j),
            seen_j=np.where(use, one.seen_j, found.seen_j),
            sd_j=np.where(use, one.sd_j, found.sd_j),
            power_w=np.where(use, one.power_w, found.power_w),
            seen=found.seen | one.seen,
            whole=found.whole,
        )
    return found


def _by(curve: PowerCurve, ticks_ns: Ints, steps_j: Floats, tick_sd_s: float, lag_s: float) -> Steps:
    shown_j = np.diff(curve.at(ticks_ns))
    seconds = np.diff(ticks_ns) / S_NS
    unseen_s = np.diff(_unseen_until_s(curve, ticks_ns))
    whole = unseen_s <= 0.0
    seen = (unseen_s <= UNSEEN_S) & (ticks_ns[:-1] >= curve.t_ns[0]) & (ticks_ns[1:] <= curve.t_ns[-1])
    seen_j = _gain(steps_j, shown_j, seen) * shown_j
    first_ns = curve.t_ns[0]
    walked = np.interp(
        (ticks_ns - first_ns).astype(float), (curve.t_ns - first_ns).astype(float), doubt_j2(curve)
    )
    ends_w = curve.power_at(ticks_ns)
    power_w = np.maximum(shown_j / seconds, 1.0)
    wide = np.pad(power_w, 1, mode="edge")
    power_w = np.max(np.lib.stride_tricks.sliding_window_view(wide, 3), axis=1)
    variance = np.diff(walked) + 2 * (tick_sd_s * power_w) ** 2 + (lag_s * np.diff(ends_w)) ** 2
    sd_j = np.sqrt(np.maximum(variance, 1e-12))
    off_j = steps_j - seen_j
    # On loads that the priors do not describe, samples that alias say, all differ by more.
    usual = np.abs(off_j / sd_j)[seen]
    scale = max(1.0, float(np.median(usual)) / 0.6745) if len(usual) else 1.0
    return Steps(off_j, seen_j, scale * sd_j, power_w, seen, whole & seen)


def _gain(steps_j: Floats, shown_j: Floats, seen: Bools) -> Floats:
    """Counter's joules against the witness's around each step: the median of the steps that were seen, and of some ones."""
    ratios = np.where(seen & (shown_j > 0), steps_j / np.maximum(shown_j, 1e-9), np.nan)
    padded = np.pad(ratios, LOCAL_TICKS, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * LOCAL_TICKS + 1)
    # `np.nanmedian` takes ten times as long. What was not seen is NaN, and sorted to the end.
    around = np.sort(np.concatenate((windows, np.ones((len(ratios), GAIN_ONES))), axis=1), axis=1)
    number, row = (~np.isnan(around)).sum(axis=1), np.arange(len(ratios))
    gain: Floats = (around[row, (number - 1) // 2] + around[row, number // 2]) / 2
    return np.clip(gain, *GAIN_LIMITS)


def _unseen_until_s(curve: PowerCurve, t_ns: Ints) -> Floats:
    """Seconds of long gaps up to each time."""
    gaps_ns = curve.gaps_ns[curve.gaps_ns[:, 1] - curve.gaps_ns[:, 0] > LONG_GAP_NS]
    if not len(gaps_ns):
        return np.zeros(len(t_ns))
    lengths = np.diff(gaps_ns, axis=1)[:, 0] / S_NS
    knots = gaps_ns.ravel() - gaps_ns[0, 0]
    until = np.repeat(np.cumsum(lengths), 2)
    until[::2] -= lengths
    seconds: Floats = np.interp((t_ns - gaps_ns[0, 0]).astype(float), knots.astype(float), until)
    return seconds


@dataclass(frozen=True)
class Disagreement:
    """Two sources that differ most over one interval.

    share      of `against`'s energy, signed
    certain    of that, what is left when the 95 % method's intervals of both are taken off; not negative
    """

    source: str
    against: str
    share: float
    certain: float

    @property
    def told(self) -> bool:
        return self.certain > DISAGREE_SHARE

    @property
    def broken(self) -> bool:
        return self.certain > BROKEN_SHARE


Value = tuple[float, float]
"""Joules of an interval, and their 95 % method's interval."""


def disagreement(best: str, known: Mapping[str, Value], seconds: float) -> Disagreement | None:
    """How the best estimate disagrees with a source: the one that differs most, of those that aliasing moves by at most `BROKEN_SHARE`.

    best     name of the estimate in `known` that the others are held against
    known    by name of the source
    seconds  length of the interval
    """
    if seconds < LEAST_COMPARED_S:
        return None
    best_j, best_u95_j = known[best]
    found: Disagreement | None = None
    for name in ("energy_counter", "power_samples", "power_average"):
        if (
            name == best
            or name not in known
            or (name == "power_average" and seconds < LEAST_COMPARED_AVERAGE_S)
        ):
            continue
        value_j, u95_j = known[name]
        off_j = value_j - best_j
        certain = max(0.0, abs(off_j) - u95_j - best_u95_j) / max(best_j, 1e-9)
        if found is None or certain > found.certain:
            found = Disagreement(name, best, off_j / max(best_j, 1e-9), certain)
    return found
