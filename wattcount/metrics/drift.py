"""Did the load settle? Trends within the window, against what chance alone would do; and what speaks against the load's being steady.

The window is cut into equal bins, and the trend of a figure over the bins is that of `wattcount.statistics`. Its
interval supposes bins that vary independently, so a bin is at least as long as a request lives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import floor, sqrt

import numpy as np

from wattcount.metrics.energy import total_joules
from wattcount.metrics.observations import MISSING, Bools, Floats, Ints, Requests, Window, ends_in
from wattcount.metrics.sheet import (
    NO_POWER_DATA,
    NO_REQUESTS,
    NO_TOKENS,
    NOT_A_SERVER,
    Cell,
    Checks,
    Finding,
    Sheet,
    finding_specs,
    metric_specs,
)
from wattcount.metrics.window import Observed
from wattcount.statistics import MIN_VALUES, Drift, residual, theil_sen

Joules = Callable[[int, int], Cell]
"""Energy of all GPUs between two times, ns -> (J or None, why not)."""

MAX_BINS = 20
"""Most bins that a window is cut into."""
MIN_BIN_S = 1.0
"""Shortest bin [s]: the 1 s average, where it is all there is, tells nothing of shorter ones."""
DRIFT_PERCENT = 5.0
"""Change within a window [%] that is worth a word, if it is more than chance."""
BACKLOG_SHARE = 0.05
"""Share of the requests sent in a window by which those in flight may grow, before the server cannot keep up."""
NAMES = {"power": "power", "throughput": "output tokens/s", "in_flight": "requests in flight"}
"""Words for what may drift."""

WINDOW_TOO_SHORT = "window_too_short"
"""Reason for null: the window has too few bins for a trend."""

METRICS = metric_specs(
    """
    window/power_drift_percent      | % |        | drift of the power
    window/throughput_drift_percent | % |        | drift of the output tokens/s
    window/in_flight_drift_percent  | % |        | drift of the requests in flight; null for a batch
    """
)
"""The metrics of this module, by key: name, unit, which way is better, definition."""
NULL_REASONS = {WINDOW_TOO_SHORT: "too few bins to tell a trend from chance"}
"""What each of this module's reasons for null means, in words."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """`window/..._drift_percent`."""
    if seen.window is None:
        return
    found, why = seen.once(drifts_of), seen.steady.reason
    for name in NAMES:
        drift: Drift | None = None if found is None else getattr(found, name)
        reason = why if found is None else found.reasons.get(name)
        sheet.put(f"window/{name}_drift_percent", None if drift is None else drift.percent, reason)


def drifts_of(seen: Observed) -> Drifts | None:
    """Drifts of the window; of a batch's steady window, because a batch as a whole fills up and runs empty. None without it."""
    stretch = seen.steady.window if seen.is_batch else seen.window
    if stretch is None:
        return None
    found = drifts(
        seen.requests,
        lambda start, end: total_joules(seen.record, start, end),
        stretch,
        residence_ns=residence_ns(seen.requests, stretch, since_first_token=seen.is_batch),
    )
    if not seen.is_batch:
        return found
    # Of a batch all are in flight from its first moment on, and fewer and fewer. Nor has it arrivals that could explain
    # a trend of its power.
    reasons = found.reasons | {"in_flight": NOT_A_SERVER}
    return dataclasses.replace(found, in_flight=None, power_unexplained=found.power, reasons=reasons)


@dataclass(frozen=True)
class Drifts:
    """Trends of a window; None where it cannot be told, then `reasons` has the code by the field's name.

    power, throughput, in_flight   of the power, of output tokens/s, of the requests in flight
    power_unexplained              of what is left of the power when a straight line in tokens/s is taken off

    Arrivals are random, and power follows them: a window with more of them in its second half has a trend
    although nothing is wrong with the machine. The unexplained one is the machine's.
    """

    power: Drift | None = None
    throughput: Drift | None = None
    in_flight: Drift | None = None
    power_unexplained: Drift | None = None
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Backlog:
    """Requests in flight at both ends of a window, and how many were sent in it."""

    begin: int
    end: int
    sent: int

    @property
    def growth_share(self) -> float:
        """Growth / requests sent."""
        return (self.end - self.begin) / self.sent if self.sent else 0.0

    @property
    def certain(self) -> bool:
        """More than chance: two counts of a stable server with L in flight on average (M/G/infinity: Poisson)
        differ by sqrt(2 L) rms."""
        return self.end - self.begin > 3.0 * sqrt(2.0 * max(self.begin, 1))


def drifts(requests: Requests, joules: Joules, window: Window, *, residence_ns: int | None) -> Drifts:
    """Trends within a window; `residence_ns`: how long a request lives, None: not known."""
    seconds = max(MIN_BIN_S, (residence_ns or 0) / 1e9)
    bins = min(MAX_BINS, floor(window.duration_s / seconds))
    if bins < MIN_VALUES:
        return Drifts(reasons=dict.fromkeys(("power", "throughput", "in_flight"), WINDOW_TOO_SHORT))
    lengths = np.arange(bins + 1) * ((window.end_ns - window.start_ns) / bins)
    edges = window.start_ns + np.round(lengths).astype(np.int64)

    tokens = _in_bins(requests.token_ts_ns, requests.token_count, edges)
    flying = _mean_in_flight(requests, edges)
    watts, why = _mean_power(joules, edges)
    reasons: dict[str, str] = {}
    if watts is None:
        reasons["power"] = why or NO_POWER_DATA
    if not tokens.any():
        reasons["throughput"] = NO_TOKENS
    if not flying.any():
        reasons["in_flight"] = NO_REQUESTS
    return Drifts(
        power=None if watts is None else theil_sen(watts),
        throughput=theil_sen(tokens),
        in_flight=theil_sen(flying),
        power_unexplained=None if watts is None else theil_sen(residual(watts, tokens), float(watts.mean())),
        reasons=reasons,
    )


def _in_bins(t_ns: Ints, weight: Ints, edges: Ints) -> Floats:
    """Sum of `weight` in each bin; edges belong to the bin before, as in `ends_in`."""
    known = (t_ns > edges[0]) & (t_ns <= edges[-1])
    at = np.searchsorted(edges, t_ns[known], side="left") - 1
    sums: Floats = np.bincount(at, weights=weight[known], minlength=len(edges) - 1).astype(np.float64)
    return sums


def _mean_power(joules: Joules, edges: Ints) -> tuple[Floats | None, str | None]:
    """Watts of each bin, or why not."""
    watts = []
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        value, reason = joules(start, end)
        if value is None:
            return None, reason
        watts.append(value / ((end - start) / 1e9))
    return np.array(watts), None


def backlog(requests: Requests, window: Window) -> Backlog:
    """In flight at `window.start_ns` and at `window.end_ns`."""
    begin, end = _lives(requests, window.end_ns)

    def flying(t_ns: int) -> int:
        return int(((begin < t_ns) & (end > t_ns)).sum())

    # One that never ended was in flight at the end.
    never = int(((end == window.end_ns) & (begin < window.end_ns) & ~_ended(requests)).sum())
    return Backlog(
        flying(window.start_ns), flying(window.end_ns) + never, int(requests.sent_in(window).sum())
    )


def residence_ns(requests: Requests, window: Window, *, since_first_token: bool) -> int | None:
    """Median time from send (or first token) to last token, of requests that ended in the window."""
    begin = requests.first_token_ns if since_first_token else requests.actual_send_ns
    done: Bools = requests.completed & ends_in(requests.last_token_ns, window) & (begin != MISSING)
    return int(np.median((requests.last_token_ns - begin)[done])) if done.any() else None


def _ended(requests: Requests) -> Bools:
    """Which requests were sent, and completed or failed."""
    sent = requests.actual_send_ns != MISSING
    ended: Bools = (requests.completed | requests.failed)[sent]
    return ended


def _lives(requests: Requests, horizon_ns: int) -> tuple[Ints, Ints]:
    """When each request that was sent began and ended; one that never ended lives to the horizon."""
    sent = requests.actual_send_ns != MISSING
    begin, last = requests.actual_send_ns[sent], requests.last_token_ns[sent]
    end = np.where(_ended(requests), np.where(last != MISSING, last, begin), horizon_ns)
    return begin, end


def _mean_in_flight(requests: Requests, edges: Ints) -> Floats:
    """Requests sent and not ended, mean of each bin."""
    begin, end = _lives(requests, int(edges[-1]))

    def until(t_ns: Ints) -> Floats:
        """Sum over requests of the time in flight up to each edge."""
        lived = [float(np.clip(np.minimum(end, t) - begin, 0, None).sum()) for t in t_ns.tolist()]
        return np.array(lived)

    mean: Floats = np.diff(until(edges)) / np.diff(edges)
    return mean


# -- findings

UNSETTLED, WARMUP_TOO_SHORT, OVERLOADED = finding_specs(
    """
    not_settled | % | no | drift of the power that the load does not explain (of a batch also of the tokens/s), where its 99
        % interval excludes 0; or what still drifted when the warm-up reached its limit | 5 % | the joules are those of this
        window; a longer one would give others | measure longer (`scenario.window_s`), or let it warm up for longer
        (`scenario.warmup_limit_s`)
    warmup_too_short | s | no | length of a warm-up that reached its limit, s (the figure is not above the limit) | twice
        the life of its median request; where none had ended, `scenario.warmup_limit_s` | the window says so by its drift,
        if it mattered | raise `scenario.warmup_limit_s`
    overloaded | 1 | no | growth of the requests in flight over the window / requests sent in it, where it is more than
        chance; open loop only | 5 % | true for this window, but latency depends on its length | offer less
        (`scenario.rate_rps`) for a load that can be kept up; as a limit of what it can do the figures stand
    """
)


@CHECKS.finds_in_window(UNSETTLED, WARMUP_TOO_SHORT)
def warmup(seen: Observed, _: Window) -> Iterator[Finding]:
    """A warm-up that ended at its limit, as the run itself found."""
    warmup = seen.record.info.warmup
    for name, percent in (warmup.get("unsettled") or {}).items():
        message = f"{NAMES.get(name, name)} had not settled when the warm-up reached scenario.warmup_limit_s"
        yield UNSETTLED.found(abs(float(percent)), DRIFT_PERCENT, message)
    if not warmup or warmup["settled"]:
        return
    needed_s, seconds = warmup.get("needed_s"), float(warmup["seconds"])
    if needed_s is None or needed_s > seconds:
        yield WARMUP_TOO_SHORT.found(
            seconds,
            float(needed_s if needed_s is not None else warmup["limit_s"]),
            "the window began before the server had filled up: raise scenario.warmup_limit_s above two of its "
            "requests' lives",
        )


@CHECKS.finds_in_window(OVERLOADED)
def overloaded(seen: Observed, window: Window) -> Iterator[Finding]:
    """Requests that came faster than they were served."""
    if seen.is_batch or seen.is_closed or seen.replays_a_trace:
        return
    found = backlog(seen.requests, window)
    if found.growth_share > BACKLOG_SHARE and found.certain:
        yield OVERLOADED.found(
            found.growth_share,
            BACKLOG_SHARE,
            f"requests came faster than they were served: {found.begin} in flight at the window's begin, "
            f"{found.end} at its end; latency depends on how long the window is",
        )


@CHECKS.finds_in_window(UNSETTLED)
def not_settled(seen: Observed, _: Window) -> Iterator[Finding]:
    """Trends of the window itself, of the kind `UNSETTLED`."""
    drifts = seen.once(drifts_of)
    if drifts is None or seen.replays_a_trace:
        return
    for name, drift in (
        ("power", drifts.power_unexplained),
        ("throughput", drifts.throughput if seen.is_batch else None),
    ):
        if drift is not None and drift.certain and abs(drift.percent) > DRIFT_PERCENT:
            beyond = "" if seen.is_batch else ", more than the load explains"
            yield UNSETTLED.found(
                abs(drift.percent),
                DRIFT_PERCENT,
                f"{NAMES[name]} changed by {drift.percent:+.1f} % within the window{beyond} "
                f"(99 % interval {drift.low:+.1f} to {drift.high:+.1f} %)",
            )
