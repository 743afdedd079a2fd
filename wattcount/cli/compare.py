"""`wattcount compare A B ...`: results side by side, each against the first."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from wattcount import importers
from wattcount.cli.records import WHAT, add_records_dir, find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import spec
from wattcount.records import Record
from wattcount.report.labels import MAIN_FIGURES, describe, evidence_label, gpu_label, load_label
from wattcount.report.units import columns, quantity, scale_for, significant, spreadsheet_text
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.statistics import spread
from wattcount.terminal import console
from wattcount.text import WIDTH, printable

ACROSS = {
    PER_TOKEN: "per token",
    "power/gpu_mean_w": "power",
    "throughput/output_tokens_per_s": "output",
    "latency/ttft_p50_ms": "TTFT p50",
    "latency/tpot_p50_ms": "TPOT p50",
}
"""Figures of the table with a row a run, for more runs than fit beside each other: key and heading."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WHICH", nargs="+", help=f"{WHAT}; or a log that others wrote")
    add_records_dir(parser)
    parser.add_argument(
        "--allow-mixed",
        action="store_true",
        help="compare although evidence, instrument or kind of weights differ, and invalid runs too",
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
    if not args.allow_mixed:
        results = _valid(results)
        refuse_mixed(results)
    if len(results) < 2:
        raise NotStartedError(
            "compare needs at least two valid runs; `wattcount show` prints a single one, --allow-mixed takes invalid ones too"
        )
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


def _valid(results: Sequence[Result]) -> list[Result]:
    """The results without invalid and interrupted runs. Each of those gets a line on standard error."""
    for result in results:
        if not result.valid:
            why = printable(", ".join(dict.fromkeys(result.reasons)) or result.status.value, lines=False)
            print(f"wattcount: left out: {result.source}: {why}", file=sys.stderr)
    return [result for result in results if result.valid]


def _labels() -> Iterator[tuple[str, str]]:
    """Words for each figure of MAIN_FIGURES by its key: `TTFT p50 / p95 / p99` names three, `TTFT p50`, `TTFT p95`, `TTFT p99`."""
    for label, keys in MAIN_FIGURES:
        parts = label.split(" / ") if len(keys) > 1 else [label]
        before = parts[0][: len(parts[0]) - len(parts[0].split()[-1])]
        for key, part in zip(keys, parts, strict=True):
            yield key, part if part is parts[0] else f"{before}{part}"


_LABELS = dict(_labels())
"""What the figures are called, by key."""


def _ratio(result: Result, key: str, first: Result) -> float | None:
    """This value over the first result's. None: either is missing, or the first is 0."""
    mine, base = result.value(key), first.value(key)
    return mine / base if mine is not None and base else None


def _tables(out: Console, entries: Sequence[Result], keys: Sequence[str]) -> None:
    """Prints all results in one table: beside each other where they fit, else a row each with the figures of ACROSS."""
    for number, entry in enumerate(entries, 1):
        repeat = "" if entry.repeat is None else f", r{entry.repeat}"
        evidence = evidence_label(entry.evidence, entry.origin, entry.weights)
        out.print(f"[{number}] {describe(entry)}{repeat}; {evidence}")
        if not entry.valid:
            out.print(f"    INVALID: {printable(', '.join(entry.reasons), lines=False)}")
        if entry is not entries[0] and (differences := _differences(entry, entries[0])):
            out.print(f"    unlike [1]: {differences}")
        # A whole line: a path that is wrapped cannot be copied.
        out.print(f"    {entry.source}", soft_wrap=True)
    if not keys:
        out.print("\nnone of them has a metric to compare")
        return
    for line in _how_sure(entries):
        out.print(line, style="dim")
    out.print()
    # As wide as it must be: one table, whose lines a terminal wraps where it is too narrow.
    for line in _table(entries, keys, out.width if out.is_terminal else WIDTH).split("\n"):
        out.print(line, soft_wrap=True)


def _table(entries: Sequence[Result], keys: Sequence[str], width: int) -> str:
    """A row a figure, where all runs fit beside each other or all metrics are asked for; else a row a run with ACROSS."""
    first, *others = entries
    rows = [[_LABELS.get(key, key), *(_cell(entry, key, first) for entry in entries)] for key in keys]
    made = columns(["", "[1]", *(f"[{number}] x: to [1]" for number in range(2, len(entries) + 1))], rows)
    if len(others) == 1 or set(keys) - set(_LABELS) or made.index("\n") <= width:
        return made
    across = [key for key in ACROSS if key in keys]
    rows = []
    for number, entry in enumerate(entries, 1):
        ratio = None if entry is first else _ratio(entry, PER_TOKEN, first)
        cells = [quantity(entry.value(key), spec(key).unit, 3) for key in across]
        rows.append([f"[{number}]", "" if ratio is None else f"x{significant(ratio, 3)}", *cells])
    return columns(["", "x: to [1]", *(ACROSS[key] for key in across)], rows)


def _differences(entry: Result, first: Result) -> str:
    """`engine.name=vllm_serve, no model.quantization`: identity fields that are not as the first run's."""
    mine, base = dict(_leaves(entry.setting)), dict(_leaves(first.setting))
    said = [f"{key}={value}" for key, value in mine.items() if base.get(key) != value]
    return printable(", ".join(said + [f"no {key}" for key in base if key not in mine]), lines=False)


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if name == "hf_config":
            continue  # a model's constants, which its name stands for
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


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


def _cell(entry: Result, key: str, first: Result) -> str:
    """`81.30 mJ x0.512`, in the unit that suits it; of the first run without a ratio."""
    text = quantity(entry.value(key), spec(key).unit)
    ratio = None if entry is first else _ratio(entry, key, first)
    return text if ratio is None else f"{text} {'x' + significant(ratio, 3):>6}"


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
