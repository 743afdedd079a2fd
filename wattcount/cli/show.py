"""`wattcount show PATH`: what a record holds; `--plot`: its pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from wattcount.cli.records import add_path, find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError, one_line
from wattcount.files import write_atomically
from wattcount.metrics import load_metrics, spec
from wattcount.metrics.metrics_json import NULL_REASONS
from wattcount.records import Record
from wattcount.records.schema import (
    POWER_PARQUET,
    REQUESTS_PARQUET,
    STEPS_PARQUET,
    RunInfo,
)
from wattcount.report.labels import short_id
from wattcount.report.summary import print_summary
from wattcount.report.units import quantity
from wattcount.result import Result
from wattcount.terminal import console
from wattcount.text import printable

KEY_WIDTH = 36
"""Width of the keys in the list of all figures [characters]: as wide as most of them are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print metrics.json (several records: an object of record path to metrics)",
    )
    parser.add_argument("--all", action="store_true", help="every metric, not only the short table")
    parser.add_argument(
        "--plot",
        action="store_true",
        help="write its pictures instead: power with phases, latencies, the energy's budget; says where",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE",
        help="for --plot: FILE.html has all pictures; FILE.png, .svg and .json have the power trace (default: "
        "wattcount-RUN.html here)",
    )


def main(args: argparse.Namespace) -> int:
    """0, or 1 where damaged records below a folder were set aside."""
    found = find_records(args.path, records_dir=args.records_dir)
    if args.out is not None and not args.plot:
        raise NotStartedError("-o is where --plot writes to: add --plot")
    if args.plot:
        if len(found.paths) > 1:
            raise NotStartedError(f"--plot draws one record, and there are {len(found.paths)}: say which")
        for written in found.each(lambda path: _plot(path, args.out)):
            print(f"pictures: {written}")
    elif args.json:
        contents: dict[str, Any] = dict(found.each(_metrics))
        print(json.dumps(contents if len(found.paths) > 1 else next(iter(contents.values())), indent=2))
    else:
        out = console()
        for position, show in enumerate(found.each(lambda path: _shown(path, everything=args.all))):
            if position:
                out.print()
            show(out)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _plot(path: Path, out: str | None) -> Path:
    """Writes the pictures of a record; returns where."""
    from wattcount.figures import energy_budget, latency_distribution, power_trace
    from wattcount.figures.page import page

    record = Record.open(path)
    content = load_metrics(record)
    target = Path(out or f"wattcount-{short_id(record.info.run_id)}.html").expanduser().absolute()
    trace = power_trace(record)
    try:
        if target.suffix.lower() == ".html":
            figures = [trace, latency_distribution(record), energy_budget(record, content)]
            write_atomically(target, page(trace.description, figures).encode())
        else:
            trace.save(target)
    except OSError as error:
        raise NotStartedError(f"{target} cannot be written ({one_line(error)}): give another -o") from error
    return target


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
        _print_all_metrics(out, result)
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


def _print_all_metrics(out: Console, result: Result) -> None:
    """Every figure with its definition below it; of one that is missing, why."""
    out.print()
    for key, value in result.metrics.items():
        reason = result.null_reasons.get(key, "")
        about = spec(key).description if value is not None else f"{reason}: {NULL_REASONS.get(reason, '')}"
        out.print(Text(f"{key:<{KEY_WIDTH}} {quantity(value, spec(key).unit)}"), soft_wrap=True)
        out.print(Padding(Text(about.rstrip(": "), style="dim"), (0, 0, 0, 4)))
