"""`wattcount results [WHICH ...]`: the table of results, one row a setting. `wattcount list [WHICH ...]`: one line a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.text import Text

from wattcount.cli.records import WHAT, add_records_dir, find_records
from wattcount.cli.sources import is_table, results_of
from wattcount.config.loader import did_you_mean
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import spec
from wattcount.records.schema import Evidence
from wattcount.report.labels import short_id, short_name
from wattcount.report.units import columns, quantity
from wattcount.result import Result, ResultTable, judge, results
from wattcount.result.host_part import PER_TOKEN
from wattcount.study import capacity, inventory, pooled
from wattcount.terminal import console
from wattcount.text import printable

LISTED = 30
"""Runs that `wattcount list` shows, unless it is asked for others: a screen of them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_which(parser, "else the sweep that was started last, or all records where there was none")
    parser.add_argument(
        "--by",
        metavar="KEY",
        help="a row for each value of KEY, in its order: model, gpu, rate_rps, boards, host, ...",
    )
    parser.add_argument(
        "--matrix",
        action="store_true",
        help="what there is instead of figures: valid runs, starts of the engine and boards of each GPU, model and load",
    )
    parser.add_argument(
        "--capacity",
        action="store_true",
        help="of each load curve with an SLO the highest rate that keeps it, with its interval, instead",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="plain numbers in the units of docs/metrics.md")
    shape.add_argument("--json", action="store_true", help="the same as JSON")
    shape.add_argument("--markdown", action="store_true", help="a table to paste")


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    _add_which(parser, "else all records")
    parser.add_argument("--all", action="store_true", help=f"every run, not only the last {LISTED}")
    parser.add_argument(
        "--json", action="store_true", help="for scripts: id, point, record and verdict of each"
    )


def _add_which(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument("path", metavar="WHICH", nargs="*", help=f"{WHAT}; {otherwise}")
    add_records_dir(parser)


def main(args: argparse.Namespace) -> int:
    """1 where no run is valid, for there is no result then."""
    if args.by is not None and args.by not in pooled.BY:
        raise NotStartedError(
            f"--by {args.by}: no such key{did_you_mean(args.by, pooled.BY)}; there are: {', '.join(pooled.BY)}"
        )
    found = _results(args, latest_sweep=True)
    if args.matrix:
        return _print_matrix(found, args)
    if args.capacity:
        return _print_capacities(found, args)
    rows = pooled.pooled(found, args.by)
    if args.csv:
        print(pooled.to_csv(rows, args.by), end="")
    elif args.json:
        print(json.dumps(pooled.to_json(rows, args.by), indent=2))
    elif args.markdown:
        print(pooled.to_markdown(rows, args.by))
    else:
        out = console()
        out.print(Text(pooled.title(rows), style="bold"))
        out.print()
        for line in pooled.to_lines(rows, out.width, args.by):
            out.print(line, soft_wrap=True)
        out.print()
        out.print(Text(pooled.EXPLANATION, style="dim"))
    return EXIT_OK if any(result.valid for result in found) else EXIT_FAILED


def _print_matrix(found: Sequence[Result], args: argparse.Namespace) -> int:
    if args.csv or args.by is not None:
        raise NotStartedError("--matrix is a table of its own: give it alone, or with --json or --markdown")
    matrix = inventory.Matrix.of(found)
    if args.json:
        print(json.dumps(matrix.to_json(), indent=2))
    elif args.markdown:
        print(matrix.to_markdown())
    else:
        out = console()
        for line in matrix.to_text().split("\n"):
            out.print(line, soft_wrap=True, markup=False, highlight=False)
        out.print(Text(f"{inventory.total(found)} {inventory.EXPLANATION}", style="dim"))
    return EXIT_OK


def _print_capacities(found: Sequence[Result], args: argparse.Namespace) -> int:
    if args.by is not None:
        raise NotStartedError("--capacity is a table of its own: leave out --by")
    curves = capacity.load_curves(found)
    if not curves:
        raise NotStartedError(
            "no capacity here: it needs runs of a server with scenario.slo.ttft_ms, tpot_ms or e2e_ms at two rates or more; "
            "scenario=capacity measures them"
        )
    if args.json:
        print(json.dumps(capacity.to_json(curves), indent=2))
    elif args.csv:
        print(capacity.to_csv(curves), end="")
    elif args.markdown:
        print(capacity.to_markdown(curves))
    else:
        out = console()
        for line in capacity.to_lines(curves):
            out.print(line, soft_wrap=True)
        out.print(Text(capacity.EXPLANATION, style="dim"))
    return EXIT_OK


def list_runs(args: argparse.Namespace) -> int:
    found = _results(args, latest_sweep=False)
    if args.json:
        print(json.dumps([_facts(result) for result in found], indent=2))
        return EXIT_OK
    out = console()
    shown = found if args.all else found[-LISTED:]
    cells = [
        [
            short_id(result.run_id),
            _local(result.started_utc),
            quantity(result.value(PER_TOKEN), spec(PER_TOKEN).unit, 3),
            ("predicted" if result.evidence is Evidence.PREDICTED else "valid")
            if result.valid
            else printable(": ".join([result.status.value, *result.reasons[:1]]), lines=False),
            short_name(result) if result.model else printable(str(result.source), lines=False),
        ]
        for result in shown
    ]
    # Names last, and in one line: those of big sweeps are longer than a terminal is wide.
    for line in columns(["run", "started", "per token", "verdict", "what"], cells, left=5).split("\n"):
        out.print(line, soft_wrap=True)
    if len(shown) < len(found):
        out.print(Text(f"the last {len(shown)} of {len(found):,} runs; --all shows every one", style="dim"))
    return EXIT_OK


def _results(args: argparse.Namespace, *, latest_sweep: bool) -> list[Result]:
    """The results that were asked for. Raises `NotStartedError` where there are none."""
    records_dir = Path(args.records_dir).expanduser()
    which: Sequence[str] = args.path
    if not which and latest_sweep:
        from wattcount.sweep.ledger import sweeps

        which = sweeps(records_dir)[:1]
    if not which:
        if not (found := results(records_dir)):
            raise NotStartedError(
                f"no run in {records_dir}: measure one (wattcount --help), or give --records-dir DIR"
            )
        return found
    tables = [path for path in which if is_table(path)]
    made = results_of(tables)
    if others := [path for path in which if path not in tables]:
        kept = ResultTable(records_dir)
        made += [
            _result(path, records_dir.resolve(), kept)
            for path in find_records(others, records_dir=records_dir).paths
        ]
        kept.save()
    return made


def _result(path: Path, records_dir: Path, kept: ResultTable) -> Result:
    """The result of a record: from the table of results, where the record lies in its folder."""
    if path.resolve().parent.parent == records_dir:
        return kept.of(f"{path.parent.name}/{path.name}") or judge(path)
    return judge(path)


def _local(started_utc: str | None) -> str:
    """Local time, to the minute."""
    try:
        return datetime.fromisoformat(started_utc or "").astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return "-"


def _facts(result: Result) -> dict[str, object]:
    return {
        "id": short_id(result.run_id),
        "run_id": result.run_id,
        "point_id": result.point_id,
        "setting_key": result.setting_key,
        "name": short_name(result),
        "started_utc": result.started_utc,
        "status": result.status.value,
        "reasons": list(result.reasons),
        PER_TOKEN: result.value(PER_TOKEN),
        "record": str(result.source),
    }
