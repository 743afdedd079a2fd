"""The raw columns of a record as arrays, ready for counting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from wattcount.energy.events import Source
from wattcount.metrics.window import Window
from wattcount.records import Record
from wattcount.records.schema import RequestStatus

pc: Any = pyarrow.compute  # its types differ between PyArrow's versions

MISSING = -1
"""Stands for null in integer arrays: no clock stamp and no count is negative."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def int_column(table: pa.Table, name: str) -> Ints:
    """int64[rows]; null is `MISSING`."""
    column = pc.fill_null(pc.cast(table[name], pa.int64()), MISSING)
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
        status = table["status"]
        sent = int_column(table, "actual_send_ns")
        stamps = table["token_ts_ns"].combine_chunks()
        counts = table["token_count"].combine_chunks()
        owner = np.asarray(pc.list_parent_indices(stamps).to_numpy(), dtype=np.int64)
        arrivals = np.asarray(pc.list_flatten(stamps).to_numpy(), dtype=np.int64)
        tokens = np.asarray(pc.list_flatten(counts).to_numpy(), dtype=np.int64)
        if len(arrivals) != len(tokens):
            raise ValueError("requests.parquet: token_ts_ns and token_count differ in length")
        # The column may lag behind a run that was killed; the arrivals are what was seen.
        output = np.bincount(owner, weights=tokens, minlength=len(table)).astype(np.int64)

        def has(value: RequestStatus) -> Bools:
            return np.asarray(pc.fill_null(pc.equal(status, value.value), False).to_numpy(), dtype=np.bool_)

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
                pc.fill_null(pc.equal(table["phase"], "window"), False).to_numpy(), dtype=np.bool_
            ),
            token_ts_ns=arrivals,
            token_count=tokens,
            token_request=owner,
        )

    def __len__(self) -> int:
        return len(self.actual_send_ns)

    def sent_in(self, window: Window) -> Bools:
        """Requests whose actual send lies in the window."""
        return starts_in(self.actual_send_ns, window)

    def gaps_ns(self, chosen: Bools) -> NDArray[np.float64]:
        """Gaps between successive arrivals of tokens within each chosen request, in no order."""
        order = np.lexsort((self.token_ts_ns, self.token_request))
        owner, stamps = self.token_request[order], self.token_ts_ns[order]
        same = (owner[1:] == owner[:-1]) & chosen[owner[1:]]
        gaps: NDArray[np.float64] = (stamps[1:] - stamps[:-1])[same].astype(np.float64)
        return gaps


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


def held(events: NDArray[np.void], gpu: int, source: Source, window: Window) -> tuple[Ints, Ints]:
    """(value, nanoseconds it held) within the window, for a source that is kept when it changes."""
    value, start_ns, end_ns = stretches(events, gpu, source, window)
    return value, end_ns - start_ns


def stretches(events: NDArray[np.void], gpu: int, source: Source, window: Window) -> tuple[Ints, Ints, Ints]:
    """(value, since when, until when it held) within the window, for a source that is kept when it changes.

    A value holds from the end of the call that returned it to the end of the next call that is kept;
    while the source returned an error nothing holds.
    """
    chosen = events[(events["source"] == source) & (events["gpu"] == gpu)]
    chosen = chosen[np.lexsort((chosen["value"], chosen["t0_ns"], chosen["t1_ns"]))]
    starts = np.clip(chosen["t1_ns"].astype(np.int64), window.start_ns, window.end_ns)
    ends = np.append(starts[1:], window.end_ns) if len(starts) else starts
    keep = (ends > starts) & (chosen["nvml_return"] == 0)
    return chosen["value"][keep].astype(np.int64), starts[keep], ends[keep]
