"""Taking in the files of a record as data that anybody may have written: regular files only, and only so much.

Everything here raises `WattcountError` with one line that names the file and what is wrong with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.errors import WattcountError, one_line

JSON_LIMIT_BYTES = 16 << 20
"""Largest `run.json` or `metrics.json` [bytes]; those of eight GPUs and a long architecture have some 200 KiB."""
JSON_DEPTH = 64
"""Deepest nesting of groups and lists in a JSON file; a `config.json` of an architecture has at most ten."""
JSON_VALUES = 500_000
"""Most values in a JSON file."""
TABLE_VALUES = 400_000_000
"""Most values in the columns of a table that is small on the disk: a server of 15,000 tokens a second writes as many in four hours."""
VALUES_PER_BYTE = 24
"""Most values in a larger table [per byte on the disk]: arrivals of tokens have some 7. So a table takes memory in proportion to the
disk that it takes, however long the run was."""
TABLE_COLUMNS = 256
"""Most columns of a table [1]: the widest of ours has 20."""
ALONE_BYTES = 1 << 20
"""Size up to which one thread reads a table [bytes]: to hand parts of a small one to others takes longer than to read it."""
TEXT_BYTES = 256 << 20
"""Most bytes of text in one column of a table: 1,000 for each of a quarter of a million failed requests."""
INT64 = range(-(2**63), 2**63)
"""Whole numbers that a column of 64 bits holds. JSON may have larger ones, which no key of ours needs."""


class DamagedError(WattcountError):
    """A file of a record is not what wattcount writes: cut, changed, of another kind, or missing."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file to be read. Links, pipes, devices and sockets are refused without waiting for them.

    Raises FileNotFoundError where there is nothing, `DamagedError` for whatever else cannot be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = (
            "is a link, which a record must not have"
            if path.is_symlink()
            else f"cannot be read: {error.strerror}"
        )
        raise DamagedError(f"{path} {what}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError(f"{path} is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise DamagedError(f"{path} cannot be read: {error.strerror or one_line(error)}") from error


def read_bytes(path: Path, limit: int = JSON_LIMIT_BYTES) -> bytes:
    """The content of a file of at most `limit` bytes. Raises like `opened`."""
    with opened(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DamagedError(f"{path} is damaged: it has more than {limit >> 20} MiB")
    return content


def parse_json(
    content: bytes, path: Path, group: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """What a JSON text holds. No NaN, no infinity, no integer beyond 64 bits, no nesting beyond `JSON_DEPTH`.

    path    named in the error
    group   makes an object of its keys and values; None: a dict
    """
    try:
        data = json.loads(content, parse_constant=_no_number, object_pairs_hook=group)
    except (ValueError, RecursionError, MemoryError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise DamagedError(f"{path} is damaged: {what}") from error
    if (wrong := _beyond(data)) is not None:
        raise DamagedError(f"{path} is damaged: {wrong}")
    return data


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal. Raises like `opened`."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(path: Path, columns: pa.Schema, may_lack: frozenset[str]) -> pa.Table:
    """A Parquet table with exactly `columns`; others are left out, those in `may_lack` null where they are missing.

    The sizes that the file's footer tells are checked before anything is read. Raises like `opened`.
    """
    with opened(path) as file, _as_damage(path):
        return _table(file, columns, may_lack)


def count_rows(path: Path) -> int:
    """Rows of a Parquet table by its footer. Raises like `opened`."""
    with opened(path) as file, _as_damage(path):
        return int(pq.ParquetFile(file).metadata.num_rows)


@contextlib.contextmanager
def _as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        what = "it needs more memory than there is" if isinstance(error, MemoryError) else one_line(error)
        raise DamagedError(f"{path} is damaged: {what}") from error


def _table(file: io.BufferedReader, columns: pa.Schema, may_lack: frozenset[str]) -> pa.Table:
    """Raises ValueError for a table that is not what it should be."""
    text = [item.name for item in columns if _is_text(item.type)]
    stored = pq.ParquetFile(file, read_dictionary=text, page_checksum_verification=True)
    there = stored.schema_arrow.names
    if len(there) > TABLE_COLUMNS or len(set(there)) != len(there):
        raise ValueError("it has too many columns, or two of one name")
    missing = [item for item in columns if item.name not in there]
    if lost := [item.name for item in missing if item.name not in may_lack]:
        raise ValueError(f"it has no column {', '.join(lost)}")
    wanted = [name for name in columns.names if name in there]
    if (found := _values(stored.metadata, set(wanted))) > max(
        TABLE_VALUES, VALUES_PER_BYTE * _disk_bytes(file)
    ):
        raise ValueError(f"it has {found:,} values, too many for its size")
    table = stored.read(columns=wanted, use_threads=_disk_bytes(file) > ALONE_BYTES)
    for name in text:
        if name in wanted and _text_bytes(table[name]) > TEXT_BYTES:
            raise ValueError(f"the text in its column {name} has more than {TEXT_BYTES >> 20} MiB")
    for item in missing:
        table = table.append_column(item, pa.nulls(len(table), item.type))
    table = table.select(columns.names)
    return table if table.schema.equals(columns) else table.cast(columns)


def _disk_bytes(file: io.BufferedReader) -> int:
    """What a file takes of the disk: holes in it do not count."""
    facts = os.fstat(file.fileno())
    return min(
        facts.st_size, 512 * facts.st_blocks
    )  # st_blocks has this unit on Linux, whatever the file system


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind.value_type if pa.types.is_dictionary(kind) else kind))


def _values(metadata: Any, wanted: set[str]) -> int:
    """How many values the wanted columns have, by the file's footer; those in lists count one by one."""
    total = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if column.path_in_schema.partition(".")[0] in wanted:
                total += max(int(column.num_values), 0)
    return max(total, int(metadata.num_rows))


def _text_bytes(column: pa.ChunkedArray) -> int:
    """Bytes that a column of text has once its dictionary is written out."""
    pc, total = compute(), 0
    for chunk in column.chunks:
        if not pa.types.is_dictionary(chunk.type):
            total += int(pc.sum(pc.binary_length(chunk)).as_py() or 0)
            continue
        counts = pc.value_counts(chunk.indices)
        lengths = pc.binary_length(chunk.dictionary).take(counts.field("values"))
        total += int(pc.sum(pc.multiply(pc.cast(lengths, pa.int64()), counts.field("counts"))).as_py() or 0)
    return total


def compute() -> Any:
    """PyArrow's functions of columns; loading them takes 50 ms of CPU, for which not every command has a use."""
    import pyarrow.compute

    return pyarrow.compute


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _beyond(data: Any) -> str | None:
    """What a parsed JSON text has that no file of ours has; None: nothing. Does not recurse."""
    level, depth, seen = [data], 0, 0
    while level:
        depth += 1
        if depth > JSON_DEPTH:
            return "it is nested too deeply"
        seen += len(level)
        if seen > JSON_VALUES:
            return f"it has more than {JSON_VALUES:,} values"
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float):
                if not math.isfinite(value):
                    return "it has a number beyond all bounds"
            elif isinstance(value, int) and value not in INT64:
                return "it has an integer of more than 64 bits"
        level = below
    return None
