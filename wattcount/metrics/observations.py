"""The raw columns of a record as arrays, ready for counting, and the stretches of time that they are counted in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wattcount.energy.events import Source
from wattcount.metrics.sheet import NO_REQUESTS
from wattcount.records.intake import compute
from wattcount.records.schema import Phase, PhaseSpan, RequestStatus

if TYPE_CHECKING:
    from wattcount.energy.trace import PowerTrace
    from wattcount.records import Record


MISSING = -1
"""Stands for null in integer arrays: no clock stamp and no count is negative."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """A stretch of a run, CLOCK_MONOTONIC nanoseconds.

    What *begins* counts where `start_ns <= t < end_ns` (sends), what is *finished* counts where
    `start_ns < t <= end_ns` (tokens, completions): adjacent windows share nothing and lose nothing, and a
    batch that spans first send to last token holds both.

    complete  False: the run broke off inside it, and `end_ns` is as far as energy is known
    """

    start_ns: int
    end_ns: int
    complete: bool = True

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def to_json(self) -> dict[str, int | float | bool]:
        return {
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "duration_s": self.duration_s,
            "complete": self.complete,
        }


def phase_window(
    phases: Iterable[PhaseSpan], phase: Phase, last_observed_ns: int | None = None
) -> Window | None:
    """The stretch of `phase`; None where the run never got there.

    A phase that did not end is cut at `last_observed_ns`; None where nothing was observed in it.
    """
    for span in phases:
        if span.phase != phase:
            continue
        end_ns = span.end_ns if span.end_ns is not None else last_observed_ns
        if end_ns is None or end_ns <= span.start_ns:
            return None
        return Window(span.start_ns, end_ns, complete=span.end_ns is not None)
    return None


def int_column(table: pa.Table, name: str) -> Ints:
    """int64[rows]; null is `MISSING`."""
    column = table[name]
    if column.type != pa.int64():
        column = column.cast(pa.int64())
    if column.null_count:
        column = column.fill_null(MISSING)
    return np.asarray(column.to_numpy(), dtype=np.int64)


@dataclass(frozen=True)
class Requests:
    """`requests.parquet`, one element a request; times in nanoseconds, `MISSING` where null.

    token_ts_ns, token_count, token_request   one element an arrival of tokens: when, how many, whose (row)
    """

    planned_send_ns: Ints
    actual_send_ns: Ints
    first_token_ns: Ints
    last_token_ns: Ints
    input_tokens: Ints
    cached_tokens: Ints
    output_tokens: Ints
    preemptions: Ints
    engine_scheduled_ns: Ints
    completed: Bools
    failed: Bools
    cancelled: Bools
    for_window: Bools
    token_ts_ns: Ints
    token_count: Ints
    token_request: Ints

    @classmethod
    def of(cls, table: pa.Table) -> Requests:
        status, equal = table["status"], compute().equal
        sent = int_column(table, "actual_send_ns")
        stamps = table["token_ts_ns"].combine_chunks()
        counts = table["token_count"].combine_chunks()
        owner = np.asarray(stamps.value_parent_indices().to_numpy(), dtype=np.int64)
        arrivals = np.asarray(stamps.flatten().to_numpy(), dtype=np.int64)
        tokens = np.asarray(counts.flatten().to_numpy(), dtype=np.int64)
        if len(arrivals) != len(tokens):
            raise ValueError("requests.parquet: token_ts_ns and token_count differ in length")
        # The column may lag behind a run that was killed; the arrivals are what was seen.
        output = np.bincount(owner, weights=tokens, minlength=len(table)).astype(np.int64)

        def has(value: RequestStatus) -> Bools:
            return np.asarray(equal(status, value.value).fill_null(False).to_numpy(), dtype=np.bool_)

        return cls(
            planned_send_ns=int_column(table, "planned_send_ns"),
            actual_send_ns=sent,
            first_token_ns=int_column(table, "first_token_ns"),
            last_token_ns=int_column(table, "last_token_ns"),
            input_tokens=int_column(table, "input_tokens"),
            cached_tokens=int_column(table, "cached_tokens"),
            output_tokens=output,
            preemptions=int_column(table, "preemptions"),
            engine_scheduled_ns=int_column(table, "engine_scheduled_ns"),
            completed=has(RequestStatus.COMPLETED),
            failed=has(RequestStatus.FAILED),
            cancelled=has(RequestStatus.CANCELLED),
            for_window=np.asarray(
                equal(table["phase"], "window").fill_null(False).to_numpy(), dtype=np.bool_
            ),
            token_ts_ns=arrivals,
            token_count=tokens,
            token_request=owner,
        )

    def __len__(self) -> int:
        return len(self.actual_send_ns)

    @cached_property
    def by_request(self) -> Ints:
        """Order of the arrivals: request by request, each in the order of time."""
        order: Ints = np.lexsort((self.token_ts_ns, self.token_request))
        return order

    @cached_property
    def tokens_before(self) -> Floats:
        """How many tokens its request had made before each arrival of tokens: float64, as `token_ts_ns`."""
        order = self.by_request
        owner = self.token_request[order]
        made = np.cumsum(self.token_count[order]) - self.token_count[order]
        first = (
            np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1])))
            if len(owner)
            else np.zeros(0, int)
        )
        made = made - np.repeat(made[first], np.diff(np.append(first, len(owner))))
        before = np.empty(len(owner))
        before[order] = made
        return before

    def sent_in(self, window: Window) -> Bools:
        """Requests whose actual send lies in the window."""
        return starts_in(self.actual_send_ns, window)

    def tokens_in(self, window: Window) -> int:
        """Output tokens emitted in the window, whichever request they belong to."""
        return int(self.token_count[ends_in(self.token_ts_ns, window)].sum())

    def completed_in(self, window: Window) -> int:
        """Requests that completed with their last token in the window, whenever they were sent."""
        return int(self.completed_within(window).sum())

    def completed_within(self, window: Window) -> Bools:
        """The same as a mask."""
        return self.completed & ends_in(self.last_token_ns, window)

    def gaps_ns(self, chosen: Bools) -> Floats:
        """Gaps between successive arrivals of tokens within each chosen request, in no order."""
        order = self.by_request
        owner, stamps = self.token_request[order], self.token_ts_ns[order]
        same = (owner[1:] == owner[:-1]) & chosen[owner[1:]]
        gaps: Floats = (stamps[1:] - stamps[:-1])[same].astype(np.float64)
        return gaps


def requests_of(record: Record) -> Requests:
    """The requests of a record."""
    return record.once("requests", lambda: Requests.of(record.requests))


def gpu_uuids(record: Record) -> list[str]:
    """The GPUs of the run, in the order of `run.json`."""
    named = [str(gpu["uuid"]) for gpu in record.info.gpus if gpu.get("uuid")]
    return named or list(record.power.gpu_uuids)


def starts_in(t_ns: Ints, window: Window) -> Bools:
    inside: Bools = (t_ns != MISSING) & (t_ns >= window.start_ns) & (t_ns < window.end_ns)
    return inside


def ends_in(t_ns: Ints, window: Window) -> Bools:
    inside: Bools = (t_ns != MISSING) & (t_ns > window.start_ns) & (t_ns <= window.end_ns)
    return inside


def held(power: PowerTrace, gpu: int, source: Source, window: Window) -> tuple[Ints, Ints]:
    """(value, nanoseconds it held) within the window, for a source that is kept when it changes."""
    value, start_ns, end_ns = stretches(power, gpu, source, window)
    return value, end_ns - start_ns


def stretches(power: PowerTrace, gpu: int, source: Source, window: Window) -> tuple[Ints, Ints, Ints]:
    """(value, since when, until when it held) within the window, for a source that is kept when it changes.

    A value holds from the end of the call that returned it to the end of the next call that is kept;
    while the source returned an error nothing holds.
    """
    chosen = power.of(power.gpu_uuids[gpu], source)
    chosen = chosen[np.lexsort((chosen["value"], chosen["t0_ns"], chosen["t1_ns"]))]
    starts = np.clip(chosen["t1_ns"].astype(np.int64), window.start_ns, window.end_ns)
    ends = np.append(starts[1:], window.end_ns) if len(starts) else starts
    keep = (ends > starts) & (chosen["nvml_return"] == 0)
    return chosen["value"][keep].astype(np.int64), starts[keep], ends[keep]


# -- percentiles

TOO_FEW_REQUESTS = "too_few_requests"
"""Reason for null: too few values for that percentile."""
REQUESTS_UNFINISHED = "requests_unfinished"
"""Reason for null: the value would be that of a request that never finished."""

NULL_REASONS = {
    TOO_FEW_REQUESTS: "fewer than 100 / (100 - p) values for percentile p",
    REQUESTS_UNFINISHED: "the percentile falls on a request that never finished, or not all of a batch completed",
}
"""What each of this module's reasons for null means, in words."""


def needed(p: int) -> int:
    """Fewest values the `p`-th percentile is given for: ceil(100 / (100 - p)); 2, 20, 100 for 50, 95, 99.

    With fewer, no value lies above the percentile, and it would only be another name for the maximum.
    """
    return -(-100 // (100 - p))


def percentile(values: Floats | Sequence[float], p: int) -> tuple[float | None, str | None]:
    """(value, None) or (None, why not); 0 < `p` < 100.

    Linear interpolation between the two nearest ranks (numpy's `linear`, Hyndman and Fan's type 7).
    A request that did not finish is given as `inf`: it was slower than any that did, so it takes its rank
    at the top, and a percentile that reaches it is null instead of flattering.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return None, NO_REQUESTS
    if n < needed(p):
        return None, TOO_FEW_REQUESTS
    # In integers: 0.95 * (n - 1) in floating point can land beside the rank it means.
    rank, rest = divmod(p * (n - 1), 100)
    low = float(ordered[rank])
    if rest == 0:
        return (low, None) if low != float("inf") else (None, REQUESTS_UNFINISHED)
    high = float(ordered[rank + 1])
    if high == float("inf"):
        return None, REQUESTS_UNFINISHED
    return low + (high - low) * rest / 100, None
