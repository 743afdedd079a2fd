"""What else a fitted attribution may be applied to: loads and clocks like those it was fitted to, and no others.

The energy of a step is not linear: steps of more tokens, longer contexts and other clocks have other prices. A server at
32 requests/s, at its power limit, gives prices at which 1 and 4 requests/s would draw 31 to 35 % more than they did
(docs/attribution.md). So a prediction outside the reach of a fit is refused, with a code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wattcount.metrics.least_squares import Fit
from wattcount.metrics.observations import Floats
from wattcount.metrics.work import CONTEXT, DECODE_STEP, DECODE_TOKEN, PREFILL
from wattcount.trend import t_975

OUTSIDE_FIT = "outside_fit"
OTHER_CLOCKS = "other_clocks"
TRANSFER_REASONS = {
    OUTSIDE_FIT: "a batch, context or share of prefill that the fit has not seen",
    OTHER_CLOCKS: "SM clocks other than those of the fit, or not recorded",
}
CLOCK_TOLERANCE_SHARE = 0.02
"""Difference of mean SM clocks under load [share] up to which two runs count as run at one clock. A server whose limit slowed it by
0.8 % predicts others to 4 %, one slowed by 9.5 % to 35 % (H200, Llama-3-8B's shape)."""
REACH = (0.025, 0.975)
"""Quantiles of the fit's intervals, by steps, between which its reach lies: 95 % of what it has seen."""
RATIOS = ((DECODE_TOKEN, DECODE_STEP), (CONTEXT, DECODE_TOKEN), (PREFILL, DECODE_STEP))
"""What makes a step: tokens that it decodes, context that each of them reads, prompt tokens that come with it."""


@dataclass(frozen=True)
class Reach:
    """What a fit has seen.

    ratios     by pair of `RATIOS`: lowest and highest; a pair that the fit had no work of is missing
    clock_mhz  lowest and highest mean SM clock under load; None: not recorded
    kinds      bool[4], of which terms (`TERMS`) there was work
    """

    ratios: dict[tuple[int, int], tuple[float, float]]
    clock_mhz: tuple[float, float] | None
    kinds: tuple[bool, ...]

    @classmethod
    def of(cls, amounts: Floats, clocks_mhz: tuple[float | None, ...]) -> Reach:
        """Of a fit to intervals with these amounts of work, float64[n, 4], at these mean clocks, one a run."""
        ratios = {}
        for above, below in RATIOS:
            weight = amounts[:, below]
            some = weight > 0
            if some.any() and amounts[:, above].any():
                ratio = amounts[some, above] / weight[some]
                order = np.argsort(ratio)
                until = np.cumsum(weight[some][order]) / weight[some].sum()
                at = np.minimum(np.searchsorted(until, REACH), len(ratio) - 1)
                low, high = ratio[order][at]
                ratios[above, below] = (float(low), float(high))
        known = [clock for clock in clocks_mhz if clock is not None]
        clock_mhz = (min(known), max(known)) if known and len(known) == len(clocks_mhz) else None
        return cls(ratios, clock_mhz, tuple(bool(column.any()) for column in amounts.T))

    def refuses(self, done: Floats, clock_mhz: float | None) -> str | None:
        """A code of `TRANSFER_REASONS` where work of these amounts, float64[4], at this mean clock lies outside."""
        if any(amount > 0 and not kind for amount, kind in zip(done, self.kinds, strict=True)):
            return OUTSIDE_FIT
        for (above, below), (low, high) in self.ratios.items():
            if done[below] <= 0 or not low <= done[above] / done[below] <= high:
                return OUTSIDE_FIT
        if self.clock_mhz is None or clock_mhz is None:
            return OTHER_CLOCKS
        low_mhz, high_mhz = self.clock_mhz
        inside = (1 - CLOCK_TOLERANCE_SHARE) * low_mhz <= clock_mhz <= (1 + CLOCK_TOLERANCE_SHARE) * high_mhz
        # Prices fitted to runs at several clocks are those of none of them.
        alike = high_mhz - low_mhz <= CLOCK_TOLERANCE_SHARE * high_mhz
        return None if inside and alike else OTHER_CLOCKS


@dataclass(frozen=True)
class Prediction:
    """Energy above idle of some work: `value_j` +- `u95_j` joules (95 %, of the fit's coefficients alone)."""

    value_j: float
    u95_j: float


def predict(fit: Fit, reach: Reach, done: Floats, clock_mhz: float | None) -> Prediction | str:
    """Energy above idle of work of these amounts, float64[4] by term; a code of `TRANSFER_REASONS` outside the reach."""
    refused = reach.refuses(done, clock_mhz)
    return refused if refused is not None else extrapolate(fit, done)


def extrapolate(fit: Fit, done: Floats) -> Prediction:
    """The same whatever the fit has seen: to show how wrong that is."""
    amount = done[list(fit.terms)]
    u95_j = t_975(max(fit.freedom, 5)) * float(amount @ fit.covariance_j2 @ amount) ** 0.5
    return Prediction(float(fit.value_j @ amount), u95_j)
