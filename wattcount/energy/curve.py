"""Power between its samples, and the energy under it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

S_NS = 1_000_000_000
"""Nanoseconds in a second. Derived."""
GAP_STEPS = 1.5
"""Distance of two samples from which on one is taken to be lost between them [usual distances]. Derived: halfway between no sample
lost and one."""
LONG_GAP_STEPS = 4.0
"""Distance of two samples above which they say nothing of the power between them [usual distances]. Chosen: three lost samples; power
steps of an H200 lose one or two."""
MEAN_OF_CUBIC = np.array([1.0, 1 / 2, 1 / 3, 1 / 4])
"""Means of u**0 to u**3 over a segment, u from 0 to 1. Derived: integrals."""
SHARPENED_CHECKS = 9
"""Places in a segment at which `sharpened` looks for power below 0. Chosen: the least power of a cubic lies within a sixteenth of a
segment of one of them."""


@dataclass(frozen=True)
class PowerCurve:
    """Power as a cubic in each segment between two knots, and its exact integral.

    t_ns          int64[n], increasing: the knots
    coefficients  float64[4, n - 1], W: power at share u (0..1) of a segment is the sum of coefficients[i] * u**i
    energy_j      float64[n], since the first knot
    change_w      float64[n - 1]: by how much the readings at a segment's ends differ; in a long gap at least by as much
                  as power varies
    gaps_ns       int64[m, 2]: stretches that were bridged, not seen
    held          values that were polled and hold until the next, not momentary samples
    """

    t_ns: Ints
    coefficients: Floats
    energy_j: Floats
    change_w: Floats
    gaps_ns: Ints
    held: bool = False

    @classmethod
    def through(cls, t_ns: Ints, power_w: Floats) -> PowerCurve:
        """Through momentary samples, at least 3: monotone between them, smooth at them.

        Slopes are those of Fritsch and Butland (1984, doi 10.1137/0905021): the weighted harmonic mean of
        the differences on either side, 0 at an extremum, so that no power is made up that was not seen; on
        low-passed power it errs less than straight lines. Steps longer than 1.5 of the usual are gaps.
        """
        steps_ns = np.diff(t_ns)
        h = steps_ns / S_NS
        secant = np.diff(power_w) / h
        slope = np.zeros(len(t_ns))
        same = secant[:-1] * secant[1:] > 0
        w1, w2 = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (w1 + w2) / (w1 / secant[:-1] + w2 / secant[1:])
        slope[1:-1] = np.where(same, mean, 0.0)
        slope[0], slope[-1] = secant[0], secant[-1]
        p0, p1, m0, m1 = power_w[:-1], power_w[1:], h * slope[:-1], h * slope[1:]
        coefficients = np.stack((p0, m0, 3 * (p1 - p0) - 2 * m0 - m1, 2 * (p0 - p1) + m0 + m1))
        usual_ns = float(np.median(steps_ns))
        lost = np.flatnonzero(steps_ns > GAP_STEPS * usual_ns)
        change_w = np.diff(power_w)
        # In a long gap power may have gone anywhere, whatever it was at its ends.
        long = steps_ns > LONG_GAP_STEPS * usual_ns
        change_w[long] = np.maximum(np.abs(change_w[long]), float(np.std(power_w)))
        return cls._of(t_ns, coefficients, change_w, _spans(t_ns, lost))

    @classmethod
    def holding(cls, t_ns: Ints, power_w: Floats, longest_ns: float) -> PowerCurve:
        """Each value holds until the next one; longer than `longest_ns` is a gap."""
        coefficients = np.zeros((4, len(t_ns) - 1))
        coefficients[0] = power_w[:-1]
        unseen = np.flatnonzero(np.diff(t_ns) > longest_ns)
        return cls._of(t_ns, coefficients, np.diff(power_w), _spans(t_ns, unseen), held=True)

    @classmethod
    def _of(
        cls, t_ns: Ints, coefficients: Floats, change_w: Floats, gaps_ns: Ints, *, held: bool = False
    ) -> PowerCurve:
        whole = coefficients.T @ MEAN_OF_CUBIC * (np.diff(t_ns) / S_NS)
        return cls(t_ns, coefficients, np.concatenate(([0.0], np.cumsum(whole))), change_w, gaps_ns, held)

    def at(self, t_ns: Ints) -> Floats:
        """Joules since the first knot, float64 of the same shape; beyond the ends power is that of the end."""
        segment, u, h, beyond_s = self._find(t_ns)
        c0, c1, c2, c3 = self.coefficients[:, segment]
        inside = self.energy_j[segment] + h * u * (c0 + u * (c1 / 2 + u * (c2 / 3 + u * c3 / 4)))
        joules: Floats = inside + beyond_s * (c0 + u * (c1 + u * (c2 + u * c3)))
        return joules

    def power_at(self, t_ns: Ints) -> Floats:
        """W at each time."""
        segment, u, _, _ = self._find(t_ns)
        c0, c1, c2, c3 = self.coefficients[:, segment]
        power_w: Floats = c0 + u * (c1 + u * (c2 + u * c3))
        return power_w

    def step_around_ns(self, t_ns: Ints) -> Ints:
        """Length of the segment that each time lies in."""
        segment, _, _, _ = self._find(t_ns)
        lengths: Ints = self.t_ns[segment + 1] - self.t_ns[segment]
        return lengths

    def between(self, start_ns: int, end_ns: int) -> float:
        low, high = self.at(np.array([start_ns, end_ns], np.int64))
        return float(high - low)

    def shifted(self, by_ns: int) -> PowerCurve:
        return replace(self, t_ns=self.t_ns + by_ns, gaps_ns=self.gaps_ns + by_ns)

    def sharpened(self, lowpass_s: float) -> PowerCurve:
        """The power that a low-pass of first order turned into this curve: P + lowpass_s x dP/dt.

        For samples behind such a filter: without it a step of power is spread over the time before and after it. No
        power is made up below 0: in a segment where it would be, it is the segment's mean, at least 0.

        lowpass_s  time constant of the low-pass, s
        """
        h = np.diff(self.t_ns) / S_NS
        _, c1, c2, c3 = self.coefficients
        slope = np.stack((c1, 2 * c2, 3 * c3, np.zeros_like(c3))) / h
        sharp = self.coefficients + lowpass_s * slope
        u = np.linspace(0.0, 1.0, SHARPENED_CHECKS)
        below = (sharp.T @ np.stack((u**0, u, u**2, u**3))).min(axis=1) < 0
        mean_w = np.maximum(sharp.T @ MEAN_OF_CUBIC, 0.0)
        sharp[:, below] = 0.0
        sharp[0, below] = mean_w[below]
        return self._of(self.t_ns, sharp, self.change_w, self.gaps_ns)

    @property
    def bounds_ns(self) -> tuple[int, int]:
        return int(self.t_ns[0]), int(self.t_ns[-1])

    @property
    def points(self) -> int:
        """Segments between which the power is told apart."""
        return len(self.t_ns) - 1

    @cached_property
    def lengths_s(self) -> Floats:
        """float64[n - 1], of the segments."""
        lengths: Floats = np.diff(self.t_ns) / S_NS
        return lengths

    @cached_property
    def usual_s(self) -> float:
        """Usual length of a segment."""
        return float(np.median(np.diff(self.t_ns))) / S_NS

    def covers(self, start_ns: int, end_ns: int) -> bool:
        return bool(self.t_ns[0] <= start_ns and end_ns <= self.t_ns[-1])

    def has_gap(self, start_ns: int, end_ns: int) -> bool:
        return overlaps(self.gaps_ns, start_ns, end_ns)

    def longest_gap_ns(self, start_ns: int, end_ns: int) -> int:
        """Length of the longest part of a gap that lies in the interval [ns]."""
        inside = np.minimum(self.gaps_ns[:, 1], end_ns) - np.maximum(self.gaps_ns[:, 0], start_ns)
        return int(inside.max(initial=0))

    def _find(self, t_ns: Ints) -> tuple[Ints, Floats, Floats, Floats]:
        """Segment, share of it, its length in s, and seconds beyond the ends (negative before the first knot)."""
        # Not `np.clip`, which takes three times as long for few values.
        within = np.minimum(np.maximum(t_ns, self.t_ns[0]), self.t_ns[-1])
        segment = np.minimum(self.t_ns.searchsorted(within, side="right") - 1, len(self.t_ns) - 2)
        start = self.t_ns[segment]
        length = self.t_ns[segment + 1] - start
        return segment, (within - start) / length, length / S_NS, (t_ns - within) / S_NS


def overlaps(stretches_ns: Ints, start_ns: int, end_ns: int) -> bool:
    """Whether any of the stretches, int64[m, 2], meets [start_ns, end_ns]."""
    return bool(((stretches_ns[:, 0] < end_ns) & (stretches_ns[:, 1] > start_ns)).any())


def _spans(t_ns: Ints, segments: Ints) -> Ints:
    return np.stack((t_ns[segments], t_ns[segments + 1]), axis=1).reshape(-1, 2)
