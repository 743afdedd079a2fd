"""`wattcount import SOURCE FILE ... -o results.parquet`: results of what others measured."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from wattcount import importers
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.importers import Importer, file
from wattcount.importers.file import Origin
from wattcount.report.units import significant
from wattcount.result import Result
from wattcount.terminal import console, table
from wattcount.text import WIDTH, printable

AUTO = "auto"
"""In place of a source's name: told by the files."""
ROWS = 20
"""Results that are shown without --all: a terminal's height."""
FIGURES = (
    ("energy/gpu_j_per_output_token", "J/token"),
    ("power/gpu_mean_w", "W"),
    ("throughput/output_tokens_per_s", "tokens/s"),
)
"""Figures that are shown, with the headings of their columns."""
READINGS_W = "power/gpu_readings_mean_w"
"""Shown where there is no mean power by energy."""
NAME_CHARS = 30
"""Longest name of a model that is shown in full [characters]: the table stays within 80 columns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", nargs="?", help="name of the source, or `auto`: told by the files"
    )
    parser.add_argument("path", metavar="FILE", nargs="*", help="what the source wrote; of MLPerf a folder")
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, help="write the results to this Parquet file"
    )
    parser.add_argument(
        "--list", action="store_true", help="list the sources, their licences and what they give"
    )
    parser.add_argument("--all", action="store_true", help="show every result, not the first 20")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    if args.list:
        _list()
        return EXIT_OK
    if args.source is None or not args.path:
        raise NotStartedError("give a source (or `auto`) and its files; --list lists the sources")
    chosen = None if args.source == AUTO else importers.named(args.source)
    results: list[Result] = []
    origins: dict[str, Origin] = {}
    for given in args.path:
        path = Path(given).expanduser()
        importer = chosen or _told_by(path)
        found = importer.results(path)
        name = path.name
        results += file.named(found, path, name) if args.out else found
        before = origins.get(importer.SOURCE.name)
        files = {**(before.files if before else {}), **file.hashes(path, name)}
        origins[importer.SOURCE.name] = Origin(importer.SOURCE, files)
    if args.out is not None:
        _write(args.out, results, list(origins.values()))
    if args.json:
        print(json.dumps([_plain(item) for item in results], indent=2))
    else:
        _show(results, every=args.all)
        for origin in origins.values():
            licence = origin.source.licence or "none stated: the rows must not be published"
            print(f"{origin.source.name}: {origin.source.title}; licence: {licence}")
        if args.out is not None:
            print(printable(f"written: {args.out}", lines=False))
    return EXIT_OK


def _told_by(path: Path) -> Importer:
    found = importers.recognised(path)
    if found is None:
        what = "is of no source that is known" if path.exists() else "does not exist"
        raise NotStartedError(f"{path} {what}; --list lists the sources")
    return found


def _write(out: Path, results: Sequence[Result], origins: Sequence[Origin]) -> None:
    try:
        file.write(out, results, origins)
    except OSError as error:
        raise NotStartedError(f"{out} cannot be written: {error.strerror or error}") from None


def _list() -> None:
    for importer in importers.IMPORTERS:
        source = importer.SOURCE
        print(source.name)
        for line in (
            source.title,
            f"gives: {source.gives}",
            f"licence: {source.licence or 'none stated, or that of whoever measured'}",
            *([source.url] if source.url else []),
        ):
            print(
                textwrap.fill(
                    line, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False
                )
            )


def _show(results: Sequence[Result], every: bool) -> None:
    made = table(["model", "GPUs", "load", *(heading for _, heading in FIGURES)], words=3)
    shown = results if every else results[:ROWS]
    for item in shown:
        model = printable(item.model or "?", lines=False)
        values = [item.value(key) for key, _ in FIGURES]
        if values[1] is None:
            values[1] = item.value(READINGS_W)
        made.add_row(
            model if len(model) <= NAME_CHARS else f"{model[: NAME_CHARS - 3]}...",
            printable(_gpus(item), lines=False),
            printable(_load(item), lines=False),
            *("-" if value is None else significant(value) for value in values),
        )
    console().print(made)
    left = len(results) - len(shown)
    print(f"{len(results)} results" + (f"; {left} more with --all" if left else ""))


def _gpus(item: Result) -> str:
    name = item.gpu or next(iter(item.gpus), "?")
    return f"{len(item.gpus)}x{name}" if item.gpus else name


def _load(item: Result) -> str:
    setting = item.setting
    if item.rate_rps is not None:
        return f"{item.rate_rps:g}/s"
    batch = setting.get("engine", {}).get("max_num_seqs")
    in_flight = setting.get("scenario", {}).get("max_in_flight")
    return f"batch {batch}" if batch else f"{in_flight} at once" if in_flight else item.kind or "?"


def _plain(item: Result) -> dict[str, object]:
    return {
        "run_id": item.run_id,
        "origin": item.origin,
        "model": item.model,
        "gpu": item.gpu,
        "gpus": list(item.gpus),
        "kind": item.kind,
        "setting": dict(item.setting),
        "instrument": item.instrument,
        "notes": list(item.notes),
        "metrics": dict(item.metrics),
        "source": str(item.source),
    }
