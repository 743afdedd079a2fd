"""Did the load settle? Trends within the window, against what chance alone would do.

The window is cut into equal bins. The slope of a figure over the bins is the median of the slopes between
all pairs of them (Theil-Sen: P. K. Sen, J. Am. Stat. Assoc. 63 (1968) 1379), which a few odd bins do not
move; its interval is Sen's, from the distribution of Kendall's S. The interval supposes bins that vary
independently, so a bin is at least as long as a request lives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics.observations import MISSING, Bools, Ints, Requests, ends_in
from wattcount.metrics.window import Window

Floats = NDArray[np.float64]
Joules = Callable[[int, int], tuple[float | None, str | None]]
"""Energy of all GPUs between two times, ns -> (J or None, why not)."""

MAX_BINS = 20
MIN_BINS = 8
"""With fewer no order of the bins is rare enough to speak of a trend."""
MIN_BIN_S = 1.0
"""The 1 s average, where it is all there is, tells nothing of shorter ones."""
Z_99 = 2.576
"""Normal quantile 0.995: one settled run in a hundred has a trend by chance."""

WINDOW_TOO_SHORT = "window_too_short"


@dataclass(frozen=True)
class Drift:
    """Change from the window's begin to its end along the fitted line, percent of the mean.

    low, high  99 % interval
    """

    percent: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether it is more than chance."""
        return self.low > 0 or self.high < 0


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


def theil_sen(values: Floats, mean: float | None = None) -> Drift | None:
    """Drift over equal bins with these values; None where fewer than MIN_BINS, or where the mean is 0.

    mean  what the drift is a percentage of; None: the mean of the values
    """
    n = len(values)
    if mean is None:
        mean = float(np.mean(values)) if n else 0.0
    if n < MIN_BINS or mean == 0.0:
        return None
    low, high = np.triu_indices(n, 1)
    slopes = np.sort((values[high] - values[low]) / (high - low))
    count = len(slopes)
    # Sen (1968), eq. 2.6, normal approximation of Kendall's S: var = n (n - 1) (2 n + 5) / 18.
    reach = Z_99 * sqrt(n * (n - 1) * (2 * n + 5) / 18)
    below = max(floor((count - reach) / 2), 0)
    above = min(count - 1 - below, count - 1)
    # Bins' middles lie n - 1 steps apart; the window is n long.
    scale = 100.0 * n / mean
    return Drift(float(np.median(slopes)) * scale, float(slopes[below]) * scale, float(slopes[above]) * scale)


def drifts(requests: Requests, joules: Joules, window: Window, *, residence_ns: int | None) -> Drifts:
    """Trends within a window; `residence_ns`: how long a request lives, None: not known."""
    seconds = max(MIN_BIN_S, (residence_ns or 0) / 1e9)
    bins = min(MAX_BINS, floor(window.duration_s / seconds))
    if bins < MIN_BINS:
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
        power_unexplained=None if watts is None else theil_sen(_residual(watts, tokens), float(watts.mean())),
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


def _residual(values: Floats, by: Floats) -> Floats:
    """What a straight line in `by` leaves of `values` (least squares)."""
    centred = by - by.mean()
    spread = float(centred @ centred)
    rest: Floats = values - values.mean()
    if spread > 0:
        rest = rest - float(centred @ rest) / spread * centred
    return rest


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
