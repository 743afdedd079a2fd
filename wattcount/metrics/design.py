"""The intervals that a window is cut into, and which kinds of work can be told apart in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from wattcount.metrics.least_squares import Fit, fit
from wattcount.metrics.observations import Floats, Ints
from wattcount.metrics.window import Window
from wattcount.metrics.work import CONTEXT, DECODE_STEP, DECODE_TOKEN, PREFILL, Work

EnergyAt = Callable[[Ints], Floats]
"""Joules since some moment at each of the times, all GPUs together."""

MIN_INTERVAL_S = 0.4
SAMPLES_PER_INTERVAL = 20
"""Power samples to an interval: a sample that straddles its end misplaces at most a twentieth of its energy."""
SPANS_PER_INTERVAL = 5
"""How much longer an interval is than the stretch within which a step is known to have run (percentile 95)."""
MAX_CONDITION_NUMBER = 30.0
"""Of the design matrix with columns of length one: Belsley, Kuh and Welsch, Regression Diagnostics (1980), 3.2."""
MIN_EFFECTIVE_INTERVALS = 5
"""A phase's work x must lie in so many intervals, (sum x)^2 / sum x^2, for its coefficient to have an error at all."""

NO_STEPS = "no_step_tokens"
COLLINEAR = "phases_collinear"
HARDLY_PRESENT = "phase_hardly_present"

TERMS_OF_DECODE = (
    (DECODE_TOKEN, DECODE_STEP, CONTEXT),
    (DECODE_TOKEN, DECODE_STEP),
    (DECODE_TOKEN, CONTEXT),
)
"""What stands for decode: the first of these that can be told apart; else tokens or steps, whichever fits better."""


def choose_interval_s(work: Work, window: Window, resolution_s: float) -> float:
    """The shortest interval at whose ends neither a power sample nor a step that straddles them matters much."""
    inside = (work.end_ns > window.start_ns) & (work.start_ns < window.end_ns)
    spans_s = (work.end_ns - work.start_ns)[inside] / 1e9
    longest_s = float(np.percentile(spans_s, 95)) if len(spans_s) else 0.0
    return max(MIN_INTERVAL_S, SAMPLES_PER_INTERVAL * resolution_s, SPANS_PER_INTERVAL * longest_s)


def interval_edges(window: Window, interval_s: float) -> Ints:
    """Bounds of equal intervals, at least `interval_s` long, that fill the window."""
    count = max(int(window.duration_s / interval_s), 1)
    return np.linspace(0, window.end_ns - window.start_ns, count + 1).astype(np.int64) + window.start_ns


class Design:
    """Energy above idle and work of each interval of `edges_ns`, for any lag and idle power.

    amounts   float64[n, 4], work by term (`TERMS`)
    """

    def __init__(self, energy_at: EnergyAt, edges_ns: Ints, work: Work) -> None:
        self._energy_at = energy_at
        self._edges_ns = edges_ns
        self.amounts = work.terms(edges_ns)
        self._late_amounts = work.terms(edges_ns, late=True)

    def above_idle(self, lag_ns: int, idle_w: float) -> Floats:
        """float64[n], joules drawn `lag_ns` before the work of each interval was logged."""
        above: Floats = (
            np.diff(self._energy_at(self._edges_ns - lag_ns)) - idle_w * np.diff(self._edges_ns) / 1e9
        )
        return above

    def fit(self, terms: Sequence[int], lag_ns: int, idle_w: float, *, late: bool = False) -> Fit:
        amounts = self._late_amounts if late else self.amounts
        return fit(amounts, self.above_idle(lag_ns, idle_w), terms)

    def separable_terms(self, idle_w: float) -> tuple[int, ...] | str:
        """The terms whose coefficients can be told apart, or the code of why none can.

        Tokens, steps and context of decode may go together (a batch that stays full, contexts that are all as long):
        then some of them stand for the others. The context counts where it certainly costs something.
        """
        held = self.amounts.sum(axis=0)
        if not held.any():
            return NO_STEPS
        for term in (PREFILL, DECODE_TOKEN):
            column = self.amounts[:, term]
            if held[term] > 0 and held[term] ** 2 < MIN_EFFECTIVE_INTERVALS * float(column @ column):
                return HARDLY_PRESENT
        prefill = (PREFILL,) if held[PREFILL] > 0 else ()
        if held[DECODE_TOKEN] == 0:
            return prefill
        for terms in TERMS_OF_DECODE:
            if CONTEXT in terms and held[CONTEXT] == 0:
                continue
            found = self.fit((*prefill, *terms), 0, idle_w)
            if found.condition_number <= MAX_CONDITION_NUMBER and (
                CONTEXT not in terms or found.is_certain(CONTEXT)
            ):
                return found.terms
        reduced = [self.fit((*prefill, decode), 0, idle_w) for decode in (DECODE_TOKEN, DECODE_STEP)]
        told = [found for found in reduced if found.condition_number <= MAX_CONDITION_NUMBER]
        return min(told, key=lambda found: found.squares).terms if told else COLLINEAR
