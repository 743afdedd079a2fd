"""Time in which the engine had work and did not do it.

A kernel that is compiled when a batch first has a certain size (Triton does that), a garbage collection, a host that was busy
with something else: the engine stands still for hundreds of milliseconds, the GPU with it. A run that contains such
stalls says what starting up costs, not what serving costs.

::

    requests in flight   |#######################|      |########|
    step reports         |  | | | |        | | | |      | | | | |
                                   `------'      `------'
                                    a stall       nothing to do: none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics.observations import MISSING, Ints, Requests, int_column
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.record import Record

MIN_STEPS = 16
"""Fewer do not tell what a step takes."""
STALL_MIN_S = 0.25
"""A step stood still that took at least so much longer than it should have: the longest a collection or a busy core took in runs
that were left alone was 70 ms on a GPU host."""
STALL_FACTOR = 1.0
"""And at least this multiple of what it should have taken longer."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stalls:
    """Stalls of a window: how many, and how long they took beyond what their steps should have taken."""

    count: int
    seconds: float
    longest_s: float


def stalls(record: Record, requests: Requests, window: Window) -> Stalls | None:
    """Stalls within a window; None where the engine's steps are not known, or are too few to tell.

    What a step took is the time from the report before it to its own, as far as requests were in flight. What it
    should have taken is linear in the tokens it decoded and in those prefilled in it and in the step before (vLLM's
    reports are late by one), fitted by least absolute deviations over the window: stalls do not move that fit while
    most steps have none, however long they are.
    The first step of a window counts where nothing was in flight before it (a batch); one that goes on from before does not.
    """
    steps = record.steps
    reported_ns = int_column(steps, "logged_ns")
    prefill, decode = int_column(steps, "prefill_tokens"), int_column(steps, "decode_tokens")
    if len(reported_ns) <= MIN_STEPS or (prefill == MISSING).any() or (decode == MISSING).any():
        return None
    order = np.argsort(reported_ns, kind="stable")
    reported_ns, prefill, decode = reported_ns[order], prefill[order], decode[order]
    # Of what the engine did before the window, nothing counts.
    took_s = np.diff(_busy_ns(requests, np.maximum(reported_ns, window.start_ns))) / 1e9
    fitted = (reported_ns[:-1] >= window.start_ns) & (reported_ns[1:] <= window.end_ns)
    if fitted.sum() < MIN_STEPS:
        return None
    content = np.column_stack([np.ones(len(took_s)), prefill[:-1], prefill[1:], decode[:-1]]).astype(
        np.float64
    )
    inside = fitted.copy()
    # The first step of a window is its own unless another one goes on; the report before it tells nothing of it.
    first = int(fitted.argmax()) - 1
    if first >= 0 and not _in_flight(requests, window.start_ns):
        inside[first] = True
        content[first, [1, 3]] = 0.0
    expected_s = _expected(content, took_s, fitted)[inside]
    late_s = took_s[inside] - expected_s
    stalled = late_s > np.maximum(STALL_MIN_S, STALL_FACTOR * expected_s)
    return Stalls(
        int(stalled.sum()),
        float(late_s[stalled].sum()),
        float(took_s[inside][stalled].max(initial=0.0)),
    )


def _in_flight(requests: Requests, t_ns: int) -> bool:
    sent = (requests.actual_send_ns != MISSING) & (requests.actual_send_ns < t_ns)
    return bool((sent & ((requests.last_token_ns == MISSING) | (requests.last_token_ns > t_ns))).any())


def _busy_ns(requests: Requests, t_ns: Ints) -> Ints:
    """int64[t]: nanoseconds with at least one request in flight, from the first send until each moment."""
    sent = requests.actual_send_ns != MISSING
    start_ns = requests.actual_send_ns[sent]
    # One that never got a last token was in flight until the end, for all that is known.
    end_ns = np.where(requests.last_token_ns == MISSING, t_ns[-1], requests.last_token_ns)[sent]
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


def _expected(content: Floats, took_s: Floats, fitted: NDArray[np.bool_], rounds: int = 50) -> Floats:
    """Of every step, by those that are `fitted`: least absolute deviations, by least squares that are weighted anew; never less
    than a tenth of their median."""
    every = content / np.maximum(np.abs(content[fitted]).max(axis=0), 1.0)
    scaled, took_s = every[fitted], took_s[fitted]
    typical_s = float(np.median(took_s))
    floor_s = max(1e-2 * typical_s, 1e-6)
    weights = np.ones(len(took_s))
    solution = np.zeros(scaled.shape[1])
    for _ in range(rounds):
        root = np.sqrt(weights)
        solution = np.linalg.lstsq(scaled * root[:, None], took_s * root, rcond=None)[0]
        weights = 1.0 / np.maximum(np.abs(took_s - scaled @ solution), floor_s)
    expected_s: Floats = np.maximum(every @ solution, 0.1 * typical_s)
    return expected_s
