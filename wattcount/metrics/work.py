"""The linear model behind the attribution: what an engine's steps computed when, its fit, and what the fit may be applied to.

From below: amounts of work in any intervals (`Work`), non-negative least squares of energy on them (`fit`), the loads and
clocks that a fit has seen (`Reach`), and the intervals of a window, with what can be told apart in them (`Design`).
Pure functions of arrays; times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from wattcount.metrics.gpu import CLOCK_TOLERANCE_SHARE
from wattcount.metrics.observations import MISSING, Floats, Ints, Requests, Window
from wattcount.statistics import t_975

EnergyAt = Callable[[Ints], Floats]
"""Joules since some moment at each of the times, all GPUs together."""

TERMS = ("prefill_token", "decode_token", "decode_step", "context_token")
"""Kinds of work, by their index."""
PREFILL, DECODE_TOKEN, DECODE_STEP, CONTEXT = range(4)

NEGLIGIBLE = 1e-9
"""Share of all work: less than that in an interval is rounding."""
NNLS_ITERATIONS = 1000
"""Most iterations of `scipy.optimize.nnls`: a handful is enough for four columns, its own limit of 12 may not be."""
ARRIVAL_GAP_NS = 1_500_000
"""Longest gap [ns] between arrivals of one step's tokens: a step of a model that fills a GPU takes three times that."""
MIN_INTERVAL_S = 0.4
"""Shortest interval of a fit [s]: SAMPLES_PER_INTERVAL samples of an H200's ring, which has one every 20 ms."""
SAMPLES_PER_INTERVAL = 20
"""Power samples to an interval: a sample that straddles its end misplaces at most a twentieth of its energy."""
SPANS_PER_INTERVAL = 5
"""How much longer an interval is than the stretch within which a step is known to have run (percentile 95)."""
MAX_CONDITION_NUMBER = 30.0
"""Largest condition number of the design matrix, its columns scaled to length one. Belsley, Kuh and Welsch, Regression Diagnostics (1980), 3.2."""
MIN_EFFECTIVE_INTERVALS = 5
"""A phase's work x must lie in so many intervals, (sum x)^2 / sum x^2, for its coefficient to have an error at all."""

NO_STEPS = "no_step_tokens"
"""Reason for null: the engine's steps do not say how many tokens each computed."""
COLLINEAR = "phases_collinear"
"""Reason for null: prefill and decode rose and fell together, so their shares cannot be told apart."""
HARDLY_PRESENT = "phase_hardly_present"
"""Reason for null: a phase was in fewer than MIN_EFFECTIVE_INTERVALS intervals."""

TERMS_OF_DECODE = ((DECODE_TOKEN, DECODE_STEP, CONTEXT), (DECODE_TOKEN, DECODE_STEP), (DECODE_TOKEN, CONTEXT))
"""What stands for decode: the first of these that can be told apart; else tokens or steps, whichever fits better."""
OUTSIDE_FIT = "outside_fit"
"""Why a fit is not applied to another run: it has not seen that run's batch, context or share of prefill (REACH)."""
OTHER_CLOCKS = "other_clocks"
"""Why a fit is not applied to another run: the two ran at different SM clocks, or those were not recorded."""
REACH = (0.025, 0.975)
"""Quantiles of the fit's intervals, by steps, between which its reach lies: 95 % of what it has seen."""
RATIOS = ((DECODE_TOKEN, DECODE_STEP), (CONTEXT, DECODE_TOKEN), (PREFILL, DECODE_STEP))
"""What makes a step: tokens that it decodes, context that each of them reads, prompt tokens that come with it."""


# -- amounts of work


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


def arrived_steps(requests: Requests) -> tuple[Ints, Ints, Ints]:
    """Steps of an engine that tells none, by the arrivals of its tokens: when, prompt tokens, tokens decoded; int64[steps] each.

    What arrives together is one step's, until a gap of `ARRIVAL_GAP_NS`, or another arrival of the same request. All of a prompt
    counts in the step that its first token came from, though it may have been computed in several.
    """
    order = np.argsort(requests.token_ts_ns, kind="stable")
    stamp, owner, count = (
        requests.token_ts_ns[order],
        requests.token_request[order],
        requests.token_count[order],
    )
    if not len(stamp):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64)
    begins = np.concatenate(([True], np.diff(stamp) > ARRIVAL_GAP_NS))
    burst = np.cumsum(begins)
    together = np.lexsort((owner, burst))
    again = (np.diff(burst[together]) == 0) & (np.diff(owner[together]) == 0)
    for number in np.unique(burst[together][1:][again]):
        there: set[int] = set()
        first, last = np.searchsorted(burst, (number, number + 1))
        for at, who in enumerate(owner[first:last].tolist(), first):
            if who in there:
                begins[at], there = True, set()
            there.add(who)
    step = np.cumsum(begins) - 1
    _, firsts = np.unique(owner, return_index=True)
    begun = np.zeros(len(stamp), np.bool_)
    begun[firsts] = True
    prompt = np.maximum(requests.input_tokens - np.maximum(requests.cached_tokens, 0), 1)[owner]
    prefill = np.bincount(step, np.where(begun, prompt, 0)).astype(np.int64)
    decode = np.bincount(step, np.where(begun, count - 1, count)).astype(np.int64)
    return stamp[begins], prefill, decode


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
        order = requests.by_request
        owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
        if not len(owner):
            return cls(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))
        count = requests.token_count[order]
        is_first = np.concatenate(([True], owner[1:] != owner[:-1]))
        is_last = np.concatenate((is_first[1:], [True]))
        prompt = requests.input_tokens[owner]
        change = np.where(is_first, prompt + count, count).astype(np.float64)
        change[is_last] -= (prompt + requests.tokens_before[order] + count)[is_last]
        by_time = np.argsort(stamp, kind="stable")
        return cls(
            stamp[by_time],
            np.cumsum(change[by_time]),
            np.cumsum(is_first[by_time].astype(np.int64) - is_last[by_time]),
        )

    def mean_at(self, t_ns: Ints) -> Floats:
        """Mean context of a request just before each time: float64[len(t_ns)]; 0 while none decodes."""
        at = np.searchsorted(self.t_ns, t_ns, side="left") - 1
        tokens = np.where(at < 0, 0.0, self.tokens[at])
        requests = np.where(at < 0, 0, self.requests[at])
        mean: Floats = np.divide(tokens, requests, out=np.zeros(len(t_ns)), where=requests > 0)
        return mean


def begun_ns(requests: Requests) -> Ints:
    """When each request was scheduled; its send where the engine does not tell."""
    known = requests.engine_scheduled_ns
    begun: Ints = np.where(known != MISSING, known, requests.actual_send_ns)
    return begun


# -- energy divided by amounts of work


def share(spans: Spans, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints) -> tuple[Floats, float]:
    """Energy of each interval, shared by the amount of work in it: (float64[owners], joules of intervals without work)."""
    amounts = spans.between(edges_ns)
    worked = amounts > 0
    price = np.divide(energy_j, amounts, out=np.zeros_like(amounts), where=worked)  # joules per unit of work
    lengths_s = np.diff(edges_ns) / 1e9
    until = np.concatenate(([0.0], np.cumsum(price * lengths_s)))
    rate = spans.amount / ((spans.end_ns - spans.start_ns) / 1e9)
    each = rate * (_at(spans.end_ns, edges_ns, until) - _at(spans.start_ns, edges_ns, until))
    return _sums(owner, each, owners), math.fsum(energy_j[~worked])


def share_equally(
    start_ns: Ints, end_ns: Ints, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints
) -> tuple[Floats, float]:
    """Energy of each moment in equal shares: (float64[owners], joules of moments without anyone)."""
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


# -- least squares


@dataclass(frozen=True)
class Fit:
    """Non-negative least squares of energy on amounts of work.

    columns      what was fitted to
    value_j      float64[terms], joules per unit, >= 0
    residual_j   float64[n]
    """

    columns: Columns
    value_j: Floats
    residual_j: Floats

    @property
    def terms(self) -> tuple[int, ...]:
        """Columns that were used, by their index."""
        return self.columns.terms

    @property
    def condition_number(self) -> float:
        """Of the columns scaled to length one."""
        return self.columns.condition_number

    @cached_property
    def covariance_j2(self) -> Floats:
        """float64[terms, terms]; zero for a value that is held at 0.

        Newey and West's (Econometrica 55, 1987), Bartlett kernel, 4 (n / 100)^(2/9) lags, times n / (n - k): neither equal
        variances nor independence of neighbouring intervals is assumed.
        """
        scaled, scale = self.columns.scaled, self.columns.scale
        covariance = np.zeros((len(scale), len(scale)))
        active = np.flatnonzero(self.value_j > 0)
        if len(active):
            used = scaled[:, active]
            inverse = np.linalg.pinv(used.T @ used)
            middle = long_run(used * self.residual_j[:, None])
            freedom = max(len(scaled) - len(active), 1)
            sandwich = inverse @ middle @ inverse * (len(scaled) / freedom)
            covariance[np.ix_(active, active)] = sandwich / np.outer(scale[active], scale[active])
        return covariance

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


@dataclass(frozen=True)
class Columns:
    """Columns of amounts of work that energies are fitted to.

    terms    by their index
    scale    float64[terms], their lengths; 1 of one without work
    scaled   float64[n, terms], scaled to length one
    """

    terms: tuple[int, ...]
    scale: Floats
    scaled: Floats

    @classmethod
    def of(cls, amounts: Floats, terms: Sequence[int]) -> Columns:
        chosen = tuple(terms)
        columns = amounts[:, chosen]
        length = np.linalg.norm(columns, axis=0)
        scale = np.where(length > 0, length, 1.0)
        return cls(chosen, scale, columns / scale)

    @cached_property
    def condition_number(self) -> float:
        singular = np.linalg.svd(self.scaled, compute_uv=False)
        return float(singular[0] / singular[-1]) if singular[-1] > 0 else math.inf

    def fit(self, energy_j: Floats) -> Fit:
        # Here, because it takes longer to import than most commands take that read metrics.
        from scipy.optimize import nnls

        found = nnls(self.scaled, energy_j, maxiter=NNLS_ITERATIONS)[0]
        return Fit(self, found / self.scale, energy_j - self.scaled @ found)


def fit(amounts: Floats, energy_j: Floats, terms: Sequence[int]) -> Fit:
    """Fits `energy_j[n]` by the columns `terms` of `amounts[n, m]`."""
    return Columns.of(amounts, terms).fit(energy_j)


def long_run(scores: Floats) -> Floats:
    """Newey and West's sum of autocovariances of `scores[n, k]`."""
    n = len(scores)
    lags = int(4 * (n / 100) ** (2 / 9))
    total = scores.T @ scores
    for lag in range(1, min(lags, n - 1) + 1):
        moved = scores[lag:].T @ scores[:-lag]
        total = total + (1 - lag / (lags + 1)) * (moved + moved.T)
    return np.asarray(total, np.float64)


# -- what a fit may be applied to
#
# The energy of a step is not linear: steps of more tokens, longer contexts and other clocks have other prices. A server at
# 32 requests/s, at its power limit, gives prices at which 1 and 4 requests/s would draw 31 to 35 % more than they did
# (docs/attribution.md). So a prediction outside the reach of a fit is refused, with a code.


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
        """The reach of a fit to intervals with these amounts of work, float64[n, 4], at these mean clocks, one a run."""
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
        """OUTSIDE_FIT or OTHER_CLOCKS where work of these amounts, float64[4], at this mean clock lies outside."""
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
    """Energy above idle of work of these amounts, float64[4] by term; OUTSIDE_FIT or OTHER_CLOCKS outside the reach."""
    refused = reach.refuses(done, clock_mhz)
    return refused if refused is not None else extrapolate(fit, done)


def extrapolate(fit: Fit, done: Floats) -> Prediction:
    """The same without asking what the fit has seen: it shows how wrong that is."""
    amount = done[list(fit.terms)]
    u95_j = t_975(max(fit.freedom, 5)) * float(amount @ fit.covariance_j2 @ amount) ** 0.5
    return Prediction(float(fit.value_j @ amount), u95_j)


# -- intervals of a window


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
        self._work = work
        self.amounts = work.terms(edges_ns)
        self._columns: dict[tuple[int, ...], Columns] = {}
        self._drawn_j: dict[int, Floats] = {}

    def prepare(self, lags_ns: Ints) -> None:
        """Finds the energy at lags that will be asked for, all at once."""
        drawn_j = np.diff(self._energy_at(self._edges_ns - lags_ns[:, None]), axis=1)
        self._drawn_j |= dict(zip(lags_ns.tolist(), drawn_j, strict=True))

    def above_idle(self, lag_ns: int, idle_w: float) -> Floats:
        """float64[n], joules drawn `lag_ns` before the work of each interval was logged."""
        if lag_ns not in self._drawn_j:
            self.prepare(np.array([lag_ns], np.int64))
        above: Floats = self._drawn_j[lag_ns] - idle_w * np.diff(self._edges_ns) / 1e9
        return above

    def fit(self, terms: Sequence[int], lag_ns: int, idle_w: float, *, late: bool = False) -> Fit:
        chosen = tuple(terms)
        if late:
            columns = Columns.of(self._work.terms(self._edges_ns, late=True), chosen)
        elif chosen in self._columns:
            columns = self._columns[chosen]
        else:
            columns = self._columns[chosen] = Columns.of(self.amounts, chosen)
        return columns.fit(self.above_idle(lag_ns, idle_w))

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
