"""The results of a folder of records as one table, which is kept in the folder.

To judge a record, all of it is read. That takes minutes for some thousand records. So TABLE_FILE keeps the rows, with the
size and the time of change of each file of the record, and a record is read again only when a file has changed. TABLE_FILE
may be removed at any time, and need not be writable.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.files import replacing
from wattcount.metrics.metrics_json import METRICS, METRICS_VERSION, Status
from wattcount.metrics.sheet import Finding
from wattcount.records.intake import opened, parse_json
from wattcount.records.reader import RAW_FILES
from wattcount.records.schema import METRICS_JSON, RECORD_SCHEMA_VERSION, RUN_JSON, Evidence
from wattcount.result.result import Result, finding, glance, judge

TABLE_FILE = ".results.parquet"
"""Name of the file, in the folder of records."""
MOST_LOOKS = 500
"""Most records that `ResultTable.glance` reads for the first time: each takes about a millisecond."""

_OF_RECORDS = ("folder", "stamp", "judged")
"""Columns of TABLE_FILE beside those of `to_arrow`."""
_VERSION_KEY = b"wattcount.result"
"""Key of `_version()` in the file's metadata."""
_COLUMNS: Mapping[Any, pa.DataType] = {
    str | None: pa.string(),
    int | None: pa.int64(),
    float | None: pa.float64(),
    str: pa.string(),
    tuple[str, ...]: pa.list_(pa.string()),
    Evidence | None: pa.string(),
    Status: pa.string(),
    Path | None: pa.string(),
}
"""Type of a column by the type of the field. Fields of other types are JSON text; each figure has a column of its own."""


def results(records_dir: Path, *, keep: bool = True) -> list[Result]:
    """All results of a folder of records, the oldest first. Raises nothing: the rows of damaged records say so.

    keep  writes what was found to TABLE_FILE; without it nothing on the disk changes
    """
    table = ResultTable(records_dir)
    found = {folder: row for folder in record_folders(records_dir) if (row := table.of(folder)) is not None}
    if keep:
        table.save(only=found.keys())
    # `<point>/r<repeat>-<run id>`, and a run id begins with its time.
    return [
        found[folder]
        for folder in sorted(found, key=lambda folder: folder.rpartition("/r")[2].partition("-")[2])
    ]


def to_arrow(rows: Sequence[Result]) -> pa.Table:
    """One row a result, one column a field, and one column a figure with its key as name.

    `setting`, `findings` and `null_reasons` are JSON text.
    """
    keys = dict.fromkeys(METRICS) | dict.fromkeys(key for row in rows for key in row.metrics)
    columns = {
        name: pa.array([_plain(getattr(row, name), kind) for row in rows], kind)
        for name, kind in _fields().items()
    }
    for key in keys:
        values = pa.array([row.metrics.get(key) for row in rows])
        columns[key] = values.cast(pa.float64()) if pa.types.is_null(values.type) else values
    return pa.table(columns)


def write_table(rows: Sequence[Result], path: Path) -> None:
    """Writes `to_arrow` as Parquet, whole or not at all. Raises NotStartedError."""
    try:
        with replacing(path) as file:
            pq.write_table(to_arrow([replace(row, source=None) for row in rows]), file, compression="zstd")
    except OSError as error:
        raise NotStartedError(f"{path} cannot be written: {error.strerror or one_line(error)}") from error


def of_arrow(table: pa.Table, sources: Sequence[Path | None]) -> list[Result]:
    """The inverse of `to_arrow`. `sources`: where each row was read from, which the table does not tell.

    Raises TypeError, ValueError or KeyError for a table that `to_arrow` cannot have made.
    """
    _check_types(table.schema)
    columns = {
        name: column.to_pylist() for name, column in zip(table.schema.names, table.columns, strict=True)
    }
    names = list(_fields())
    figures = {key: columns[key] for key in columns if key not in names}
    return [
        _result(
            {name: columns[name][at] for name in names},
            {key: values[at] for key, values in figures.items()},
            source,
        )
        for at, source in enumerate(sources)
    ]


@dataclass(frozen=True)
class _Row:
    """A result, and the state of the files that it was made of. `result` None: the record is whole, and not judged yet."""

    stamp: str
    result: Result | None


class ResultTable:
    """The results of a folder of records, by the record's folder in it. Each is read once while its files stay the same."""

    def __init__(self, records_dir: Path) -> None:
        self._records_dir = records_dir
        self._rows = _load(records_dir)
        self._on_disk = set(self._rows)
        self._changed = False
        self._looks = 0

    def of(self, folder: str) -> Result | None:
        """The result of a record, judged where it must be. None: there is no record."""
        stamp = _stamp(f"{self._records_dir}/{folder}")
        if stamp is None:
            return None
        row = self._rows.get(folder)
        if row is None or row.stamp != stamp or row.result is None:
            row = self._keep(folder, stamp, judge(self._records_dir / folder))
        return row.result

    def glance(self, folder: str) -> Result | None:
        """As `of`, without computing metrics. None, too, where they would have to be computed.

        MOST_LOOKS records that were not looked at before are read; for any further ones the answer is None.
        """
        stamp = _stamp(f"{self._records_dir}/{folder}")
        row = self._rows.get(folder)
        if stamp is None or (row is not None and row.stamp == stamp):
            return None if stamp is None or row is None else row.result
        if self._looks >= MOST_LOOKS:
            return None
        self._looks += 1
        return self._keep(folder, stamp, glance(self._records_dir / folder)).result

    def save(self, only: Iterable[str] | None = None) -> None:
        """Writes what was found; `only`: only these folders stay in the table. A table that cannot be written is left out."""
        kept = {
            folder: self._rows[folder]
            for folder in (self._rows if only is None else only)
            if folder == _utf8(folder)
        }
        if not self._changed and kept.keys() == self._on_disk:
            return
        rows = [row.result or Result() for row in kept.values()]
        table = to_arrow([replace(row, source=None) for row in rows])
        table = table.append_column("folder", pa.array(list(kept), pa.string()))
        table = table.append_column("stamp", pa.array([row.stamp for row in kept.values()], pa.string()))
        table = table.append_column("judged", pa.array([row.result is not None for row in kept.values()]))
        table = table.replace_schema_metadata({_VERSION_KEY: _version()})
        with contextlib.suppress(OSError), replacing(self._records_dir / TABLE_FILE) as file:
            pq.write_table(table, file, compression="zstd")

    def _keep(self, folder: str, stamp: str, result: Result | None) -> _Row:
        self._rows[folder] = row = _Row(stamp, result)
        self._changed = True
        return row


def _version() -> str:
    """Version of what a row is made of: rows of another version are made anew. A new check of validity raises METRICS_VERSION."""
    from wattcount import __version__  # looking it up takes 40 ms, for which not every command has a use

    return f"2 {__version__} {RECORD_SCHEMA_VERSION} {METRICS_VERSION}"


def _load(records_dir: Path) -> dict[str, _Row]:
    """What was kept. Nothing of a file that is damaged or of another version."""
    try:
        with opened(records_dir / TABLE_FILE) as file, pq.ParquetFile(file) as stored:
            if (stored.schema_arrow.metadata or {}).get(_VERSION_KEY) != _version().encode():
                return {}
            table = stored.read()
        folders, stamps, judged = (table[name].to_pylist() for name in _OF_RECORDS)
        known = table.drop_columns(list(_OF_RECORDS)).filter(table["judged"])
        made = iter(
            of_arrow(
                known,
                [records_dir / folder for folder, is_known in zip(folders, judged, strict=True) if is_known],
            )
        )
        return {
            folder: _Row(stamp, next(made) if is_known else None)
            for folder, stamp, is_known in zip(folders, stamps, judged, strict=True)
        }
    except (OSError, WattcountError, pa.ArrowException, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check_types(schema: pa.Schema) -> None:
    """Raises TypeError for columns of other types than `to_arrow` makes."""
    kinds = _fields()
    for name, kind in zip(schema.names, schema.types, strict=True):
        if kind not in ([kinds[name]] if name in kinds else [pa.float64(), pa.int64()]):
            raise TypeError(f"{name} is {kind}")


def _result(columns: Mapping[str, Any], figures: Mapping[str, float | None], source: Path | None) -> Result:
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in columns.items()}
    for name, kind in _fields().items():
        if pa.types.is_list(kind) and None in (values[name], *(values[name] or ())):
            raise TypeError(f"{name} is null")
    reasons = _parsed(columns["null_reasons"])
    values |= {
        "source": source,
        "status": Status(columns["status"]),
        "evidence": None if columns["evidence"] is None else Evidence(columns["evidence"]),
        "findings": _findings(columns["findings"]),
        "null_reasons": reasons,
        "setting": _parsed(columns["setting"]),
        # Another record may have what this one does not: the energy of an eighth GPU.
        "metrics": {key: value for key, value in figures.items() if value is not None or key in reasons},
    }
    return Result(**values)


@cache
def _parsed(text: str) -> dict[str, Any]:
    """Repeats have one setting, and most runs lack the same figures for the same reasons."""
    found = parse_json(text.encode(), Path(TABLE_FILE))
    if not isinstance(found, dict):
        raise TypeError(f"a group of keys is {text[:100]}")
    return found


@cache
def _findings(text: str) -> tuple[Finding, ...]:
    found = tuple(map(finding, parse_json(text.encode(), Path(TABLE_FILE))))
    for item in found:
        if not all(isinstance(part, str) for part in (item.code, item.unit, item.message)):
            raise TypeError(f"a finding is {text[:100]}")
        item.to_json()  # raises for a figure that is no number
    return found


@cache
def _fields() -> dict[str, pa.DataType]:
    hints = get_type_hints(Result)
    return {
        item.name: _COLUMNS.get(hints[item.name], pa.string())
        for item in fields(Result)
        if item.name != "metrics"
    }


def _plain(value: Any, kind: pa.DataType) -> Any:
    if isinstance(value, Evidence | Status):
        return value.value
    if isinstance(value, str):
        return _utf8(value)
    if pa.types.is_list(kind):
        return [_utf8(line) for line in value]
    if not pa.types.is_string(kind) or value is None:
        return value
    if isinstance(value, tuple):
        return json.dumps([found.to_json() for found in value])
    return json.dumps(dict(value)) if isinstance(value, Mapping) else _utf8(str(value))


def _utf8(text: str) -> str:
    """`text` with `?` for what UTF-8 cannot express: halves of characters in JSON, bytes in names of files."""
    return text.encode(errors="replace").decode()


def record_folders(records_dir: Path) -> Iterator[str]:
    """`<point>/r<repeat>-<run id>` of each record."""
    with contextlib.suppress(OSError), os.scandir(records_dir) as points:
        for point in points:
            if point.name.startswith(".") or not point.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), os.scandir(point.path) as runs:
                yield from (f"{point.name}/{run.name}" for run in runs if run.name.startswith("r"))


def _stamp(path: str) -> str | None:
    """Name, size in bytes and time of change in nanoseconds of each file that a result rests on; None without `run.json`."""
    found = []
    for name in (RUN_JSON, METRICS_JSON, *RAW_FILES):
        try:
            facts = os.lstat(f"{path}/{name}")
        except OSError:
            if name == RUN_JSON:
                return None
            continue
        size = facts.st_size if stat.S_ISREG(facts.st_mode) else -1
        found.append(f"{name} {size} {facts.st_mtime_ns}")
    return " ".join(found)
