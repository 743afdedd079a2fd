"""The energy counter's ticks, with the shape that power samples give them in between, and how sure the energy of an interval is then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wattcount.energy.counter import Counter
from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.plausible import WIDEN_SHARE, Steps, check_steps
from wattcount.energy.uncertainty import (
    EnergyEstimate,
    HeldOut,
    ShapeUncertainty,
    doubt_j2,
    estimated,
    local_gain,
)

RING_LOWPASS_S = 0.010
"""Time constant of the low-pass before the samples ring [s]. Measured: 9 to 12 ms on an H200 (docs/emulator.md); other GPUs
are taken to be alike."""
RING_LOWPASS_SD_S = 0.004
"""Standard deviation of that time constant from board to board [s]. Chosen: no other GPU's was measured."""
WITHIN_STEP = 0.15
"""Standard deviation of the moment of a change of power, where samples show it [sampling steps]. Chosen: half of that of a
moment anywhere within the step (1 / sqrt(12) = 0.29), because the samples on either side tell some of it."""
HIDDEN_SHARE = 1.0
"""Standard deviation of the energy at a moment that samples in step with the load hide [difference of mean power between
samples and counter x one sampling step]. Derived: a sine of 20 ms behind a low-pass of 10 ms has 0.5, one behind 12 ms 0.6;
a square wave of 10 ms on, 10 ms off has up to 1."""
MISPLACED_TICK_S = 0.005
"""Standard deviation of a tick's place, by the held-out ticks, above which ticks are not where they are taken to be [s]. Measured: up to
1.7 ms in 151 traces of H100s and H200s; three times that is allowed."""
COUNTER_STEP_J = 1e-3
"""Resolution of the energy counter [J]. Stated: NVML's unit for it is the millijoule."""
HELD_STEEPNESS = 1 / 3
"""Variance of the energy of one step of held power [(length x change of power)^2]. Derived: power changed at any time since
the value before, with equal probability: the mean square of that time is 1/3."""


class Anchored:
    """The energy counter's ticks, with a shape between them (None: straight lines).

    Like a curve, it gives joules up to a moment; beyond the first and last tick the shape's gain around that tick holds.

    steps   what `check_steps` finds in these ticks, where that is known
    """

    def __init__(
        self,
        shape: PowerCurve | None,
        ticks_ns: Ints,
        energy_j: Floats,
        counter: Counter,
        witnesses: Sequence[PowerCurve] = (),
        *,
        faulty: bool = False,
        steps: Steps | None = None,
    ) -> None:
        self._shape, self._counter = shape, counter
        self._known: dict[tuple[int, int], tuple[float, dict[str, float]]] = {}
        self.ticks_ns, self.energy_j = ticks_ns, energy_j
        seconds = np.diff(ticks_ns) / S_NS
        self._mean_w = np.diff(energy_j) / seconds
        self._shown_j = energy_j if shape is None else shape.at(ticks_ns)
        self._swing_j2 = self._swings_j2()
        self._gain = local_gain(energy_j, self._shown_j)
        self._unlike_w = self._mean_w * np.abs(1 - 1 / self._gain)
        self._doubt_j2 = seconds if shape is None else doubt_j2(shape)
        self._tick_doubt_j2 = self._doubt_at(ticks_ns)
        self._gain = self._where_it_rises()
        held_out = HeldOut(ticks_ns, energy_j, self._shown_j, self._tick_doubt_j2)
        self.samples_weight = held_out.samples_weight() if shape is not None else np.zeros(len(seconds))
        errors_j = held_out.errors_j(self.samples_weight)
        power_w = np.interp(np.arange(len(ticks_ns)), np.arange(len(seconds)) + 0.5, self._mean_w)
        self.uncertainty = ShapeUncertainty(shape, ticks_ns, power_w, errors_j, counter.tick_sd_ns / S_NS)
        if steps is None:
            steps = check_steps(
                ticks_ns, energy_j, witnesses, counter.tick_sd_ns / S_NS, counter.alignment_sd_ns / S_NS
            )
        self.steps = steps
        widening_j = np.zeros(len(seconds)) if steps is None else steps.widening_j
        self._widened_j2 = np.concatenate(([0.0], np.cumsum(widening_j**2)))
        faulty = faulty or self.uncertainty.noise.tick_sd_s > MISPLACED_TICK_S
        self._untold_j = steps.untold_j if faulty and steps is not None else np.zeros(len(seconds))
        self._unseen = np.zeros(len(seconds), bool) if steps is None or shape is None else ~steps.whole
        # Where power was not seen, counter and shape say nothing of each other's scale.
        told = ~self._unseen if not self._unseen.all() else self._unseen
        scale = float(np.diff(energy_j)[told].sum() / np.diff(self._shown_j)[told].sum())
        self._unlike_ends = np.abs(scale - self._gain[[0, -1]])

    def _doubt_at(self, t_ns: Ints) -> Floats:
        """What the samples may have missed up to each time, variance in joule^2."""
        if self._shape is None:
            seconds: Floats = (t_ns - self.ticks_ns[0]) / S_NS
            return seconds
        first_ns = self._shape.t_ns[0]
        knots = (self._shape.t_ns - first_ns).astype(float)
        variance: Floats = np.interp((t_ns - first_ns).astype(float), knots, self._doubt_j2)
        return variance

    def _where_it_rises(self) -> Floats:
        """The local gain; that of the interval itself where otherwise power would be negative somewhere in it.

        Where it is, a wrong reading may be why: then the rest of the interval is scaled wrongly by as much (`_rescaled`).
        """
        self._rescaled = np.zeros(len(self._gain))
        if self._shape is None:
            return self._gain
        own = np.diff(self.energy_j) / np.diff(self._shown_j)
        left_j = np.diff(self.energy_j) - self._gain * np.diff(self._shown_j)
        k = np.clip(np.searchsorted(self.ticks_ns, self._shape.t_ns[:-1], side="right") - 1, 0, len(own) - 1)
        rise_j = (
            self._gain[k] * np.diff(self._shape.energy_j)
            + left_j[k] * np.diff(self._doubt_j2) / np.diff(self._tick_doubt_j2)[k]
        )
        falls = np.zeros(len(own), bool)
        falls[k[rise_j < 0]] = True
        self._rescaled = np.where(falls, np.abs(1.0 - own / self._gain), 0.0)
        return np.where(falls, own, self._gain)

    @property
    def bounds_ns(self) -> tuple[int, int]:
        if self._shape is None:
            return int(self.ticks_ns[0]), int(self.ticks_ns[-1])
        return self._shape.bounds_ns

    @property
    def points(self) -> int:
        """Segments between which the power is told apart."""
        return len(self.ticks_ns) - 1 if self._shape is None else self._shape.points

    def _interval(self, t_ns: Ints) -> Ints:
        """The interval between ticks that each time lies in; beyond the ends the one there."""
        after = self.ticks_ns.searchsorted(t_ns, side="right") - 1
        found: Ints = np.minimum(np.maximum(after, 0), len(self.ticks_ns) - 2)
        return found

    def at(self, t_ns: Ints) -> Floats:
        """Joules, in the counter's own count."""
        t_ns = np.asarray(t_ns)
        k = self._interval(t_ns)
        step_j = self.energy_j[k + 1] - self.energy_j[k]
        straight = (t_ns - self.ticks_ns[k]) / (self.ticks_ns[k + 1] - self.ticks_ns[k])
        if self._shape is None:
            return np.asarray(self.energy_j[k] + straight * step_j)
        shown = self._shape.at(t_ns)
        # What the counter has beyond the samples goes where they may have missed it.
        doubted = (self._doubt_at(t_ns) - self._tick_doubt_j2[k]) / (
            self._tick_doubt_j2[k + 1] - self._tick_doubt_j2[k]
        )
        left_j = step_j - self._gain[k] * (self._shown_j[k + 1] - self._shown_j[k])
        shaped_j = self._gain[k] * (shown - self._shown_j[k]) + doubted * left_j
        w = self.samples_weight[k]
        joules = self.energy_j[k] + w * shaped_j + (1 - w) * straight * step_j
        before, after = t_ns < self.ticks_ns[0], t_ns > self.ticks_ns[-1]
        joules = np.where(before, self.energy_j[0] - (self._shown_j[0] - shown) * self._gain[0], joules)
        return np.asarray(
            np.where(after, self.energy_j[-1] + (shown - self._shown_j[-1]) * self._gain[-1], joules)
        )

    def estimates(self, start_ns: Ints, end_ns: Ints) -> tuple[Floats, dict[str, Floats]]:
        """Joules of many intervals, and the standard uncertainties of the estimator by cause."""
        ends_ns = np.stack((start_ns, end_ns))
        by_ns = round(self._counter.alignment_sd_ns)
        # At the ends, and if all ticks and samples are early or late alike.
        up_to_j = self.at(np.stack((ends_ns, ends_ns - by_ns, ends_ns + by_ns)))
        value_j, *moved_j = up_to_j[:, 1] - up_to_j[:, 0]
        shape, edges = self.uncertainty.variance_j2(start_ns, end_ns)
        (start_step_j2, end_step_j2), (start_steepness, end_steepness) = self._within_step(ends_ns)
        return value_j, {
            "shape": np.sqrt(shape + start_step_j2 + end_step_j2),
            "edges": np.sqrt(edges),
            # By how much the energy changes at most then. Both directions count: an interval that begins and ends with the load loses
            # energy either way.
            "alignment": np.max([np.abs(moved - value_j) for moved in moved_j], axis=0),
            # Where power rises at the one end and falls at the other, the errors of both add up.
            "lowpass": RING_LOWPASS_S * RING_LOWPASS_SD_S * np.abs(end_steepness - start_steepness),
            "timescale": self._counter.timescale_sd * value_j,
            "resolution": np.full(len(value_j), COUNTER_STEP_J / 6**0.5),
            "agreement": self._not_agreed_j(start_ns, end_ns, up_to_j[0]),
        }

    def _not_agreed_j(self, start_ns: Ints, end_ns: Ints, up_to_j: Floats) -> Floats:
        """Difference between the counter's steps and the power that was seen, over all steps that an interval meets.

        In a trace with faults, one of them may be wrong by so little that it passes for chance: the largest that may be counts, and
        of an interval within one step its share of the step.
        """
        most = len(self.ticks_ns) - 1
        first = np.minimum(np.maximum(self.ticks_ns.searchsorted(start_ns, side="right") - 1, 0), most)
        last = np.minimum(self.ticks_ns.searchsorted(end_ns, side="left"), most)
        variance_j2 = self._widened_j2[last] - self._widened_j2[first]
        misplaced_j2 = self._misplaced_j(np.stack((start_ns, end_ns)), up_to_j) ** 2
        variance_j2 = variance_j2 + misplaced_j2[0] + misplaced_j2[1]
        if self._untold_j.any() and np.size(first):
            begin = np.minimum(first, len(self._untold_j) - 1)
            bounds = np.stack((begin, np.maximum(last, begin + 1)), axis=-1).ravel()
            # `reduceat` takes no end beyond the last step, and the largest of [begin, end) stands at each even place.
            largest_j = np.maximum.reduceat(np.append(self._untold_j, 0.0), bounds)[::2]
            share = np.minimum((end_ns - start_ns) / (self.ticks_ns[begin + 1] - self.ticks_ns[begin]), 1.0)
            variance_j2 = variance_j2 + (largest_j * share) ** 2
        widened: Floats = np.sqrt(np.maximum(variance_j2, 0.0))
        return widened

    def _misplaced_j(self, t_ns: Ints, energy_j: Floats) -> Floats:
        """How wrong the energy up to a moment may be, if the shape there is.

        Between two ticks: a share of how far it lies off the straight line, where power was not seen all the time; and where the
        interval's own gain had to be taken, what that differs from the gain around it, by one wrong reading at any time in the interval.
        Beyond the ticks: by what the gain at their end differs from that of the whole trace.

        energy_j   `at` the moments
        """
        k = self._interval(t_ns)
        length_ns, step_j = self.ticks_ns[k + 1] - self.ticks_ns[k], self.energy_j[k + 1] - self.energy_j[k]
        share = np.minimum(np.maximum((t_ns - self.ticks_ns[k]) / length_ns, 0.0), 1.0)
        up_to_j = energy_j - self.energy_j[k]
        unseen_j = np.where(self._unseen[k], WIDEN_SHARE * np.abs(up_to_j - share * step_j), 0.0)
        part = np.minimum(np.maximum(up_to_j / np.maximum(step_j, 1e-9), 0.0), 1.0)
        # Off by the reading's joules x (1 - part) where it lies before the moment, as `share` of all do, else by those x part.
        rescaled_j = self._rescaled[k] * np.sqrt(share * (1 - part) ** 2 + (1 - share) * part**2) * step_j
        misplaced: Floats = np.hypot(np.hypot(unseen_j, rescaled_j), self._beyond_j(t_ns))
        return misplaced

    def _beyond_j(self, t_ns: Ints) -> Floats:
        """How far joules up to a moment before the first or after the last tick may be off by the gain that is carried there."""
        if self._shape is None:
            return np.zeros(np.shape(t_ns))
        first, last = self.ticks_ns[0], self.ticks_ns[-1]
        early_j, late_j = self._shape.at(np.stack((np.minimum(t_ns, first), np.maximum(t_ns, last))))
        beyond: Floats = self._unlike_ends[0] * (self._shown_j[0] - early_j) + self._unlike_ends[1] * (
            late_j - self._shown_j[-1]
        )
        return beyond

    def _within_step(self, t_ns: Ints) -> tuple[Floats, Floats]:
        """(variance, joule^2, of an end of an interval beside that of the walk; how steep power is there, W/s).

        What happens within the samples' steps: where power changes, the samples do not tell when within one of theirs it
        did. What of their shape was not believed, swings faster than the counter tells, may yet be there. And where samples and
        counter differ in the mean, a load that keeps step with the samples may be why: all of its swings are hidden.
        """
        if self._shape is None:
            return self._within_ticks_j2(t_ns), np.zeros(np.shape(t_ns))
        step_ns = self._shape.step_around_ns(t_ns)
        after_w, before_w = self._shape.power_at(np.stack((t_ns + step_ns, t_ns - step_ns)))
        rise_w = after_w - before_w
        k = self._interval(t_ns)
        within = HELD_STEEPNESS**0.5 if self._shape.held else WITHIN_STEP
        spread = (within * step_ns / S_NS * rise_w) ** 2
        hidden = (HIDDEN_SHARE * self._unlike_w[k] * step_ns / S_NS) ** 2
        variance: Floats = spread + hidden + (1 - self.samples_weight[k]) ** 2 * self._swing_j2[k]
        return variance, rise_w / (2 * step_ns / S_NS)

    def _within_ticks_j2(self, t_ns: Ints) -> Floats:
        """The variance of `_within_step` where there are ticks alone.

        By how much a straight line errs at a step of power that is as high as the means of an interval and of those next to
        it lie apart, if the step was at this very moment: where a window begins or ends with the load it is.
        """
        last = len(self._mean_w) - 1
        k = self._interval(t_ns)
        means_w = self._mean_w[[np.maximum(k - 1, 0), k, np.minimum(k + 1, last)]]
        rise_w = means_w.max(axis=0) - means_w.min(axis=0)
        length_ns = self.ticks_ns[k + 1] - self.ticks_ns[k]
        share = np.minimum(np.maximum((t_ns - self.ticks_ns[k]) / length_ns, 0.0), 1.0)
        variance: Floats = (share * (1 - share) * length_ns / S_NS * rise_w) ** 2
        return variance

    def _swings_j2(self) -> Floats:
        """Mean square of what the samples show off the straight line [joule^2], for each interval between ticks."""
        intervals = len(self.ticks_ns) - 1
        if self._shape is None:
            return np.zeros(intervals)
        t_ns = self._shape.t_ns
        k = np.searchsorted(self.ticks_ns, t_ns, side="right") - 1
        inside = (k >= 0) & (k < intervals)
        t_ns, k, shown = t_ns[inside], k[inside], self._shape.energy_j[inside]
        step_j = self.energy_j[k + 1] - self.energy_j[k]
        straight = (t_ns - self.ticks_ns[k]) / (self.ticks_ns[k + 1] - self.ticks_ns[k])
        off_j = ((shown - self._shown_j[k]) / (self._shown_j[k + 1] - self._shown_j[k]) - straight) * step_j
        number = np.maximum(np.bincount(k, minlength=intervals), 1)
        swings: Floats = np.bincount(k, off_j**2, minlength=intervals) / number
        return swings

    def prepare(self, intervals: Sequence[tuple[int, int]]) -> None:
        """Estimates intervals that `estimate` will be asked for."""
        if not intervals:
            return
        value_j, parts_j = self.estimates(*np.array(intervals, np.int64).T)
        for at, interval in enumerate(intervals):
            self._known[interval] = (
                float(value_j[at]),
                {name: float(part[at]) for name, part in parts_j.items()},
            )

    def estimate(self, start_ns: int, end_ns: int, basis: str) -> EnergyEstimate:
        if (start_ns, end_ns) not in self._known:
            self.prepare([(start_ns, end_ns)])
        value_j, parts_j = self._known[start_ns, end_ns]
        return estimated(value_j, end_ns - start_ns, basis, parts_j)
