"""Whether the load was sent as planned and heard as it came, or he who sent it could not keep up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wattcount.config.schema import ConcurrencyConfig
from wattcount.metrics.observations import MISSING, Window, starts_in
from wattcount.metrics.sheet import Checks, Finding, MetricSpec, Sheet, finding_specs
from wattcount.metrics.window import Observed

SEND_LAG_MS = 10.0
"""Send lag, p99, up to which the generator does not lag [ms]. Chosen: a tenth of a short bound of TTFT."""
SEND_LAG_SHARE = 0.05
"""The same as a share of the mean gap between arrivals. Both must be exceeded: a slow load bears a longer lag."""
STALLED_SHARE = 0.01
"""Share of the window that a client process may spend in rounds of its loop of 10 ms and more: sends and stamps are late by them."""
CPU_SHARE = 0.9
"""Share of a core that a client process may use over the window: above it, what arrives waits for it now and then."""
BUSY_SHARE = 0.5
"""Share of a core [1] from which on a late client process is taken to lack CPU of its own, and not to wait for others. Chosen: half."""
USERS_IDLE_SHARE = 0.02
"""Share of a closed loop's users that may have nothing in flight, mean over the window. Chosen: what a rate may be off (`load_not_achieved`)."""
UNSURE_SHARE = 0.01
"""Share of the requests whose tokens may be counted in doubt."""

METRICS: dict[str, MetricSpec] = {}
"""No metric of its own: this module only checks. Every part of `metrics_json` has this table."""
NULL_REASONS: dict[str, str] = {}
"""No reason for null of its own. Every part of `metrics_json` has this table."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """Nothing: the send lag is among the figures of the service."""


LAGGING, CLIENT_LIMITED, USERS_IDLE, UNSURE = finding_specs(
    """
    generator_lagging | ms | open | p99 of the send lag (nearest rank), open loop only; of engines in the run's own process
        | 10 ms and 5 % of the mean gap between arrivals | only above the mean gap | give the host more free CPU, or offer
        less; an engine over HTTP has a client in processes of its own
    client_limited | 1 | yes | of client processes (servers over HTTP), the worst of these as a multiple of its limit: p99
        of the send lag of requests that no slot held back, open loop only; share of the window in rounds of a process's
        loop above 10 ms; CPU of a process | 1: 10 ms and 5 % of the mean gap between arrivals; 1 %; 90 % of a core | the
        client was measured, not the server; a server that cannot keep up is `overloaded` | raise `engine.client_processes`,
        or run the client on a host with more free CPU
    users_idle | 1 | yes | share of the users of a closed loop that had no request in flight, mean over the window | 2 % | another
        load than the one asked for: the client was slow to send the next request, requests failed, or there were too few of them
        | raise `engine.client_processes` or `scenario.max_requests`, or give the host more free CPU
    tokens_unsure | 1 | yes | share of requests whose server told no `usage` (and there is no tokenizer), or one that
        contradicts itself or the model's tokenizer | 1 % | tokens, and all that is divided by them, may be wrong | give
        `model.tokenizer`, or have the server tell `usage` with each answer
    """
)


LATE = (
    "requests were sent later than planned, p99 {0.figure:.3g} ms where {0.limit:.3g} ms are allowed: the figures are those of the load "
    "as it was sent"
)
"""What a generator that lagged says of a valid run. Its own message, which records have, is that of an invalid one."""


def _client(seen: Observed) -> dict[str, Any] | None:
    """What the client processes told of themselves (`engines.http.client`); None: the run had none."""
    client = seen.record.info.engine_details.get("client")
    return client if isinstance(client, dict) else None


@CHECKS.finds_in_window(LAGGING, CLIENT_LIMITED)
def sent_in_time(seen: Observed, window: Window) -> Iterator[Finding]:
    """Requests that were late, and client processes that were."""
    requests, client = seen.requests, _client(seen)
    planned = starts_in(requests.planned_send_ns, window)
    sent = requests.sent_in(window)
    lag = np.sort(
        (requests.actual_send_ns - requests.planned_send_ns)[sent & (requests.planned_send_ns != MISSING)]
    )
    limited = seen.is_closed or getattr(seen.scenario, "max_in_flight", None) is not None
    p99_ms = mean_gap_ms = limit_ms = 0.0
    if not seen.is_batch and not limited and len(lag) and planned.any():
        # Nearest rank, so that it exists for few requests too (then it is the largest lag).
        p99_ms = int(lag[-(-99 * len(lag) // 100) - 1]) / 1e6
        mean_gap_ms = window.duration_s * 1e3 / int(planned.sum())
        limit_ms = max(SEND_LAG_MS, SEND_LAG_SHARE * mean_gap_ms)
    if client is not None:
        if limited:
            # Only the client knows which requests had to wait for a slot.
            p99_ms, limit_ms = _delay_p99_ms(client), SEND_LAG_MS
        yield from _client_limited(client, window, p99_ms, limit_ms)
    elif p99_ms > limit_ms:
        message = "requests were sent later than planned: the load was not the one asked for"
        yield LAGGING.found(p99_ms, limit_ms, message, p99_ms > max(limit_ms, mean_gap_ms))


def _client_limited(
    client: dict[str, Any], window: Window, p99_ms: float, limit_ms: float
) -> Iterator[Finding]:
    stalled, cpu = _stalled_share(client, window), _cpu_share(client, window)
    worst = max(p99_ms / limit_ms if limit_ms else 0.0, stalled / STALLED_SHARE, cpu / CPU_SHARE)
    if worst > 1.0:
        # Of an idle process another one would wait for a core just so.
        advice = (
            "set engine.client_processes higher, or " if cpu > BUSY_SHARE else "end what else runs here, or "
        )
        yield CLIENT_LIMITED.found(
            worst,
            1.0,
            f"the client could not keep up: it sent {p99_ms:.3g} ms late (p99), stood still for {100 * stalled:.2g} % of the window and "
            f"used {100 * cpu:.0f} % of a core: {advice}send from a host with free cores",
        )


@CHECKS.finds_in_window(USERS_IDLE)
def users_idle(seen: Observed, window: Window) -> Iterator[Finding]:
    """Users of a closed loop who had nothing in flight."""
    if not isinstance(seen.scenario, ConcurrencyConfig):
        return
    requests, users = seen.requests, seen.scenario.concurrency
    sent = requests.actual_send_ns != MISSING
    begin, end = requests.actual_send_ns[sent], requests.last_token_ns[sent]
    end = np.where(end == MISSING, window.end_ns, end)
    inside_ns = np.clip(np.minimum(end, window.end_ns) - np.maximum(begin, window.start_ns), 0, None)
    idle = 1.0 - float(inside_ns.sum()) / (window.end_ns - window.start_ns) / users
    if idle > USERS_IDLE_SHARE:
        yield USERS_IDLE.found(
            idle,
            USERS_IDLE_SHARE,
            f"of {users} users, {users * (1 - idle):.3g} had a request in flight on average: the client was slow to send the next one, or "
            "there was none",
        )


@CHECKS.finds_in_window(UNSURE)
def tokens_unsure(seen: Observed, _: Window) -> Iterator[Finding]:
    """Tokens that the server did not count, or counted otherwise than it sent them."""
    client = _client(seen)
    if client is None:
        return
    counted = client.get("tokens_counted")
    counted = counted if isinstance(counted, dict) else {}
    requests = sum(_number(count) for count in counted.values())
    events, wrong = _number(counted.get("events")), _number(client.get("usage_wrong"))
    recounted, differ = _number(client.get("recounted")), _number(client.get("recounted_wrong"))
    share = max((events + wrong) / requests if requests else 0.0, differ / recounted if recounted else 0.0)
    if share > UNSURE_SHARE:
        yield UNSURE.found(
            share,
            UNSURE_SHARE,
            f"of {requests:.0f} answers, {events:.0f} told no usage and {wrong:.0f} one that contradicts itself; of {recounted:.0f} that "
            f"were counted with the tokenizer, {differ:.0f} had another number of tokens",
        )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _delay_p99_ms(client: dict[str, Any]) -> float:
    delay = client.get("dispatch_delay_ms")
    return _number(delay.get("p99")) if isinstance(delay, dict) else 0.0


def _series(client: dict[str, Any], key: str) -> Iterator[np.ndarray[Any, np.dtype[np.float64]]]:
    """float64[rows, 2] of each client process; what is none is left out."""
    found = client.get(key)
    for rows in found if isinstance(found, list) else ():
        try:
            pairs = np.array(rows, np.float64).reshape(-1, 2)
        except (TypeError, ValueError, OverflowError):
            continue
        if len(pairs):
            yield pairs


def _stalled_share(client: dict[str, Any], window: Window) -> float:
    """The largest share of the window that one process spent in long rounds."""
    shares = [0.0]
    for rows in _series(client, "stalls"):
        begin, end = rows[:, 0], rows[:, 0] + rows[:, 1]
        inside = np.clip(np.minimum(end, window.end_ns) - np.maximum(begin, window.start_ns), 0.0, None)
        shares.append(float(inside.sum()) / (window.end_ns - window.start_ns))
    return max(shares)


def _cpu_share(client: dict[str, Any], window: Window) -> float:
    """The largest share of a core that one process used over the window."""
    shares = [0.0]
    for rows in _series(client, "cpu"):
        used = np.interp([window.start_ns, window.end_ns], rows[:, 0], rows[:, 1])
        shares.append(float(used[1] - used[0]) / (window.end_ns - window.start_ns))
    return max(shares)
