"""`wattcount compare A B ...`: results side by side, each against the first."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from wattcount import importers
from wattcount.cli.records import WHAT, add_records_dir, find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import spec
from wattcount.records import Record
from wattcount.report.labels import MAIN_FIGURES, describe, evidence_label, gpu_label, load_label
from wattcount.report.units import scale_for, significant, spreadsheet_text
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.repeats import spread
from wattcount.terminal import console, table
from wattcount.text import WIDTH, printable

UNIT_WIDTH, FIRST_WIDTH, COLUMN_WIDTH = 11, 9, 15
"""Least widths of the columns [characters]: of `requests/s`, of `1234.5`, of `1234.5 x0.512`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WHICH", nargs="+", help=f"{WHAT}; or a log that others wrote")
    add_records_dir(parser)
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="compare although evidence, instrument or kind of weights differ, or a record is invalid",
    )
    parser.add_argument("--all", action="store_true", help="every metric, not only the main ones")
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json"),
        default="table",
        help="csv and json give plain numbers in the units of docs/metrics.md",
    )


def main(args: argparse.Namespace) -> int:
    found = find_records(args.path, importers.recognises, args.records_dir)
    results = [result for of_source in found.each(_results) for result in of_source]
    if len(results) < 2:
        raise NotStartedError("compare needs at least two runs; `wattcount show` prints a single record")
    if not args.allow_mixed:
        refuse_mixed(results)
    if args.all or args.format != "table":
        keys = list(dict.fromkeys(key for result in results for key in result.metrics))
    else:
        shown = (key for _, names in MAIN_FIGURES for key in names)
        keys = [key for key in shown if any(result.value(key) is not None for result in results)]
    if args.format == "csv":
        _csv(results, keys)
    elif args.format == "json":
        print(json.dumps(_json(results, keys), indent=2))
    else:
        _tables(console(), results, keys)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _results(path: Path) -> list[Result]:
    return importers.read(path) if importers.recognises(path) else [Result.of(Record.open(path))]


def refuse_mixed(results: Sequence[Result]) -> None:
    """Raises `NotStartedError` for results of different kinds, whose numbers cannot be compared."""
    how = "; --allow-mixed compares them all the same"
    for what in ("evidence", "origin", "instrument", "weights_kind"):
        kinds: dict[str, Result] = {}
        for result in results:
            kinds.setdefault(str(getattr(result, what) or "unknown"), result)
        if len(kinds) > 1:
            listed = ", ".join(f"{kind} ({result.source})" for kind, result in kinds.items())
            raise NotStartedError(f"different {what.removesuffix('_kind')}: {listed}{how}")
    invalid = [result for result in results if not result.valid]
    if invalid:
        listed = ", ".join(f"{result.source} ({', '.join(result.reasons)})" for result in invalid)
        raise NotStartedError(f"invalid: {listed}{how}")


def _ratio(result: Result, key: str, first: Result) -> float | None:
    """This value over the first result's. None: either is missing, or the first is 0."""
    mine, base = result.value(key), first.value(key)
    return mine / base if mine is not None and base else None


def _tables(out: Console, entries: Sequence[Result], keys: Sequence[str]) -> None:
    """Prints as many results beside each other as fit. Each table begins with the first result, with which all are compared."""
    for number, entry in enumerate(entries, 1):
        repeat = "" if entry.repeat is None else f", r{entry.repeat}"
        evidence = evidence_label(entry.evidence, entry.origin, entry.weights)
        out.print(f"[{number}] {describe(entry)}{repeat}; {evidence}")
        if not entry.valid:
            out.print(f"    INVALID: {printable(', '.join(entry.reasons), lines=False)}")
        # A whole line: a path that is wrapped cannot be copied.
        out.print(f"    {entry.source}", soft_wrap=True)
    if not keys:
        out.print("\nnone of them has a metric to compare")
        return
    for line in _how_sure(entries):
        out.print(line, style="dim")
    first, others = entries[0], list(enumerate(entries[1:], 2))
    taken = max(map(len, keys)) + UNIT_WIDTH + FIRST_WIDTH
    beside = max(((out.width if out.is_terminal else WIDTH) - taken) // COLUMN_WIDTH, 1)
    for start in range(0, len(others), beside):
        shown = others[start : start + beside]
        rows = table(["", "unit", "[1]", *(f"[{number}] x: to [1]" for number, _ in shown)], words=2)
        for key in keys:
            # One unit a row, so that the numbers in it can be compared at a glance.
            scale, unit = scale_for((entry.value(key) for entry in entries), spec(key).unit)
            cells = (_cell(entry, key, first, scale) for entry in (first, *(entry for _, entry in shown)))
            rows.add_row(key, unit, *cells)
        out.print()
        out.print(rows)


def _how_sure(entries: Sequence[Result]) -> Iterator[str]:
    """The least difference of energies that the uncertainty does not hide, and how far runs of one setting scatter."""
    shares = {}
    for part in ("method", "sensor"):
        values = [
            u95 / energy
            for entry in entries
            if (u95 := entry.value(f"energy/gpu_j_u95_{part}")) and (energy := entry.value("energy/gpu_j"))
        ]
        shares[part] = max(values, default=None)
    boards = {entry.boards for entry in entries}
    method, sensor = shares["method"], shares["sensor"]
    if method is not None and sensor is not None:
        # Two independent errors of the larger size.
        least = 100 * math.sqrt(2) * (method if len(boards) == 1 else math.hypot(method, sensor))
        of = (
            "One board: the method's own error hides" if len(boards) == 1 else "Boards may differ: that hides"
        )
        yield f"{of} differences of energy under {significant(least, 2)} % (95 %)."
    scatters = [scatter for entry in entries if (scatter := entry.scatter(PER_TOKEN)) is not None]
    if scatters:
        widest = max(scatters, key=lambda scatter: scatter.u95_share)
        hidden = 100 * math.sqrt(2) * math.hypot(widest.u95_share, method or 0.0)
        yield (
            f"Starts of an engine scatter, for hosts differ and change: two single runs differ in energy per token by chance by up to "
            f"{significant(hidden, 2)} % (95 %; sd {significant(100 * widest.sd, 2)} %, {widest.freedom} degrees of freedom)."
        )
    settings: dict[str, list[float]] = {}
    for entry in entries:
        value = entry.value(PER_TOKEN)
        if value is not None and entry.setting_key is not None:
            settings.setdefault(entry.setting_key, []).append(value)
    for setting, values in settings.items():
        if len(values) > 1:
            mean, deviation, half = spread(values)
            scale, unit = scale_for(values, spec(PER_TOKEN).unit)
            yield (
                f"{len(values)} runs of {setting[:12]}: {significant(mean / scale)} ± {significant(half / scale, 2)} {unit} per output "
                f"token (95 %), sd {significant(100 * deviation / mean, 2)} %."
            )


def _cell(entry: Result, key: str, first: Result, scale: float) -> str:
    value = entry.value(key)
    if value is None:
        text = "-"
    else:
        text = str(value) if isinstance(value, int) and scale == 1.0 else significant(value / scale)
    if entry is first:
        return text
    ratio = _ratio(entry, key, first)
    return f"{text} {'' if ratio is None else 'x' + significant(ratio, 3):>6}"


def _json(entries: Sequence[Result], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "record": str(entry.source),
            "point_id": entry.point_id,
            "setting_key": entry.setting_key,
            "model": entry.model,
            "weights": entry.weights,
            "gpu": gpu_label(entry.gpus),
            "load": load_label(entry.kind, entry.num_requests, entry.rate_rps),
            "engine": entry.engine,
            "engine_version": entry.engine_version,
            "input_tokens": entry.input_tokens,
            "output_tokens": entry.output_tokens,
            "window_s": entry.window_s,
            "particulars": list(entry.particulars),
            "levers": list(entry.levers),
            "repeat": entry.repeat,
            "evidence": None if entry.evidence is None else str(entry.evidence),
            "origin": entry.origin,
            "instrument": entry.instrument,
            "valid": entry.valid,
            "metrics": {key: entry.value(key) for key in keys},
            "ratio_to_first": {key: _ratio(entry, key, entries[0]) for key in keys},
        }
        for entry in entries
    ]


def _csv(entries: Sequence[Result], keys: Sequence[str]) -> None:
    """Prints one row a record. An empty cell: the value is missing."""
    rows = _json(entries, keys)
    facts = [name for name in rows[0] if name not in ("metrics", "ratio_to_first")]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*facts, *keys])
    for row in rows:
        values = ["" if row["metrics"][key] is None else row["metrics"][key] for key in keys]
        writer.writerow([*(spreadsheet_text(row[name]) for name in facts), *values])
