"""Energy of prefill and of decode, and of each request, by a linear model of the energy above idle.

::

    energy of an interval = idle power x length
                          + a x prompt tokens computed
                          + b x tokens decoded + c x decode steps + d x context tokens read + rest

The coefficients are fitted over short intervals of the window (non-negative least squares); each interval's
energy above idle is then divided in the proportion of its terms, so that the parts sum to the whole. It is a
model, not a measurement of its own: docs/attribution.md says what it assumes and where it ends. Pure functions of
arrays; times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics.observations import MISSING, Bools, Ints, Requests, int_column
from wattcount.metrics.window import Window, phase_window
from wattcount.power.events import Source
from wattcount.power.trace import PowerTrace
from wattcount.record import Record
from wattcount.record.schema import Phase
from wattcount.trend import t_975

Floats = NDArray[np.float64]
EnergyAt = Callable[[Ints], Floats]
"""Joules since some moment at each of the times, all GPUs together."""

MIN_INTERVAL_S = 0.4
SAMPLES_PER_INTERVAL = 20
"""Power samples to an interval: a sample that straddles its end misplaces at most a twentieth of its energy."""
SPANS_PER_INTERVAL = 5
"""How much longer an interval is than the stretch within which a step is known to have run (percentile 95)."""
MIN_INTERVALS = 20
MAX_CONDITION_NUMBER = 30.0
"""Of the design matrix with columns of length one: Belsley, Kuh and Welsch, Regression Diagnostics (1980), 3.2."""
LAGS_NS = np.arange(-40, 41, 2, dtype=np.int64) * 1_000_000
"""How much later than its power a step may be logged: the report's way to the front end, and the error of the
sensor's own lag."""

NEGLIGIBLE = 1e-9
"""Of all work: less than that in an interval is rounding."""
MIN_EFFECTIVE_INTERVALS = 5
"""A phase's work x must lie in so many intervals, (sum x)^2 / sum x^2, for its coefficient to have an error at all."""

NO_STEPS = "no_step_tokens"
NO_IDLE = "no_loaded_idle"
NO_CURVE = "no_power_curve"
TOO_FEW_INTERVALS = "too_few_intervals"
COLLINEAR = "phases_collinear"
HARDLY_PRESENT = "phase_hardly_present"
NOT_RESOLVED = "phase_not_resolved"

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

TERMS = ("prefill_token", "decode_token", "decode_step", "context_token")
_PREFILL, _DECODE_TOKEN, _DECODE_STEP, _CONTEXT = range(4)
TERMS_OF_DECODE = (
    (_DECODE_TOKEN, _DECODE_STEP, _CONTEXT),
    (_DECODE_TOKEN, _DECODE_STEP),
    (_DECODE_TOKEN, _CONTEXT),
)
"""What stands for decode: the first of these that can be told apart; else tokens or steps, whichever fits better."""


@dataclass(frozen=True)
class Spans:
    """Amounts of work, each done evenly within a stretch of time.

    start_ns, end_ns   int64[n], start < end
    amount             float64[n]
    """

    start_ns: Ints
    end_ns: Ints
    amount: Floats

    def between(self, edges_ns: Ints) -> Floats:
        """Amount in each interval: float64[edges - 1] for increasing `edges_ns`."""
        if not len(self.amount):
            return np.zeros(len(edges_ns) - 1)
        origin = edges_ns[0]
        rate = self.amount / ((self.end_ns - self.start_ns) / 1e9)
        event_s = (np.concatenate((self.start_ns, self.end_ns)) - origin) / 1e9
        order = np.argsort(event_s, kind="stable")
        event_s = event_s[order]
        # The rate that holds after each event, summed to the amount that is done by then.
        rate_now = np.cumsum(np.concatenate((rate, -rate))[order])
        done = np.concatenate(([0.0], np.cumsum(rate_now[:-1] * np.diff(event_s))))
        amounts: Floats = np.diff(np.interp((edges_ns - origin) / 1e9, event_s, done))
        # A rate that has come back to 0 but for rounding does no work.
        amounts[amounts < NEGLIGIBLE * float(self.amount.sum())] = 0.0
        return amounts


@dataclass(frozen=True)
class Work:
    """What an engine's steps computed and within which stretch each of them ran, in the order of time.

    start_ns, end_ns               int64[steps], start < end
    late_start_ns                  int64[steps], start <= late start < end: the other end of what is plausible
    prefill_tokens, decode_tokens  int64[steps]
    context_tokens                 float64[steps], that its decoded tokens looked back on, all together; 0 where unknown
    """

    start_ns: Ints
    late_start_ns: Ints
    end_ns: Ints
    prefill_tokens: Ints
    decode_tokens: Ints
    context_tokens: Floats

    def terms(self, edges_ns: Ints, *, late: bool = False) -> Floats:
        """Amounts of work in each interval by term (`TERMS`): float64[edges - 1, 4]."""
        start_ns = self.late_start_ns if late else self.start_ns
        amounts = (self.prefill_tokens, self.decode_tokens, self.decode_tokens > 0, self.context_tokens)
        columns = [Spans(start_ns, self.end_ns, np.asarray(a, np.float64)).between(edges_ns) for a in amounts]
        return np.stack(columns, axis=1)


def locate_steps(
    logged_ns: Ints,
    engine_ts_ns: Ints,
    duration_ns: Ints,
    prefill_tokens: Ints,
    decode_tokens: Ints,
    in_flight: Ints,
    begun_ns: Ints,
    context: Context | None = None,
) -> Work | None:
    """When each step ran, as far as can be told; None where tokens are missing. `MISSING` stands for null.

    With the engine's own stamp and length of every step that is exact. Otherwise a step ended by when it was
    logged and began after the one two before it was: under asynchronous scheduling the next step is launched
    while one runs, so reports come up to a step late. After a pause it began when a request was scheduled.

    in_flight   int64[steps], running and waiting requests after the step
    begun_ns    when requests were scheduled (or sent, where that is not known), in any order, `MISSING` where never
    context     of the requests that decode
    """
    if not len(logged_ns) or (prefill_tokens == MISSING).any() or (decode_tokens == MISSING).any():
        return None
    exact = bool((engine_ts_ns != MISSING).all() and (duration_ns != MISSING).all())
    end_ns = engine_ts_ns if exact else logged_ns
    order = np.lexsort((in_flight, decode_tokens, prefill_tokens, end_ns))
    end_ns, prefill, decode = end_ns[order], prefill_tokens[order], decode_tokens[order]
    if exact:
        start_ns = late_ns = end_ns - duration_ns[order]
    else:
        begun = np.sort(begun_ns[begun_ns != MISSING])
        first_ns = min([int(end_ns[0]) - 1, *begun[:1].tolist()])
        before = np.concatenate(([first_ns], end_ns[:-1]))
        two_before = np.concatenate((before[:1], before[:-1]))
        resumed = np.append(begun, np.iinfo(np.int64).max)[np.searchsorted(begun, before)]
        paused = np.concatenate(([True], in_flight[order][:-1] == 0)) & (resumed < end_ns)
        floor = np.where(paused, resumed, np.iinfo(np.int64).min)
        late_ns = np.maximum(before, floor)
        # The second step of a burst did not begin before the burst either.
        start_ns = np.maximum(two_before, np.maximum(floor, np.concatenate((floor[:1], floor[:-1]))))
    looked_back: Floats = np.zeros(len(decode)) if context is None else decode * context.mean_at(end_ns)
    return Work(
        np.minimum(start_ns, end_ns - 1),
        np.minimum(late_ns, end_ns - 1),
        end_ns,
        prefill,
        decode,
        looked_back,
    )


@dataclass(frozen=True)
class Context:
    """How many tokens the requests that decode look back on, as steps of time.

    t_ns     int64[n], increasing
    tokens   float64[n], of all requests together, from each time on
    requests int64[n], how many they are
    """

    t_ns: Ints
    tokens: Floats
    requests: Ints

    @classmethod
    def of(cls, requests: Requests) -> Context:
        """Each request from its first token to its last, with its prompt and what it has made so far."""
        order = np.lexsort((requests.token_ts_ns, requests.token_request))
        owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
        if not len(owner):
            return cls(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))
        count = requests.token_count[order]
        is_first = np.concatenate(([True], owner[1:] != owner[:-1]))
        is_last = np.concatenate((is_first[1:], [True]))
        prompt = requests.input_tokens[owner]
        change = np.where(is_first, prompt + count, count).astype(np.float64)
        change[is_last] -= (prompt + tokens_before(requests)[order] + count)[is_last]
        by_time = np.argsort(stamp, kind="stable")
        return cls(
            stamp[by_time],
            np.cumsum(change[by_time]),
            np.cumsum(is_first[by_time].astype(np.int64) - is_last[by_time]),
        )

    def mean_at(self, t_ns: Ints) -> Floats:
        """Of a request, just before each time: float64[len(t_ns)]; 0 while none decodes."""
        at = np.searchsorted(self.t_ns, t_ns, side="left") - 1
        tokens = np.where(at < 0, 0.0, self.tokens[at])
        requests = np.where(at < 0, 0, self.requests[at])
        mean: Floats = np.divide(tokens, requests, out=np.zeros(len(t_ns)), where=requests > 0)
        return mean


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

    @property
    def interval_s(self) -> float:
        return float(self.edges_ns[-1] - self.edges_ns[0]) / 1e9 / (len(self.edges_ns) - 1)


@dataclass(frozen=True)
class Fit:
    """Non-negative least squares of energy on amounts of work.

    terms            columns that were used, by their index
    value_j          float64[terms], joules per unit, >= 0
    covariance_j2    float64[terms, terms]; zero for a value that is held at 0
    condition_number of the columns scaled to length one
    residual_j       float64[n]
    """

    terms: tuple[int, ...]
    value_j: Floats
    covariance_j2: Floats
    condition_number: float
    residual_j: Floats

    @property
    def freedom(self) -> int:
        return len(self.residual_j) - int((self.value_j > 0).sum())

    @property
    def squares(self) -> float:
        return float(self.residual_j @ self.residual_j)

    def is_certain(self, term: int) -> bool:
        """Whether its coefficient is above 0 by twice its 95 % uncertainty."""
        at = self.terms.index(term)
        u95 = t_975(max(self.freedom, 5)) * math.sqrt(max(float(self.covariance_j2[at, at]), 0.0))
        return float(self.value_j[at]) > 2 * u95


def fit(amounts: Floats, energy_j: Floats, terms: Sequence[int]) -> Fit:
    """Fits `energy_j[n]` by the columns `terms` of `amounts[n, m]`.

    The covariance is Newey and West's (Econometrica 55, 1987), Bartlett kernel, 4 (n / 100)^(2/9) lags, times
    n / (n - k): neither equal variances nor independence of neighbouring intervals is assumed.
    """
    chosen = tuple(terms)
    columns = amounts[:, chosen]
    length = np.linalg.norm(columns, axis=0)
    scale = np.where(length > 0, length, 1.0)
    scaled = columns / scale
    singular = np.linalg.svd(scaled, compute_uv=False)
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else math.inf
    active = _non_negative(scaled, energy_j)
    value = np.zeros(len(chosen))
    covariance = np.zeros((len(chosen), len(chosen)))
    residual = energy_j
    if active:
        used = scaled[:, active]
        inverse = np.linalg.pinv(used.T @ used)
        found = inverse @ (used.T @ energy_j)
        residual = energy_j - used @ found
        value[list(active)] = found / scale[list(active)]
        middle = _long_run(used * residual[:, None])
        freedom = max(len(energy_j) - len(active), 1)
        sandwich = inverse @ middle @ inverse * (len(energy_j) / freedom)
        at = np.ix_(active, active)
        covariance[at] = sandwich / np.outer(scale[list(active)], scale[list(active)])
    return Fit(chosen, value, covariance, condition, residual)


def _non_negative(columns: Floats, energy_j: Floats) -> tuple[int, ...]:
    """The columns of the non-negative least squares solution: of all sets without a negative one, the best."""
    gram, moment = columns.T @ columns, columns.T @ energy_j
    best: tuple[float, tuple[int, ...]] = (0.0, ())
    for size in range(1, columns.shape[1] + 1):
        for active in combinations(range(columns.shape[1]), size):
            found = np.linalg.pinv(gram[np.ix_(active, active)]) @ moment[list(active)]
            explained = float(moment[list(active)] @ found)
            if (found > 0).all() and explained > best[0]:
                best = (explained, active)
    return best[1]


def _long_run(scores: Floats) -> Floats:
    """Newey and West's sum of autocovariances of `scores[n, k]`."""
    n = len(scores)
    lags = int(4 * (n / 100) ** (2 / 9))
    total = scores.T @ scores
    for lag in range(1, min(lags, n - 1) + 1):
        moved = scores[lag:].T @ scores[:-lag]
        total = total + (1 - lag / (lags + 1)) * (moved + moved.T)
    return np.asarray(total, np.float64)


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


def attribute(
    energy_at: EnergyAt,
    window: Window,
    work: Work,
    idle_w: float,
    *,
    idle_u95_w: float = 0.0,
    energy_u95_share: float = 0.0,
    resolution_s: float = 0.02,
) -> Attribution | str:
    """Divides the energy of the window between idle, prefill and decode; a code where the data cannot tell.

    energy_at         should know 40 ms beyond the window
    idle_w            loaded idle, all GPUs, with its 95 % uncertainty `idle_u95_w`
    energy_u95_share  95 % uncertainty of the window's energy, relative
    resolution_s      spacing of the power samples behind `energy_at`
    """
    edges_ns = interval_edges(window, choose_interval_s(work, window, resolution_s))
    if len(edges_ns) - 1 < MIN_INTERVALS:
        return TOO_FEW_INTERVALS
    # Shifted by a lag, the outermost intervals would leave the window.
    design = Design(energy_at, edges_ns[1:-1], work)
    terms = design.separable_terms(idle_w)
    if isinstance(terms, str):
        return terms
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

    figures, statistical_u95 = _figures(best, done, above_j)

    def moved(other: Fit, other_above_j: float = above_j) -> Floats:
        return np.abs(_figures(other, done, other_above_j)[0] - figures)

    u95 = np.sqrt(
        statistical_u95**2
        + (_sum_u95(best) / above_j * figures) ** 2
        + (energy_u95_share * figures) ** 2
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
    if (done[_PREFILL] > 0 and prefill_u95 >= prefill_j) or (
        done[_DECODE_TOKEN] > 0 and decode_u95 >= decode_j
    ):
        return NOT_RESOLVED
    variation = float(((above - above.mean()) ** 2).sum())
    return Attribution(
        idle_j=idle_j,
        prefill_j=prefill_j,
        decode_j=decode_j,
        prefill_j_u95=prefill_u95,
        decode_j_u95=decode_u95,
        prefill_tokens=float(done[_PREFILL]),
        decode_tokens=float(done[_DECODE_TOKEN]),
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
    )


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
        for term in (_PREFILL, _DECODE_TOKEN):
            column = self.amounts[:, term]
            if held[term] > 0 and held[term] ** 2 < MIN_EFFECTIVE_INTERVALS * float(column @ column):
                return HARDLY_PRESENT
        prefill = (_PREFILL,) if held[_PREFILL] > 0 else ()
        if held[_DECODE_TOKEN] == 0:
            return prefill
        for terms in TERMS_OF_DECODE:
            if _CONTEXT in terms and held[_CONTEXT] == 0:
                continue
            found = self.fit((*prefill, *terms), 0, idle_w)
            if found.condition_number <= MAX_CONDITION_NUMBER and (
                _CONTEXT not in terms or found.is_certain(_CONTEXT)
            ):
                return found.terms
        reduced = [self.fit((*prefill, decode), 0, idle_w) for decode in (_DECODE_TOKEN, _DECODE_STEP)]
        told = [found for found in reduced if found.condition_number <= MAX_CONDITION_NUMBER]
        return min(told, key=lambda found: found.squares).terms if told else COLLINEAR


def _lag(fits: dict[int, Fit]) -> tuple[int, list[int]]:
    """The lag, and all that the data do not exclude (95 %, by the rise of the residual squares); 0 if it may be 0."""
    best = min(fits, key=lambda lag: (fits[lag].squares, abs(lag)))
    freedom = max(fits[best].freedom - 1, 5)
    limit = fits[best].squares * (1 + t_975(freedom) ** 2 / freedom)
    plausible = [lag for lag, found in fits.items() if found.squares <= limit]
    return (0 if 0 in plausible else best), plausible


def _sum_u95(found: Fit) -> float:
    """95 % uncertainty, J, of the sum of the residuals: power that is not the work's."""
    variance = float(_long_run(found.residual_j[:, None])[0, 0])
    return t_975(max(found.freedom, 5)) * math.sqrt(max(variance, 0.0))


def _figures(found: Fit, done: Floats, above_j: float) -> tuple[Floats, Floats]:
    """(values, their statistical u95): each coefficient, then joules of prefill and of decode.

    A phase has its share of what the model says, of `above_j`: p = sum over its terms of value x amount, over the
    same sum of all terms; its variance by the delta method.
    """
    amount = done[list(found.terms)]
    modelled = float(found.value_j @ amount)
    if modelled <= 0:
        return np.zeros(len(amount) + 2), np.zeros(len(amount) + 2)
    t = t_975(max(found.freedom, 5))
    values, u95 = list(found.value_j), list(t * np.sqrt(np.diag(found.covariance_j2)))
    is_prefill = np.array(found.terms) == _PREFILL
    for phase in (is_prefill, ~is_prefill):
        share = float(found.value_j[phase] @ amount[phase]) / modelled
        gradient = amount * (phase - share) / modelled
        values.append(share * above_j)
        u95.append(t * math.sqrt(max(float(gradient @ found.covariance_j2 @ gradient), 0.0)) * above_j)
    return np.array(values), np.array(u95)


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

    prefill = above * part(_PREFILL)
    return energy_j - above, prefill, above - prefill, above * part(_CONTEXT)


@dataclass(frozen=True)
class RequestEnergies:
    """Energy of each request within the window; with `unattributed_j` they sum to the window's energy.

    prefill_j, decode_j, idle_j   float64[requests]
    whole             bool[requests], completed with all of its span inside the window
    unattributed_j    drawn while no request was there, or by work that is nobody's (a request without a token)
    """

    prefill_j: Floats
    decode_j: Floats
    idle_j: Floats
    whole: Bools
    unattributed_j: float

    @property
    def total_j(self) -> Floats:
        return self.prefill_j + self.decode_j + self.idle_j


def divide_among_requests(found: Attribution, requests: Requests) -> RequestEnergies:
    """Each interval's prefill, decode and idle energy divided among the requests that were there.

    Prefill by prompt tokens computed, evenly between a request's scheduling and its first token; decode by
    tokens, each between the arrival before it and its own, and what of it is for the context by the tokens that
    were looked back on; idle in equal shares between all requests that are between their scheduling and their last
    token.
    """
    edges_ns = found.edges_ns + found.lag_ns  # requests' stamps are as late as the steps'
    begun = begun_ns(requests)
    count = len(requests)
    last = np.full(count, MISSING)
    np.maximum.at(last, requests.token_request, requests.token_ts_ns)
    there = np.flatnonzero((begun != MISSING) & (last > begun))

    first = requests.first_token_ns[there]
    prompt = requests.input_tokens[there] - np.maximum(requests.cached_tokens[there], 0)
    prefill = Spans(
        begun[there], np.maximum(first, begun[there] + 1), np.maximum(prompt, 1).astype(np.float64)
    )
    prefill_j, prefill_left = _share(prefill, there, count, found.prefill_split_j, edges_ns)

    order = np.lexsort((requests.token_ts_ns, requests.token_request))
    owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
    tokens = requests.token_count[order].astype(np.float64)
    follows = np.concatenate(([False], owner[1:] == owner[:-1])) if len(owner) else np.empty(0, np.bool_)
    before = np.where(follows, np.concatenate((stamp[:1], stamp[:-1])), begun[owner])
    tokens[~follows] -= 1  # its first token came out of its prefill
    decoded = (tokens > 0) & (before != MISSING)
    start, end, whose = np.minimum(before, stamp - 1)[decoded], stamp[decoded], owner[decoded]
    decode_j, decode_left = _share(
        Spans(start, end, tokens[decoded]),
        whose,
        count,
        found.decode_split_j - found.context_split_j,
        edges_ns,
    )
    context = (requests.input_tokens[owner] + tokens_before(requests)[order])[decoded] * tokens[decoded]
    context_j, context_left = _share(
        Spans(start, end, context), whose, count, found.context_split_j, edges_ns
    )

    idle_j, idle_left = _share_equally(begun[there], last[there], there, count, found.idle_split_j, edges_ns)
    inside = (begun >= found.edges_ns[0]) & (last <= found.edges_ns[-1]) & (last > begun)
    whole = requests.completed & inside
    left_j = prefill_left + decode_left + context_left + idle_left
    return RequestEnergies(prefill_j, decode_j + context_j, idle_j, whole, left_j)


def tokens_before(requests: Requests) -> Floats:
    """How many tokens its request had made before each arrival of tokens: float64, as `requests.token_ts_ns`."""
    order = np.lexsort((requests.token_ts_ns, requests.token_request))
    owner = requests.token_request[order]
    made = np.cumsum(requests.token_count[order]) - requests.token_count[order]
    first = (
        np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1]))) if len(owner) else np.zeros(0, int)
    )
    made = made - np.repeat(made[first], np.diff(np.append(first, len(owner))))
    before = np.empty(len(owner))
    before[order] = made
    return before


def begun_ns(requests: Requests) -> Ints:
    """When each request was scheduled; its send where the engine does not tell."""
    known = requests.engine_scheduled_ns
    begun: Ints = np.where(known != MISSING, known, requests.actual_send_ns)
    return begun


def _share(spans: Spans, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints) -> tuple[Floats, float]:
    """Each interval's energy by the amount of work in it: (float64[owners], joules of intervals without work)."""
    amounts = spans.between(edges_ns)
    worked = amounts > 0
    price = np.divide(energy_j, amounts, out=np.zeros_like(amounts), where=worked)  # joules per unit of work
    lengths_s = np.diff(edges_ns) / 1e9
    until = np.concatenate(([0.0], np.cumsum(price * lengths_s)))
    rate = spans.amount / ((spans.end_ns - spans.start_ns) / 1e9)
    each = rate * (_at(spans.end_ns, edges_ns, until) - _at(spans.start_ns, edges_ns, until))
    return _sums(owner, each, owners), math.fsum(energy_j[~worked])


def _share_equally(
    start_ns: Ints, end_ns: Ints, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints
) -> tuple[Floats, float]:
    """Each moment's energy in equal shares: (float64[owners], joules of moments without anyone)."""
    times = np.unique(
        np.concatenate((edges_ns, np.clip(start_ns, *edges_ns[[0, -1]]), np.clip(end_ns, *edges_ns[[0, -1]])))
    )
    present = np.searchsorted(np.sort(start_ns), times[:-1], side="right") - np.searchsorted(
        np.sort(end_ns), times[:-1], side="right"
    )
    moment_j = np.diff(_at(times, edges_ns, np.concatenate(([0.0], np.cumsum(energy_j)))))
    each_j = np.divide(moment_j, present, out=np.zeros_like(moment_j), where=present > 0)
    until = np.concatenate(([0.0], np.cumsum(each_j)))
    shares = _at(end_ns, times, until) - _at(start_ns, times, until)
    return _sums(owner, shares, owners), math.fsum(moment_j[present == 0])


def _sums(owner: Ints, value: Floats, owners: int) -> Floats:
    return np.bincount(owner, value, owners).astype(np.float64)


def _at(t_ns: Ints, grid_ns: Ints, value: Floats) -> Floats:
    """`value` at `t_ns`, straight lines between the points of `grid_ns`, constant beyond them."""
    found: Floats = np.interp(t_ns - grid_ns[0], grid_ns - grid_ns[0], value)
    return found


# -- from a record ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """What `attribute` wants to know of a window, from a record."""

    energy_at: EnergyAt
    energy_u95_share: float
    resolution_s: float
    work: Work
    idle_w: float
    idle_u95_w: float


def read_inputs(record: Record, window: Window) -> Inputs | str:
    """A code of `REASONS` where the record does not hold enough."""
    work = _work_of(record)
    if work is None:
        return NO_STEPS
    idle = _idle_power_w(record)
    if idle is None:
        return NO_IDLE
    curves: list[EnergyAt] = []
    total_j, u95_j, resolution_s = 0.0, 0.0, 0.0
    for uuid in _gpus(record):
        if uuid not in record.power.gpu_uuids:
            return NO_CURVE
        estimate = record.power.energy(window.start_ns, window.end_ns, uuid)
        curve = power_curve(record.power, uuid, estimate.basis or "")
        if estimate.value_j is None or curve is None:
            return NO_CURVE
        curves.append(curve[0])
        resolution_s = max(resolution_s, curve[1])
        total_j += estimate.value_j
        u95_j += estimate.u95_j or 0.0
    if not curves or total_j <= 0:
        return NO_CURVE
    return Inputs(
        energy_at=lambda t_ns: np.sum([curve(t_ns) for curve in curves], axis=0),
        energy_u95_share=u95_j / total_j,
        resolution_s=resolution_s,
        work=work,
        idle_w=idle[0],
        idle_u95_w=idle[1],
    )


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


def request_energies(record: Record, window: Window) -> RequestEnergies | str:
    """Energy of each request of `record.requests`, same order; the code of `attribute_record` where there is none."""
    found = attribute_record(record, window)
    return found if isinstance(found, str) else divide_among_requests(found, Requests.of(record.requests))


def _gpus(record: Record) -> list[str]:
    return [str(gpu["uuid"]) for gpu in record.info.gpus if gpu.get("uuid")] or list(record.power.gpu_uuids)


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
            for uuid in _gpus(record)
            if uuid in record.power.gpu_uuids
        ]
        known = [value for value in values if value is not None]
        if known and len(known) == len(_gpus(record)):
            means.append(math.fsum(known) / span.duration_s)
    if not means:
        return None
    return (max(means) + min(means)) / 2, (max(means) - min(means)) / 2
