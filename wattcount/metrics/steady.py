"""The steady window of a batch: while the engine is as full as it can be.

::

    running   ___/------------------------\\____      B = what the engine runs at once at most
    waiting   \\_________________________            N = requests of the batch
              |  |                      |     |
           first B running     nothing waits  last token
           send  |<---- steady ------->|

A batch of more requests than the engine runs at once fills it up, keeps it full for as long as something
waits to take the place of what ends, and then runs empty. Filling up and running empty cost energy that
depends on N; between them the engine does what it would do for ever. At both ends of the steady window B
requests are running, so as many are begun in it as completed.

The ML.ENERGY Benchmark (arXiv 2505.06371) cuts by first tokens alone, from the B-th to the (N - B)-th, with
the same intention; its window ends one engine filling earlier, when B requests are still waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wattcount.metrics.observations import MISSING, Bools, Requests, ends_in, int_column
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record

MIN_STEADY_S = 1.0
"""Shorter ones are not given: one update of the slowest sensor (the 1 s average) must fit in."""

NOT_A_BATCH = "not_a_batch"
NEVER_SATURATED = "never_saturated"
TOO_SHORT = "steady_too_short"
BROKE_OFF = "window_broke_off"
CAPACITY_UNKNOWN = "capacity_unknown"

STEADY_REASONS: dict[str, str] = {
    NEVER_SATURATED: "the engine was never full while requests waited: the batch is too small for it, or its requests last a single step",
    TOO_SHORT: f"the engine was full for less than {MIN_STEADY_S:g} s",
    BROKE_OFF: "the run broke off before the engine ran empty",
    CAPACITY_UNKNOWN: "neither the engine's steps nor its max_num_seqs tell when it is full",
}


@dataclass(frozen=True)
class Steady:
    """The steady window of a run, or why it has none."""

    window: Window | None
    reason: str | None = None


def steady_window(record: Record, requests: Requests, window: Window) -> Steady:
    """The part of a batch's `window` in which the engine is saturated. A pure function of the record.

    By the engine's steps where they tell `running` and `waiting`: from the first step that left requests
    waiting although `running` had reached max_num_seqs, or although nothing was prefilled (the KV cache was
    full), to the first step after which nothing waits any more.
    By the requests' stamps where there are no such steps, with B = max_num_seqs: from the B-th first token
    to the N-th, which is when the last one has got its place.
    """
    if record.info.config["scenario"]["kind"] != "batch":
        return Steady(None, NOT_A_BATCH)
    capacity = max_num_seqs(record)
    found = _by_steps(record, window, capacity) or _by_stamps(requests, window, capacity)
    steady = found.window
    if steady is not None and steady.duration_s < MIN_STEADY_S:
        return Steady(None, TOO_SHORT)
    return found


def max_num_seqs(record: Record) -> int | None:
    """Requests that the engine runs at once at most: what it said of itself, else what it was told."""
    details: dict[str, Any] = record.info.engine.get("details") or {}
    told = (record.info.config.get("engine") or {}).get("max_num_seqs")
    value = details.get("max_num_seqs") or told
    return int(value) if value else None


def _by_steps(record: Record, window: Window, capacity: int | None) -> Steady | None:
    """None: the steps do not tell."""
    steps = record.steps
    logged = int_column(steps, "logged_ns")
    running, waiting = int_column(steps, "running"), int_column(steps, "waiting")
    chosen = ends_in(logged, window) & (running != MISSING) & (waiting != MISSING)
    if not chosen.any():
        return None
    order = np.flatnonzero(chosen)[np.argsort(logged[chosen], kind="stable")]
    logged, running, waiting = logged[order], running[order], waiting[order]
    prefill = int_column(steps, "prefill_tokens")[order]
    full: Bools = (prefill == 0) & (running > 0)
    if capacity is not None:
        full |= running >= capacity
    at = np.flatnonzero((waiting > 0) & full)
    if not len(at):
        return Steady(None, NEVER_SATURATED)
    last_waiting = int(np.flatnonzero(waiting > 0)[-1])
    if last_waiting + 1 >= len(logged):
        return Steady(None, BROKE_OFF)
    return _between(int(logged[at[0]]), int(logged[last_waiting + 1]))


def _by_stamps(requests: Requests, window: Window, capacity: int | None) -> Steady:
    if capacity is None:
        return Steady(None, CAPACITY_UNKNOWN)
    batch = requests.for_window
    first = np.sort(requests.first_token_ns[batch & ends_in(requests.first_token_ns, window)])
    if int(batch.sum()) <= capacity:
        return Steady(None, NEVER_SATURATED)
    # One that failed before its first token gives its place away without one.
    expected = int((batch & ~(requests.failed & (requests.first_token_ns == MISSING))).sum())
    if len(first) < expected or not window.complete:
        return Steady(None, BROKE_OFF)
    if len(first) <= capacity:
        return Steady(None, NEVER_SATURATED)
    return _between(int(first[capacity - 1]), int(first[-1]))


def _between(start_ns: int, end_ns: int) -> Steady:
    return Steady(Window(start_ns, end_ns)) if end_ns > start_ns else Steady(None, TOO_SHORT)
