"""Stalls: time in which an engine had work and did nothing.

An engine stands still for hundreds of milliseconds, and the GPU with it, when a kernel is compiled because a batch first
has a certain size (as Triton does), when garbage is collected, or when the host is busy with something else.

::

    requests in flight   |#######################|      |########|
    step reports         |  | | | |        | | | |      | | | | |
                                   `------'      `------'
                                    a stall       nothing to do: none
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_STEPS = 16
"""Fewest steps that tell how long a step takes."""
STALL_MIN_S = 0.25
"""Delay from which on a step is a stall [s]. In runs that were left alone on a GPU host, a garbage collection or a busy core
took 70 ms at most."""
STALL_FACTOR = 1.0
"""Delay from which on a step is a stall, too [time that the step should have taken]."""

ROUNDS = 50
"""Rounds of the fit of least absolute deviations [1]: each weighs the steps anew."""
BURST_GAP_NS = 10_000_000
"""Most time between two sends of one burst [ns]: the front end of an engine takes 0.3 ms for each request."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Stalls:
    """The stalls of a stretch of time: their number, and how much longer their steps took than they should have."""

    count: int
    seconds: float
    longest_s: float


@dataclass(frozen=True)
class Steps:
    """Reports of an engine's steps, in any order.

    reported_ns  int64[steps], CLOCK_MONOTONIC
    prefill, decode  int64[steps], tokens computed
    """

    reported_ns: Ints
    prefill: Ints
    decode: Ints


def stalls(steps: Steps, sent_ns: Ints, ended_ns: Ints, start_ns: int, end_ns: int) -> Stalls | None:
    """Stalls between `start_ns` and `end_ns`; None where the steps are too few to tell.

    sent_ns   int64[requests] that were sent, CLOCK_MONOTONIC
    ended_ns  int64[requests]: their last tokens; of one that got none, the end of all that is known

    What a step took is the time from the report before it to its own, as far as requests were in flight. What it
    should have taken is linear in the tokens it decoded and in those prefilled in it and in the step before (the
    reports of an asynchronous scheduler are late by one), fitted by least absolute deviations over the stretch: stalls do not move that fit while
    most steps have none, however long they are.
    The first step of a stretch counts where nothing was in flight before it (a batch); one that goes on from before does not.
    It begins with the last send of the burst that begins the stretch, because who sends cannot hear reports meanwhile (0.6 s for
    2,048 requests); and what the second step prefills counts for it too, because that is launched before the first is
    reported (an eager Mamba's 16,384 tokens: 2 s).
    """
    if len(steps.reported_ns) <= MIN_STEPS:
        return None
    order = np.argsort(steps.reported_ns, kind="stable")
    reported_ns, prefill, decode = steps.reported_ns[order], steps.prefill[order], steps.decode[order]
    # Of what the engine did before the stretch, nothing counts.
    took_s = np.diff(_busy_ns(sent_ns, ended_ns, np.maximum(reported_ns, start_ns))) / 1e9
    fitted = (reported_ns[:-1] >= start_ns) & (reported_ns[1:] <= end_ns)
    if fitted.sum() < MIN_STEPS:
        return None
    content = np.column_stack([np.ones(len(took_s)), prefill[:-1], prefill[1:], decode[:-1]]).astype(
        np.float64
    )
    inside = fitted.copy()
    # The first step of a stretch is its own unless another one goes on; the report before it tells nothing of it.
    first = int(fitted.argmax()) - 1
    if first >= 0 and not ((sent_ns < start_ns) & (ended_ns > start_ns)).any():
        inside[first] = True
        content[first, [1, 3]] = 0.0
        content[first, 2] += prefill[first + 2]
        took_s[first] = max(0.0, took_s[first] - _burst_ns(sent_ns, start_ns) / 1e9)
    expected_s = _expected(content, took_s, fitted)[inside]
    late_s = took_s[inside] - expected_s
    stalled = late_s > np.maximum(STALL_MIN_S, STALL_FACTOR * expected_s)
    return Stalls(
        int(stalled.sum()),
        float(late_s[stalled].sum()),
        float(took_s[inside][stalled].max(initial=0.0)),
    )


def _burst_ns(sent_ns: Ints, start_ns: int) -> int:
    """Time from the first send at `start_ns` or later to the last send of the same burst."""
    sends = np.sort(sent_ns[sent_ns >= start_ns])
    if not len(sends):
        return 0
    apart = np.flatnonzero(np.diff(sends) > BURST_GAP_NS)
    return int(sends[apart[0] if len(apart) else -1] - sends[0])


def _busy_ns(start_ns: Ints, end_ns: Ints, t_ns: Ints) -> Ints:
    """int64[t]: time with at least one request in flight, from the first send until each moment [ns]."""
    if not len(start_ns):
        return np.zeros(len(t_ns), np.int64)
    order = np.argsort(start_ns, kind="stable")
    start_ns, end_ns = start_ns[order], np.maximum.accumulate(end_ns[order])
    opens = np.append(True, start_ns[1:] > end_ns[:-1])
    start_ns, end_ns = start_ns[opens], end_ns[np.append(np.flatnonzero(opens)[1:] - 1, len(end_ns) - 1)]
    before = np.append(0, np.cumsum(end_ns - start_ns))
    at = np.searchsorted(start_ns, t_ns, side="right") - 1
    found = np.maximum(at, 0)
    busy = before[found] + np.clip(t_ns - start_ns[found], 0, (end_ns - start_ns)[found])
    return np.where(at < 0, 0, busy)


def _expected(content: Floats, took_s: Floats, fitted: NDArray[np.bool_]) -> Floats:
    """How long every step should have taken [s], from those that are `fitted`; at least a tenth of their median.

    The fit is by least absolute deviations, as least squares with weights that are computed anew in each round.
    """
    every = content / np.maximum(np.abs(content[fitted]).max(axis=0), 1.0)
    scaled, took_s = every[fitted], took_s[fitted]
    typical_s = float(np.median(took_s))
    floor_s = max(1e-2 * typical_s, 1e-6)
    weights = np.ones(len(took_s))
    solution = np.zeros(scaled.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(scaled * root[:, None], took_s * root, rcond=None)[0]
        weights = 1.0 / np.maximum(np.abs(took_s - scaled @ solution), floor_s)
    expected_s: Floats = np.maximum(every @ solution, 0.1 * typical_s)
    return expected_s
