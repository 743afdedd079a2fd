"""Did the load settle? Trends within the window, against what chance alone would do.

The window is cut into equal bins, and the trend of a figure over the bins is that of `wattcount.trend`. Its
interval supposes bins that vary independently, so a bin is at least as long as a request lives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics.observations import MISSING, Bools, Ints, Requests, ends_in
from wattcount.metrics.window import Window
from wattcount.trend import MIN_VALUES, Drift, residual, theil_sen

Floats = NDArray[np.float64]
Joules = Callable[[int, int], tuple[float | None, str | None]]
"""Energy of all GPUs between two times, ns -> (J or None, why not)."""

MAX_BINS = 20
MIN_BIN_S = 1.0
"""The 1 s average, where it is all there is, tells nothing of shorter ones."""

WINDOW_TOO_SHORT = "window_too_short"


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
        reasons["power"] = why or "no_power_data"
    if not tokens.any():
        reasons["throughput"] = "no_output_tokens"
    if not flying.any():
        reasons["in_flight"] = "no_requests"
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
    """Of the requests that were sent, those that completed or failed."""
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
