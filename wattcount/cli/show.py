"""`wattcount show PATH`: what a record holds; `wattcount metrics PATH`: `metrics.json` computed afresh from the raw files;
`wattcount upgrade PATH`: records of earlier versions written anew, in the form of today, and their metrics with them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wattcount.cli.records import find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import load_metrics, spec, write
from wattcount.records import Record
from wattcount.records.schema import (
    POWER_PARQUET,
    RECORD_SCHEMA_VERSION,
    REQUESTS_PARQUET,
    STEPS_PARQUET,
    RunInfo,
)
from wattcount.records.writer import rewrite
from wattcount.report.summary import print_summary
from wattcount.report.units import quantity
from wattcount.result import Result
from wattcount.terminal import console
from wattcount.text import printable


def add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a run record, or a folder with records below it"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print metrics.json (several records: an object of record path to metrics)",
    )
    parser.add_argument("--all", action="store_true", help="every metric, not only the short table")


def main(args: argparse.Namespace) -> int:
    """0, or 1 where damaged records below a folder were set aside."""
    found = find_records(args.path)
    if args.json:
        contents: dict[str, Any] = dict(found.each(_metrics))
        print(json.dumps(contents if len(found.paths) > 1 else next(iter(contents.values())), indent=2))
    else:
        out = console()
        for position, show in enumerate(found.each(lambda path: _shown(path, everything=args.all))):
            if position:
                out.print()
            show(out)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _metrics(path: Path) -> tuple[str, dict[str, Any]]:
    return str(path), load_metrics(Record.open(path))


def _shown(path: Path, everything: bool) -> Callable[[Console], None]:
    """A function that prints the record. Every file is read before anything is printed."""
    record = Record.open(path)
    result = Result.of(record)
    shown = {"power": POWER_PARQUET, "requests": REQUESTS_PARQUET, "steps": STEPS_PARQUET}
    rows = ", ".join(f"{record.rows(name)} {what}" for what, name in shown.items())
    return lambda out: _show(out, record.info, result, rows, everything)


def _show(out: Console, info: RunInfo, result: Result, rows: str, everything: bool) -> None:
    print_summary(result, out)
    if everything:
        out.print(_all_metrics(result))
    out.print(Text("\nphases", style="bold"))
    for span in info.phases:
        length = (
            quantity((span.end_ns - span.start_ns) / 1e9, "s") if span.end_ns is not None else "broke off"
        )
        out.print(f"  {span.phase!s:<20} {length:>10}")
    out.print(Text("\nrecord", style="bold"))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(info.versions.items()))
    facts = {
        "path": str(result.source),
        "point": f"{info.point_id[:12]}  seed {info.seed}  repeat {info.repeat}",
        "run": f"{info.run_id}  started {info.started_utc}",
        "power read from": f"{info.instrument}: {info.nvml.get('path', '?')}, driver {result.driver or '?'}",
        "GPUs": ", ".join(f"{gpu.get('name', '?')} {gpu.get('uuid', '')}" for gpu in info.gpus) or "none",
        "versions": versions,
        "rows": rows,
    }
    for name, text in facts.items():
        # Whole lines: a path that is wrapped cannot be copied.
        out.print(f"  {name:<16} {printable(text, lines=False)}", soft_wrap=True)


def _all_metrics(result: Result) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for heading in ("metric", "value", "missing because"):
        table.add_column(heading)
    for key, value in result.metrics.items():
        table.add_row(key, quantity(value, spec(key).unit), result.null_reasons.get(key, ""))
    return table


def rewrite_metrics(args: argparse.Namespace) -> int:
    """0, or 1 where damaged records below a folder were set aside."""
    found = find_records(args.path)
    found.each(_rewrite)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _rewrite(path: Path) -> None:
    try:
        print(write(path))
    except OSError as error:
        raise NotStartedError(f"cannot write metrics.json in {path}: {error.strerror}") from error


def upgrade_records(args: argparse.Namespace) -> int:
    """1 where records below a folder were set aside."""
    found = find_records(args.path)
    sizes = found.each(_upgrade)
    before, after = (sum(size[i] for size in sizes) for i in (0, 1))
    print(f"{len(sizes)} records: {before:,} bytes before, {after:,} after")
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _upgrade(path: Path) -> tuple[int, int]:
    """Bytes before and after."""
    record = Record.open(path)
    before = _bytes(path)
    if record.info.schema_version == RECORD_SCHEMA_VERSION:
        return before, before
    try:
        rewrite(record)
        write(path)
    except OSError as error:
        raise NotStartedError(f"cannot write in {path.parent}: {error.strerror}") from error
    print(f"{path}: {before:,} -> {_bytes(path):,} bytes")
    return before, _bytes(path)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())
