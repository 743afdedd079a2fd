"""What a run measures, kept on disk while it runs: one Arrow IPC stream a table.

A stream can be read up to its last whole batch whatever became of its writer, so a run that is killed
leaves everything up to its last `append` (`sync`, where the machine itself goes down).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wattcount.energy.events import EVENT_DTYPE
from wattcount.energy.rapl import HostReading
from wattcount.records.schema import (
    HOST_POWER_SCHEMA,
    HOST_SCHEMA,
    REQUESTS_SCHEMA,
    STEPS_SCHEMA,
    TOKEN_COLUMNS,
)

POWER = "power"
"""Name of the stream of NVML's events."""
REQUESTS = "requests"
"""Name of the stream of requests."""
STEPS = "steps"
"""Name of the stream of the engine's steps."""
HOST_POWER = "host_power"
"""Name of the stream of RAPL's reads."""
HOST = "host"
"""Name of the stream of what the host did."""

_EVENT_FIELDS = tuple(str(name) for name in EVENT_DTYPE.names or ())
"""Names of an event's fields, in the order of the sampler's own layout."""
_EVENT_SCHEMA = pa.schema([(name, pa.from_numpy_dtype(EVENT_DTYPE[name])) for name in _EVENT_FIELDS])
"""The columns of the stream of events: the same fields, so that no event is converted while a run goes on."""
_GPUS_KEY = b"gpu_uuids"
"""Key of the schema's metadata: UUIDs of the GPUs, by the index that an event has."""
_OPTIONAL = {HOST_POWER: HOST_POWER_SCHEMA, HOST: HOST_SCHEMA}
"""Streams that there are only once something was appended."""


class RequestRow(Protocol):
    """A request as the load generator keeps it: the columns of `REQUESTS_SCHEMA` as attributes."""

    @property
    def token_ts_ns(self) -> list[int]: ...
    @property
    def token_count(self) -> list[int]: ...


class StepRow(Protocol):
    """An engine step: the columns of `STEPS_SCHEMA` as attributes."""

    @property
    def logged_ns(self) -> int: ...


class HostRow(Protocol):
    """A sample of the host: the columns of `HOST_SCHEMA` as attributes."""

    @property
    def t_ns(self) -> int: ...


class Stream:
    """One append-only Arrow IPC stream in a file. After a failed write it is closed: a torn batch stays last."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file: BinaryIO | None = path.open("xb")
        self._writer = pa.ipc.new_stream(pa.PythonFile(self._file, mode="w"), schema)
        self._file.flush()

    def append(self, batch: pa.RecordBatch) -> None:
        """Raises OSError if the disk is full or gone."""
        if self._file is None:
            raise OSError("the spool was closed by an earlier error")
        try:
            self._writer.write_batch(batch)
            self._file.flush()
        except OSError:
            self._abandon()
            raise

    def sync(self) -> None:
        """To the disk itself; takes as long as the disk takes."""
        file = self._file
        if file is not None:
            with contextlib.suppress(ValueError):  # closed meanwhile, by an error that is told elsewhere
                os.fsync(file.fileno())

    def close(self) -> None:
        """May be called more than once."""
        if self._file is None:
            return
        try:
            self._writer.close()
            self._file.close()
        except OSError:
            self._abandon()
            raise
        self._file = None

    def _abandon(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                # The raw file: closing the buffered one would try once more to write what cannot be written.
                file.raw.close()  # type: ignore[attr-defined]


def read_stream(path: Path) -> Iterator[pa.RecordBatch]:
    """The whole batches of a stream; a torn last one is passed over, a missing or empty file has none."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        try:
            reader = pa.ipc.open_stream(file)
            while True:
                yield reader.read_next_batch()
        except (StopIteration, pa.ArrowInvalid, OSError, EOFError):
            return


class Spool:
    """The streams of one run in `folder`.

    `gpu_uuids`: what the events' `gpu` indexes.
    """

    def __init__(self, folder: Path, gpu_uuids: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        power = _EVENT_SCHEMA.with_metadata({_GPUS_KEY: "\n".join(gpu_uuids).encode()})
        self._streams = {
            POWER: Stream(_path(folder, POWER), power),
            REQUESTS: Stream(_path(folder, REQUESTS), REQUESTS_SCHEMA),
            STEPS: Stream(_path(folder, STEPS), STEPS_SCHEMA),
        }

    def append_power(self, events: NDArray[np.void]) -> None:
        """`events`: EVENT_DTYPE[n]."""
        if len(events):
            columns = [pa.array(np.ascontiguousarray(events[name])) for name in _EVENT_FIELDS]
            self._streams[POWER].append(pa.RecordBatch.from_arrays(columns, schema=_EVENT_SCHEMA))

    def append_requests(self, rows: Sequence[RequestRow], first_chunks: Sequence[int]) -> None:
        """The rows as they stand; of the token lists only what comes from `first_chunks` on.

        A later row of the same request replaces an earlier one but for its token lists, which it continues.
        """
        if rows:
            self._streams[REQUESTS].append(_requests_batch(rows, first_chunks))

    def append_steps(self, steps: Sequence[StepRow]) -> None:
        self._append(STEPS, steps, STEPS_SCHEMA)

    def append_host_power(self, readings: Sequence[HostReading]) -> None:
        self._append(HOST_POWER, readings, _plain(HOST_POWER_SCHEMA))

    def append_host(self, samples: Sequence[HostRow]) -> None:
        self._append(HOST, samples, _plain(HOST_SCHEMA))

    def _append(self, name: str, rows: Sequence[Any], schema: pa.Schema) -> None:
        """Rows with the columns of `schema` as attributes. A stream of `_OPTIONAL` begins with its first row."""
        if not rows:
            return
        if name not in self._streams:
            self._streams[name] = Stream(_path(self._folder, name), schema)
        columns = [pa.array([getattr(row, item.name) for row in rows], item.type) for item in schema]
        self._streams[name].append(pa.RecordBatch.from_arrays(columns, schema=schema))

    def sync(self) -> None:
        for stream in list(self._streams.values()):  # in a thread: another stream may come meanwhile
            stream.sync()

    def close(self) -> None:
        with contextlib.ExitStack() as all_of_them:
            for stream in self._streams.values():
                all_of_them.callback(stream.close)


def power_events(folder: Path) -> tuple[tuple[str, ...], Iterator[NDArray[np.void]]]:
    """GPU UUIDs and the spooled events, batch by batch."""
    path = _path(folder, POWER)
    uuids: tuple[str, ...] = ()
    try:
        with path.open("rb") as file:
            metadata = pa.ipc.open_stream(file).schema.metadata or {}
        uuids = tuple(metadata.get(_GPUS_KEY, b"").decode().split("\n"))
    except (OSError, pa.ArrowInvalid, EOFError):
        return (), iter(())
    return tuple(uuid for uuid in uuids if uuid), (_events(batch) for batch in read_stream(path))


def steps_table(folder: Path) -> pa.Table:
    return pa.Table.from_batches(read_stream(_path(folder, STEPS)), STEPS_SCHEMA)


def optional_table(folder: Path, name: str) -> pa.Table:
    """The table of HOST_POWER or HOST, as far as it was written."""
    schema = _OPTIONAL[name]
    return pa.Table.from_batches(read_stream(_path(folder, name)), _plain(schema)).cast(schema)


def requests_table(folder: Path) -> pa.Table:
    """One row a request, its pieces put together, in the order of first appearance."""
    pieces = pa.Table.from_batches(read_stream(_path(folder, REQUESTS)), REQUESTS_SCHEMA).combine_chunks()
    if not len(pieces):
        return pieces
    codes = pieces["request_id"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    count = int(codes.max()) + 1
    last = np.zeros(count, np.int64)
    last[codes] = np.arange(len(codes))  # of several pieces the last one stays
    table = pieces.take(last)
    order = np.argsort(codes, kind="stable")
    in_order = pieces.select(list(TOKEN_COLUMNS)).take(order)
    for name in TOKEN_COLUMNS:
        column = in_order[name].combine_chunks()
        lengths = np.bincount(codes[order], weights=column.value_lengths().to_numpy(), minlength=count)
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
        joined = pa.ListArray.from_arrays(pa.array(offsets), column.flatten())
        index = REQUESTS_SCHEMA.get_field_index(name)
        table = table.set_column(index, REQUESTS_SCHEMA.field(index), joined)
    return table


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema with text in place of dictionaries: a dictionary that changes from batch to batch would need a file format, which a torn file is not."""
    return pa.schema(
        [item.with_type(pa.string()) if pa.types.is_dictionary(item.type) else item for item in schema]
    )


def _path(folder: Path, name: str) -> Path:
    return folder / f"{name}.arrows"


def _events(batch: pa.RecordBatch) -> NDArray[np.void]:
    events = np.empty(batch.num_rows, EVENT_DTYPE)
    for name in _EVENT_FIELDS:
        events[name] = batch.column(name).to_numpy()
    return events


def _requests_batch(rows: Sequence[RequestRow], first_chunks: Sequence[int]) -> pa.RecordBatch:
    lengths = [len(row.token_ts_ns) - first for row, first in zip(rows, first_chunks, strict=True)]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    columns: list[Any] = []
    for item in REQUESTS_SCHEMA:
        if item.name in TOKEN_COLUMNS:
            values = np.fromiter(
                _chained(rows, first_chunks, item.name), np.dtype(str(item.type.value_type)), int(offsets[-1])
            )
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)))
        else:
            columns.append(pa.array([getattr(row, item.name) for row in rows], item.type))
    return pa.RecordBatch.from_arrays(columns, schema=REQUESTS_SCHEMA)


def _chained(rows: Sequence[RequestRow], first_chunks: Sequence[int], name: str) -> Iterable[int]:
    for row, first in zip(rows, first_chunks, strict=True):
        yield from getattr(row, name)[first:]
