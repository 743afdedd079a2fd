"""Energy of the window divided between idle, prefill and decode, by a linear model of the energy above idle::

    energy of an interval = idle power x length
                          + a x prompt tokens computed
                          + b x tokens decoded + c x decode steps + d x context tokens read + rest

The coefficients are fitted over short intervals of the window (`work`); each interval's energy above idle is then divided
in the proportion of its terms, so that the parts sum to the whole. No record is needed: `attribution` reads one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wattcount.metrics.observations import Floats, Ints, Window
from wattcount.metrics.work import (
    CONTEXT,
    DECODE_TOKEN,
    PREFILL,
    TERMS,
    Design,
    EnergyAt,
    Fit,
    Reach,
    Work,
    choose_interval_s,
    interval_edges,
    long_run,
)
from wattcount.statistics import t_975

MIN_INTERVALS = 20
"""Fewest intervals of a window that a model is fitted to."""
LAGS_NS = np.arange(-40, 41, 2, dtype=np.int64) * 1_000_000
"""How much later than its power a step may be logged: the report's way to the front end, and the error of the
sensor's own lag."""

SLOWED_U95_SHARE = 0.06
"""What a step at slowed clocks costs one phase is partly seen in the other: 95 % uncertainty of either phase [share], the largest
difference of batches at the power limit to runs that are all prefill or all decode (docs/attribution.md)."""

TOO_FEW_INTERVALS = "too_few_intervals"
"""Reason for null: the window has fewer than MIN_INTERVALS intervals, too few to fit a model to."""
NOT_RESOLVED = "phase_not_resolved"
"""Reason for null: the uncertainty of a phase's energy is larger than that energy."""


@dataclass(frozen=True)
class Coefficient:
    """Energy of one unit of a term: `value_j` +- `u95_j` joules (95 %)."""

    value_j: float
    u95_j: float


@dataclass(frozen=True)
class Attribution:
    """The window's energy by phase: `idle_j + prefill_j + decode_j` is its energy.

    prefill_j_u95, decode_j_u95   95 % uncertainty of the division, of the idle power, and of the energy where known
    coefficients       by term (`TERMS`); terms the data cannot tell apart were left out, see docs/attribution.md
    condition_number   of the design matrix, columns scaled to length one
    r_squared          1 - residual / variation about the mean of the energy above idle; low (even below 0) where
                       power hardly varies
    residual_share     rms of an interval's residual / its mean energy above idle
    lag_ns             how much later than its power work is logged
    edges_ns           int64[n + 1], of the intervals
    idle_split_j, prefill_split_j, decode_split_j   float64[n], each interval's parts
    context_split_j    float64[n], what of the decode part is for reading the context
    fit, reach         what `transfer.predict` wants: the fit itself, and the loads and clocks that it has seen
    """

    idle_j: float
    prefill_j: float
    decode_j: float
    prefill_j_u95: float
    decode_j_u95: float
    prefill_tokens: float
    decode_tokens: float
    coefficients: dict[str, Coefficient]
    condition_number: float
    r_squared: float | None
    residual_share: float
    lag_ns: int
    edges_ns: Ints
    idle_split_j: Floats
    prefill_split_j: Floats
    decode_split_j: Floats
    context_split_j: Floats
    fit: Fit
    reach: Reach

    @property
    def interval_s(self) -> float:
        return float(self.edges_ns[-1] - self.edges_ns[0]) / 1e9 / (len(self.edges_ns) - 1)


def attribute(
    energy_at: EnergyAt,
    window: Window,
    work: Work,
    idle_w: float,
    *,
    idle_u95_w: float = 0.0,
    energy_u95_share: float = 0.0,
    resolution_s: float = 0.02,
    clock_mhz: float | None = None,
    slowed: bool = False,
) -> Attribution | str:
    """Divides the energy of the window between idle, prefill and decode; a code where the data cannot tell.

    energy_at         should know 40 ms beyond the window
    idle_w            loaded idle, all GPUs, with its 95 % uncertainty `idle_u95_w`
    energy_u95_share  95 % uncertainty of the window's energy, relative
    resolution_s      spacing of the power samples behind `energy_at`
    clock_mhz         mean SM clock under load; None: not recorded
    slowed            whether something slowed the clocks: then the division is less sure (`SLOWED_U95_SHARE`)
    """
    edges_ns = interval_edges(window, choose_interval_s(work, window, resolution_s))
    if len(edges_ns) - 1 < MIN_INTERVALS:
        return TOO_FEW_INTERVALS
    # Shifted by a lag, the outermost intervals would leave the window.
    design = Design(energy_at, edges_ns[1:-1], work)
    terms = design.separable_terms(idle_w)
    if isinstance(terms, str):
        return terms
    design.prepare(LAGS_NS)
    fits = {int(lag): design.fit(terms, int(lag), idle_w) for lag in LAGS_NS}
    lag_ns, plausible = _lag(fits)
    best = fits[lag_ns]

    # Over the whole window, and on the power's own axis: work is moved back to when it drew its power.
    amounts = work.terms(edges_ns + lag_ns)
    energy_j = np.diff(energy_at(edges_ns))
    done, total_j = amounts.sum(axis=0), float(energy_j.sum())
    above_j = total_j - idle_w * window.duration_s
    above = design.above_idle(lag_ns, idle_w)
    if above_j <= 0 or above.mean() <= 0 or not best.value_j @ done[list(terms)] > 0:
        return NOT_RESOLVED
    parts = _divide(best, amounts, energy_j, idle_w * np.diff(edges_ns) / 1e9)

    figures, statistical_u95 = _figures(best, done, above_j), _statistical_u95(best, done, above_j)

    def moved(other: Fit, other_above_j: float = above_j) -> Floats:
        return np.abs(_figures(other, done, other_above_j) - figures)

    u95 = np.sqrt(
        statistical_u95**2
        + (_sum_u95(best) / above_j * figures) ** 2
        + (energy_u95_share * figures) ** 2
        + ((SLOWED_U95_SHARE if slowed else 0.0) * figures) ** 2
        + moved(design.fit(terms, lag_ns, idle_w, late=True)) ** 2
        + np.max([moved(fits[lag]) for lag in plausible], axis=0) ** 2
        + np.max(
            [
                moved(design.fit(terms, lag_ns, power_w), total_j - power_w * window.duration_s)
                for power_w in (idle_w - idle_u95_w, idle_w + idle_u95_w)
            ],
            axis=0,
        )
        ** 2
    )
    *_, prefill_u95, decode_u95 = (float(u) for u in u95)
    idle_j, prefill_j, decode_j, _ = (math.fsum(part) for part in parts)
    if (done[PREFILL] > 0 and prefill_u95 >= prefill_j) or (
        done[DECODE_TOKEN] > 0 and decode_u95 >= decode_j
    ):
        return NOT_RESOLVED
    variation = float(((above - above.mean()) ** 2).sum())
    return Attribution(
        idle_j=idle_j,
        prefill_j=prefill_j,
        decode_j=decode_j,
        prefill_j_u95=prefill_u95,
        decode_j_u95=decode_u95,
        prefill_tokens=float(done[PREFILL]),
        decode_tokens=float(done[DECODE_TOKEN]),
        coefficients={
            TERMS[term]: Coefficient(float(figures[i]), float(u95[i]))
            for i, term in enumerate(terms)
            if figures[i] > 0
        },
        condition_number=best.condition_number,
        r_squared=1 - best.squares / variation if variation > 0 else None,
        residual_share=math.sqrt(best.squares / len(above)) / float(above.mean()),
        lag_ns=lag_ns,
        edges_ns=edges_ns,
        idle_split_j=parts[0],
        prefill_split_j=parts[1],
        decode_split_j=parts[2],
        context_split_j=parts[3],
        fit=best,
        reach=Reach.of(design.amounts, (clock_mhz,)),
    )


def _lag(fits: dict[int, Fit]) -> tuple[int, list[int]]:
    """The lag, and all that the data do not exclude (95 %, by the rise of the residual squares); 0 if it may be 0."""
    best = min(fits, key=lambda lag: (fits[lag].squares, abs(lag)))
    freedom = max(fits[best].freedom - 1, 5)
    limit = fits[best].squares * (1 + t_975(freedom) ** 2 / freedom)
    plausible = [lag for lag, found in fits.items() if found.squares <= limit]
    return (0 if 0 in plausible else best), plausible


def _sum_u95(found: Fit) -> float:
    """95 % uncertainty, J, of the sum of the residuals: power that is not the work's."""
    variance = float(long_run(found.residual_j[:, None])[0, 0])
    return t_975(max(found.freedom, 5)) * math.sqrt(max(variance, 0.0))


def _figures(found: Fit, done: Floats, above_j: float) -> Floats:
    """Each coefficient, then joules of prefill and of decode.

    A phase has its share of what the model says, of `above_j`: p = sum over its terms of value x amount, over the
    same sum of all terms.
    """
    shares = _shares(found, done)
    return np.array(
        [*(found.value_j if any(shares) else 0.0 * found.value_j), *(s * above_j for s in shares)]
    )


def _shares(found: Fit, done: Floats) -> tuple[float, float]:
    """Of prefill and of decode; 0 of both where the model has no energy."""
    amount = done[list(found.terms)]
    modelled = float(found.value_j @ amount)
    if modelled <= 0:
        return 0.0, 0.0
    is_prefill = np.array(found.terms) == PREFILL
    prefill, decode = (float(found.value_j[p] @ amount[p]) / modelled for p in (is_prefill, ~is_prefill))
    return prefill, decode


def _statistical_u95(found: Fit, done: Floats, above_j: float) -> Floats:
    """Of `_figures`, by the covariance of the coefficients; of the phases by the delta method."""
    amount = done[list(found.terms)]
    modelled = float(found.value_j @ amount)
    if modelled <= 0:
        return np.zeros(len(amount) + 2)
    t = t_975(max(found.freedom, 5))
    u95 = list(t * np.sqrt(np.diag(found.covariance_j2)))
    is_prefill = np.array(found.terms) == PREFILL
    for phase, share in zip((is_prefill, ~is_prefill), _shares(found, done), strict=True):
        gradient = amount * (phase - share) / modelled
        u95.append(t * math.sqrt(max(float(gradient @ found.covariance_j2 @ gradient), 0.0)) * above_j)
    return np.array(u95)


def _divide(
    found: Fit, amounts: Floats, energy_j: Floats, idle_j: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """Each interval's energy as idle, prefill and decode, all >= 0, and what of decode is for the context.

    What the model does not say goes with what it says. An interval that drew less than idle is all idle, and so is
    one without work.
    """
    modelled = amounts[:, list(found.terms)] * found.value_j
    total = modelled.sum(axis=1)
    above = np.where(total > 0, np.maximum(energy_j - idle_j, 0.0), 0.0)

    def part(term: int) -> Floats:
        column = modelled[:, np.array(found.terms) == term].sum(axis=1)
        share: Floats = np.divide(column, total, out=np.zeros_like(total), where=total > 0)
        return share

    prefill = above * part(PREFILL)
    return energy_j - above, prefill, above - prefill, above * part(CONTEXT)
