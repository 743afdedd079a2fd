"""Results that are named on a command line: a data set, records, a table, or what others wrote. Scores of models, and the bounds of a good request."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount import importers
from wattcount.cli.records import find_records
from wattcount.config.schema import SloConfig
from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.records import Record
from wattcount.records.intake import opened
from wattcount.result import Result, results
from wattcount.result.table import of_arrow
from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.simulation.measured import SeenRun
    from wattcount.study.quality import Score

PARQUET = b"PAR1"
"""What a Parquet file begins with."""
VERSIONS = "versions"
"""Folder by which a data set is known from a folder of records."""


def results_of(sources: Iterable[str | Path]) -> list[Result]:
    """The results of all of `sources`, in their order. Raises NotStartedError where one has none."""
    found: list[Result] = []
    for source in sources:
        mine = _of(str(source))
        if not mine:
            raise NotStartedError(
                f"{source} has no result; give a data set, a folder of records, or a table of results"
            )
        found += mine
    return found


def _of(source: str) -> list[Result]:
    path = Path(source)
    if "://" in source or (path / VERSIONS).is_dir():
        from wattcount.dataset.store import Dataset

        return Dataset.open(source).results()
    if path.is_file() and _begins(path) == PARQUET:
        return _of_parquet(path)
    if importers.recognises(path):
        return list(importers.read(path))
    # The table of a folder of records is kept in it: only what changed is read again.
    if path.is_dir() and (mine := results(path)):
        return mine
    return find_records([source]).each(lambda record: Result.of(Record.open(record)))


def is_table(source: str | Path) -> bool:
    """Whether it is a file with results, as `predict` and `simulate` write them, or a data set: no record and no folder of them."""
    path = Path(source)
    return "://" in str(source) or (path / VERSIONS).is_dir() or (path.is_file() and _begins(path) == PARQUET)


def _begins(path: Path) -> bytes:
    try:
        with opened(path) as file:
            return bytes(file.read(len(PARQUET)))
    except (OSError, WattcountError) as error:
        raise NotStartedError(f"{path} cannot be read: {one_line(error)}") from error


def _of_parquet(path: Path) -> list[Result]:
    """Results of a table in the form of a data set's files, or as `result.table.to_arrow` makes it."""
    from wattcount.dataset import rows

    try:
        with opened(path) as file, pq.ParquetFile(file) as stored:
            table = stored.read()
        if rows.SUBMISSION in table.schema.names:
            return rows.to_results(table)
        return of_arrow(table, [path] * len(table))
    except (
        OSError,
        WattcountError,
        pa.ArrowException,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:
        raise NotStartedError(
            f"{path} is no table of results ({one_line(error)}); write it with wattcount of this version"
        ) from error


QUALITY = (
    "scores of quantised models: results*.json of lm-evaluation-harness or lighteval, or folders of them; "
    "MODEL:PRECISION=PATH where the file does not say whose they are (llama3_1_8b:fp8=scores.json)"
)
"""Help of `--quality`."""


def scores_of(sources: Iterable[str] | None, results: Sequence[Result]) -> list[Score]:
    """Scores that are named on a command line; on standard error, those that belong to no result. Raises NotStartedError."""
    from wattcount.study.quality import read_scores, unused

    scores = read_scores(sources or ())
    if lost := unused(scores, results):
        names = printable(", ".join(lost), lines=False)
        print(
            f"wattcount: no result here has the model and precision of the scores of {names}; give --quality MODEL:PRECISION=PATH",
            file=sys.stderr,
        )
    return scores


def slo_of(text: str) -> SloConfig:
    """`ttft_ms=500,tpot_ms=50` as an SLO; for argparse, which names the argument."""
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        name = name.strip()
        try:
            bound = float(value)
        except ValueError:
            bound = 0.0
        if name not in ("ttft_ms", "tpot_ms", "e2e_ms") or not 0 < bound < float("inf"):
            raise argparse.ArgumentTypeError(
                f"{part!r}: give bounds above 0 as ttft_ms=500,tpot_ms=50,e2e_ms=20000, each where it is wanted"
            )
        bounds[name] = bound
    return SloConfig(**bounds)


def server_runs(sources: Iterable[str | Path], model: str) -> list[SeenRun]:
    """The measured server runs of a model in `sources` whose records tell their steps; of a data set where its records are folders of this machine.

    Raises NotStartedError where a source has no result at all.
    """
    from wattcount.simulation.measured import UnusableError, read_run

    found = []
    for source in sources:
        rows = results_of([source])
        wanted = {run.run_id for run in rows if run.model == model and run.kind == "server" and run.valid}
        if not wanted:
            continue
        folders = _record_folders(str(source), rows)
        for run_id in sorted(wanted & folders.keys(), key=str):
            try:
                found.append(read_run(Record.open(folders[run_id])))
            except UnusableError:
                continue
    return found


def _record_folders(source: str, rows: Iterable[Result]) -> dict[str | None, Path]:
    """Where records lie on this machine, by run id."""
    if "://" in source or not (Path(source) / VERSIONS).is_dir():
        return {run.run_id: run.record for run in rows if run.record is not None}
    from wattcount.dataset.references import references, resolved
    from wattcount.dataset.store import Dataset

    dataset = Dataset.open(source)
    places = [
        Path(resolved(dataset, one.place))
        for one in references(dataset, dataset.latest())
        if one.bundle is None
    ]
    # A record's folder is called by its run: r0-ID.
    return {place.name.partition("-")[2]: place for place in places if place.is_dir()}
