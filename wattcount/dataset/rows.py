"""The rows of a data set's Parquet files: a result each, flat, with the same columns of the same types in every file.

pandas, DuckDB and polars read them without wattcount, so names have no sign that SQL must quote: `energy/gpu_j` is
`energy_gpu_j`. A figure is in the unit at the end of its name, and its 95 % uncertainty is `<figure>_u95`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.errors import WattcountError, one_line
from wattcount.metrics.metrics_json import IMPORTED, METRICS, spec
from wattcount.result import Result
from wattcount.result.result import SHARES_ITS_INTERVAL
from wattcount.result.table import of_arrow, to_arrow

ROWS_VERSION = 1
"""Version of the columns. A later version may add some, and never changes what one means."""
ID, SUBMISSION, DECISION, LICENCE, COHORT, RECORD, RECORD_SHA256 = (
    "result_id",
    "submission",
    "decision",
    "licence",
    "cohort",
    "record",
    "record_sha256",
)
BY_GPU = "energy_by_gpu_j"
"""Column of the energy of each GPU of the run [J]: a list, as runs have one to many."""
_BY_GPU_KEY = "energy_by_gpu/gpu{}_j"
_PRIVATE = ("source", "log_line", "planned_point")
"""Fields of a result that only the machine that measured has a use for."""
_RENAMED = {"by": "measured_by"}
"""Fields whose name SQL keeps for itself, and what their column is called."""
_TEXTS = ("setting", "findings", "null_reasons", "messages", "notes")
"""Fields that are text or JSON for those who want to know all: the last columns."""

OF_THE_DATASET: Mapping[str, str] = {
    ID: "name of the row, unique in the data set, that never changes",
    SUBMISSION: "the submission that it came with: `submissions/<id>.json`",
    DECISION: "of the submission: `accepted` or `flagged` by the validator, `imported`: a source's own figures",
    LICENCE: "SPDX identifier of the licence of the row and its record",
    COHORT: "the cohort whose seeds the run used; null: none",
    RECORD: "where the record lies, relative to the data set or a URL; `#`: the folder within a bundle; null: there is no record",
    RECORD_SHA256: "SHA-256 over the record's files, see docs/dataset_format.md",
}
"""The columns beside those of a result, and what they are."""

FACTS: Mapping[str, str] = {
    "run_id": "the run's own id, as its record or its source has it",
    "seed": "seed of the run",
    "repeat": "number of the run among those of its point; with the seed it gives the load",
    "point_id": "hash of the whole configuration",
    "setting_key": "hash of what runs must share to be pooled; null: not comparable with others",
    "model": "model, or its option in wattcount",
    "weights": "`hub` or `path` (real), `random`",
    "gpu": "the GPU's option in wattcount",
    "scenario": "the scenario's option in wattcount, or what the source calls the load",
    "kind": "`batch`, `server`, or what an imported source calls it",
    "num_requests": "requests of a batch",
    "rate_rps": "offered load of a server [requests/s]",
    "input_tokens": "asked for in each request; null: they differ",
    "output_tokens": "asked for of each request; null: they differ",
    "window_s": "length of the window that the figures describe [s]",
    "levers": "what an operator turned, in words",
    "particulars": "what else is not as usual, in words",
    "engine": "what served",
    "engine_version": "its version",
    "gpus": "names of the GPUs, one for each",
    "boards": "pseudonyms of the boards, one for each GPU: the same board has the same one within its submitter's records",
    "driver": "version of the GPUs' driver",
    "found_name": "name of the GPU as the driver told it",
    "device": "`cuda`, `cpu`, ...",
    "version_minor": "the engine's version as far as it is part of the point",
    "fingerprints": "of the files that are part of the point: weights, arrivals, lengths",
    "evidence": "`measured`, `emulated`, `predicted`",
    "origin": "`wattcount`, or where the result was imported from",
    "instrument": "what measured the energy: `nvml`, `wall`, `rapl`, ...",
    "measured_by": "who submitted it, or who is said to have measured it",
    "host": "pseudonym of the host",
    "started_utc": "when the run began [ISO 8601]",
    "wattcount_version": "that measured",
    "metrics_version": "version of the figures' definitions",
    "status": "`valid`, or `invalid`, `failed`: then it stands for nothing",
    "reasons": "codes of why it is not valid",
    "energy_basis": "what the energy rests on",
    "wall_s": "length of the whole run [s]",
    "run_energy_j": "about the energy of the whole run [J]",
    "session": "run id of the first run on the same start of the engine",
    "setting": "JSON: what `setting_key` is the hash of",
    "findings": "JSON: what the figures were held against, and what was found",
    "null_reasons": "JSON: by key of a figure, why it is null",
    "messages": "a line for each reason",
    "notes": "lines that a reader should know of and that spoil nothing",
}
"""The columns that describe a result, and what they are."""


@dataclass(frozen=True)
class About:
    """What the data set knows of a result beside what it says itself: the columns of OF_THE_DATASET."""

    result_id: str
    submission: str
    decision: str
    licence: str
    cohort: str | None = None
    record: str | None = None
    record_sha256: str | None = None


class RowsError(WattcountError):
    """A file is not what a data set's results look like."""


def column_of(key: str) -> str:
    """Name of the column of a figure."""
    return key.replace("/", "_")


def u95_keys() -> list[str]:
    """Figures whose uncertainty is that of the energy: they have a column of it, as results without one can tell it."""
    return [key for key in METRICS if key.startswith(SHARES_ITS_INTERVAL)]


@cache
def columns() -> dict[str, str]:
    """By the name of a column of figures its key, in the order of the file; `<key>_u95` for those of `u95_keys`."""
    keys: list[str] = []
    for key in (*METRICS, *IMPORTED):
        keys.append(key)
        if key in u95_keys():
            keys.append(f"{key}_u95")
    return {column_of(key): key for key in dict.fromkeys(keys)}


@cache
def schema() -> pa.Schema:
    """The columns of every file."""
    fields = {item.name: item.type for item in to_arrow([]).schema if item.name not in _figures()}
    facts = [name for name in fields if name not in (*_PRIVATE, *_TEXTS)]
    found = [(name, pa.string()) for name in OF_THE_DATASET]
    found += [(_RENAMED.get(name, name), fields[name]) for name in facts]
    found += [(name, pa.float64()) for name in columns()]
    found += [(BY_GPU, pa.list_(pa.float64()))]
    found += [(name, fields[name]) for name in _TEXTS]
    return pa.schema(found, metadata={b"wattcount.dataset.rows": str(ROWS_VERSION).encode()})


@cache
def describe() -> dict[str, tuple[str, str]]:
    """By column its unit and what it is."""
    found = {name: ("", text) for name, text in OF_THE_DATASET.items()}
    for name in schema().names:
        if name in found:
            continue
        key = columns().get(name)
        if key is None:
            found[name] = ("", FACTS.get(name, ""))
        elif key in METRICS or key in IMPORTED:
            found[name] = (spec(key).unit, spec(key).description)
        else:
            base = key.removesuffix("_u95")
            found[name] = (spec(base).unit, f"95 % uncertainty of {column_of(base)}, by method and sensor")
    found[BY_GPU] = ("J", "energy of each GPU over the window")
    return found


def to_table(results: Sequence[Result], about: Sequence[About]) -> pa.Table:
    """The rows of results. A figure that has no column is left out: there is none that `metrics.json` knows."""
    plain = _renamed(to_arrow([replace(result, source=None) for result in results]), _RENAMED)
    made: dict[str, pa.Array] = {
        name: pa.array([getattr(item, name) for item in about], pa.string()) for name in OF_THE_DATASET
    }
    for name in schema().names:
        if name in made:
            continue
        kind = schema().field(name).type
        if name == BY_GPU:
            values: Any = [_by_gpu(result) for result in results]
        elif (key := columns().get(name)) is None:
            made[name] = plain[name].combine_chunks()
            continue
        elif key in METRICS or key in IMPORTED:
            values = [_number(result.value(key)) for result in results]
        else:
            values = [_number(result.u95(key.removesuffix("_u95"))) for result in results]
        made[name] = pa.array(values, kind)
    return pa.table(made, schema=schema())


def to_results(table: pa.Table) -> list[Result]:
    """The inverse of `to_table`: results without `source`. Raises RowsError for a table of other columns."""
    try:
        table = conformed(table)
        figures = {key: table[name].to_pylist() for name, key in columns().items() if key in _figures()}
        by_gpu = table[BY_GPU].to_pylist()
        empty = to_arrow([]).schema
        table = _renamed(table, {column: name for name, column in _RENAMED.items()})
        plain = {
            item.name: pa.nulls(len(table), item.type) if item.name in _PRIVATE else table[item.name]
            for item in empty
            if item.name not in _figures()
        }
        found = of_arrow(pa.table(plain), [None] * len(table))
    except (pa.ArrowException, WattcountError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RowsError(f"rows of results are damaged: {one_line(error)}") from error
    results = []
    for at, result in enumerate(found):
        metrics = {
            key: values[at]
            for key, values in figures.items()
            if values[at] is not None or key in result.null_reasons
        }
        metrics |= {_BY_GPU_KEY.format(number): value for number, value in enumerate(by_gpu[at] or ())}
        results.append(replace(result, metrics=metrics))
    return results


def conformed(table: pa.Table) -> pa.Table:
    """The table with exactly the columns of `schema`: those that an older version lacks are null. Raises RowsError."""
    try:
        there = set(table.schema.names)
        made = [
            table[item.name].cast(item.type) if item.name in there else pa.nulls(len(table), item.type)
            for item in schema()
        ]
        return pa.table(made, schema=schema())
    except pa.ArrowException as error:
        raise RowsError(f"rows of results are damaged: {one_line(error)}") from error


def write(table: pa.Table, target: Path | pa.BufferOutputStream) -> None:
    """A Parquet file whose bytes depend on the rows and on PyArrow's version alone."""
    pq.write_table(table, target, compression="zstd", row_group_size=1 << 16, store_schema=False)


def to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    write(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def read(path: Path, wanted: Iterable[str] | None = None) -> pa.Table:
    """The rows of a file; `wanted`: only these columns. Raises RowsError."""
    try:
        with pq.ParquetFile(path) as file:
            names = None if wanted is None else [n for n in wanted if n in file.schema_arrow.names]
            return file.read(columns=names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RowsError(f"{path} cannot be read: {one_line(error)}") from error


@cache
def _figures() -> frozenset[str]:
    return frozenset((*METRICS, *IMPORTED))


def _renamed(table: pa.Table, names: Mapping[str, str]) -> pa.Table:
    return table.rename_columns([names.get(name, name) for name in table.schema.names])


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _by_gpu(result: Result) -> list[float | None] | None:
    values: list[float | None] = []
    while (key := _BY_GPU_KEY.format(len(values))) in result.metrics:
        values.append(_number(result.metrics[key]))
    return values or None
