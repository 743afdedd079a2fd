"""How the tables of a record lie in its files: as differences, times in whole microseconds.

From row to row most numbers differ by little, in the same few ways. So a file holds their differences (`Form`), cut into planes of bytes
that Zstandard makes small: 0.4 bytes for when a token came, where the time as such takes 2.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wattcount.files import replacing
from wattcount.records import schema
from wattcount.records.schema import FileFacts

ROW_GROUP = 1 << 20
"""Rows of a Parquet row group: a table that comes in parts takes memory for one."""
COMPRESSION_LEVEL = 19
"""Zstandard's level: a fifth smaller than its default of 3 [bytes]; a second of CPU for a million tokens."""


@dataclass(frozen=True)
class Form:
    """How a column lies in the file: in whole `unit`s, less another value.

    name    of the column in the file
    less    the column whose value in the same row is taken off; None: its own value in the row before that is not null
    """

    name: str
    less: str | None
    unit: int | float


US_NS = 1000
"""Unit of stored times [ns]: a client's event loop takes some 9 us a token, so its stamps say no more. Rounding downwards, the
bounds of the phases too, leaves what came before what."""

_DIFFERENCES = (
    "source_ts_us",
    "request",
    *(f"{name}_ms" for name in ("user", "system", "idle", "iowait", "steal")),
    *(f"pressure_{name}_us" for name in ("cpu", "memory", "io")),
    "throttled_us",
)
"""Numbers that grow."""
_AS_THEY_ARE = ("spin_ns", "spin_cpu_ns", "cpu_ns", "wait_ns")
"""Lengths of time, of which a microsecond may be much, and counters of several processes in turn."""
_FORMS = {
    "t1_ns": Form("t1_less_t0_us", "t0_ns", US_NS),
    "prev_t0_ns": Form("prev_t0_less_t0_us", "t0_ns", US_NS),
    "kv_cache_usage": Form("kv_cache_ppm_difference", None, 1e-6),
    **{name: Form(f"{name}_difference", None, 1) for name in _DIFFERENCES},
}
"""Columns that lie in their files in another form, by name: as a difference to another column or to the row before, which packs
smaller."""


def form(name: str) -> Form | None:
    """None: the column lies there as it is."""
    if name in _FORMS or name in _AS_THEY_ARE or not name.endswith("_ns"):
        return _FORMS.get(name)
    return Form(f"{name.removesuffix('_ns')}_us_difference", None, US_NS)


def stored_schema(columns: pa.Schema) -> pa.Schema:
    """The columns of the file whose table has `columns`."""
    return pa.schema(
        [pa.field(how.name, pa.int64()) if (how := form(item.name)) else item for item in columns]
    )


def whole_us(t_ns: int | None) -> int | None:
    """A time [ns] as a file of the record has it."""
    return None if t_ns is None else t_ns // US_NS * US_NS


class Packer:
    """Tables as they lie in a file, one after the other."""

    def __init__(self, columns: pa.Schema) -> None:
        self._columns = columns
        self._last: dict[str, int] = {}

    def pack(self, table: pa.Table) -> pa.Table:
        packed = []
        for item in self._columns:
            column, how = table[item.name].combine_chunks(), form(item.name)
            if how is not None:
                known, whole = _known(column), _whole(column, how.unit)
                if how.less is not None:
                    whole = whole - _whole(table[how.less].combine_chunks(), how.unit)
                else:
                    values = whole[known]
                    whole[known] = np.diff(values, prepend=self._last.get(item.name, 0))
                    if len(values):
                        self._last[item.name] = int(values[-1])
                column = pa.array(whole, mask=~known)
            packed.append(column)
        return pa.table(packed, schema=stored_schema(self._columns))


def unpacked(table: pa.Table, columns: pa.Schema) -> pa.Table:
    """The inverse of `Packer.pack`, of all rows of a file: a table with `columns`."""

    def whole(how: Form) -> NDArray[np.int64]:
        values = _values(table[how.name].combine_chunks())
        less = form(how.less) if how.less is not None else None
        return np.asarray(np.cumsum(values) if less is None else values + whole(less))

    plain = []
    for item in columns:
        how = form(item.name)
        if how is None:
            plain.append(table[item.name])
        else:
            values = whole(how) * how.unit
            plain.append(pa.array(values, mask=~_known(table[how.name].combine_chunks())).cast(item.type))
    return pa.table(plain, schema=columns)


def split(requests: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A table of `REQUESTS_SCHEMA` as `requests.parquet` and `tokens.parquet` hold it."""
    stamps, counts = (requests[name].combine_chunks() for name in schema.TOKEN_COLUMNS)
    arrivals, owners = stamps.flatten(), stamps.value_parent_indices()
    order = np.argsort(arrivals.to_numpy(), kind="stable")
    tokens = pa.table([arrivals, owners.cast(pa.int32()), counts.flatten()], schema=schema.TOKENS_SCHEMA)
    return requests.drop_columns(list(schema.TOKEN_COLUMNS)), tokens.take(order)


def joined(requests: pa.Table, tokens: pa.Table) -> pa.Table:
    """The inverse of `split`. Raises ValueError for tokens of a request that there is not."""
    owners = tokens["request"].to_numpy()
    if len(owners) and not (owners.min() >= 0 and owners.max() < len(requests)):
        raise ValueError("it has tokens of a request that there is not")
    tokens = tokens.take(np.argsort(owners, kind="stable"))
    offsets = pa.array(np.append(0, np.cumsum(np.bincount(owners, minlength=len(requests)))), pa.int32())
    for name, source in zip(schema.TOKEN_COLUMNS, ("arrival_ns", "tokens"), strict=True):
        where = schema.REQUESTS_SCHEMA.get_field_index(name)
        values = pa.ListArray.from_arrays(offsets, tokens[source].combine_chunks())
        requests = requests.add_column(where, schema.REQUESTS_SCHEMA.field(where), values)
    return requests


def write(path: Path, columns: pa.Schema, tables: Iterable[pa.Table]) -> FileFacts:
    """A file of the record: packed, compressed, a checksum a page. Raises OSError."""
    rows, packer, stored = 0, Packer(columns), stored_schema(columns)
    with replacing(path) as file, pq.ParquetWriter(file, stored, **_parquet_options(stored)) as writer:
        for table in tables:
            writer.write_table(packer.pack(table.cast(columns)), row_group_size=ROW_GROUP)
            rows += len(table)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileFacts(bytes=path.stat().st_size, rows=rows, sha256=digest)


def _values(column: pa.Array) -> NDArray[Any]:
    """Null is 0."""
    return np.asarray(column.fill_null(0).to_numpy())


def _known(column: pa.Array) -> NDArray[np.bool_]:
    """Neither null nor NaN."""
    known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
    return (
        known & np.isfinite(column.to_numpy(zero_copy_only=False))
        if pa.types.is_floating(column.type)
        else known
    )


def _whole(column: pa.Array, unit: int | float) -> NDArray[np.int64]:
    """Whole units, downwards; parts of one are rounded. Null is 0."""
    values = _values(column)
    whole = (
        values.astype(np.int64) // unit if isinstance(unit, int) else np.round(np.nan_to_num(values / unit))
    )
    return np.asarray(whole, np.int64)


def _parquet_options(stored: pa.Schema) -> dict[str, Any]:
    """Text by its dictionary, but names that are all different; integers in planes of bytes; no statistics, which differences
    have no use for."""
    return {
        "compression": "zstd",
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": [item.name for item in stored if pa.types.is_dictionary(item.type)],
        "column_encoding": {
            item.name: "BYTE_STREAM_SPLIT" for item in stored if pa.types.is_integer(item.type)
        },
        "write_statistics": False,
        "write_page_checksum": True,
        "store_schema": False,
    }
