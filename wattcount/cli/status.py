"""`wattcount status [NAME]`: how sweeps stand, from any terminal, while they run and after a crash."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from wattcount.cli.records import add_records_dir
from wattcount.config.loader import did_you_mean
from wattcount.errors import EXIT_OK, NotStartedError, WattcountError
from wattcount.report.units import duration
from wattcount.sweep.ledger import read_state, sweeps
from wattcount.sweep.point import State
from wattcount.sweep.state import SweepState
from wattcount.sweep.status import condition, energy_text, render, share_done, to_json
from wattcount.terminal import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="of a sweep; else the one started last")
    add_records_dir(parser, "where its records are")
    parser.add_argument("--all", action="store_true", help="every sweep in DIR, one line each")
    parser.add_argument(
        "--all-points",
        action="store_true",
        help="every point: results, failures, skips; with --json a row of each",
    )
    parser.add_argument("--json", action="store_true", help="for scripts; with --all a list")
    parser.add_argument("--watch", action="store_true", help="go on until no start of the sweep is alive")
    parser.add_argument(
        "--interval",
        metavar="S",
        type=float,
        default=5.0,
        help="seconds between looks of --watch (%(default)g)",
    )


def main(args: argparse.Namespace) -> int:
    """Raises `NotStartedError` where there is no such sweep, or where its files cannot be read."""
    if args.name and args.all:
        raise NotStartedError("give a NAME or --all, not both")
    if not args.interval > 0:
        raise NotStartedError(f"--interval must be above 0, is {args.interval:g}")
    names = _names(args)
    look: Callable[[], list[SweepState]] = lambda: _states(args.records_dir, names)  # noqa: E731
    if args.watch:
        return _watch(args, look)
    _show(args, look(), console())
    return EXIT_OK


def _names(args: argparse.Namespace) -> list[str]:
    known = sweeps(args.records_dir)
    if not known:
        raise NotStartedError(
            f"no sweep in {args.records_dir}: start one (python -m wattcount +experiment=NAME), or give "
            "--records-dir DIR"
        )
    if args.all:
        return known
    if args.name is None:
        return known[:1]
    if args.name not in known and Path(args.name).is_dir():
        args.name = Path(args.name).resolve().name  # the path of its folder
    if args.name not in known:
        raise NotStartedError(
            f"no sweep {args.name!r} in {args.records_dir} (wattcount status --all lists them)"
            f"{did_you_mean(args.name, known)}"
        )
    return [args.name]


def _states(records_dir: str, names: Sequence[str]) -> list[SweepState]:
    found, wrong = [], None
    for name in names:
        try:
            found.append(read_state(records_dir, name))
        except WattcountError as error:
            wrong = error
            if len(names) > 1:
                print(f"wattcount: {error}", file=sys.stderr)
    if wrong is not None and not found:
        raise NotStartedError(str(wrong)) from wrong
    return found


def _show(args: argparse.Namespace, states: Sequence[SweepState], out: Console) -> None:
    if args.json:
        contents: list[dict[str, Any]] = [to_json(state, everything=args.all_points) for state in states]
        print(json.dumps(contents if args.all else contents[0], indent=None if args.watch else 2), flush=True)
        return
    if args.all:
        out.print(_list(states))
        return
    for part in render(states[0], everything=args.all_points):
        out.print(part, soft_wrap=isinstance(part, Text) and bool(part.no_wrap))


def _renderable(args: argparse.Namespace, states: Sequence[SweepState]) -> Table | Group:
    if args.all:
        return _list(states)
    return Group(*render(states[0], everything=args.all_points))


def _list(states: Sequence[SweepState]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("sweep", "state"):
        table.add_column(heading)
    for heading in ("done", "failed", "left", "time left", "energy"):
        table.add_column(heading, justify="right")
    for sweep in states:
        counts = sweep.counts
        bad = counts[State.failed] + counts[State.invalid] + counts[State.lost]
        table.add_row(
            sweep.name,
            condition(sweep),
            f"{counts[State.done]} ({100 * share_done(sweep):.0f} %)",
            str(bad),
            str(counts[State.running] + counts[State.waiting]),
            "-" if sweep.time_left_s is None else duration(sweep.time_left_s),
            "-" if sweep.energy_j is None else energy_text(sweep).partition(",")[0],
        )
    return table


def _watch(args: argparse.Namespace, look: Callable[[], list[SweepState]]) -> int:
    """Returns when no start of the sweep is alive any more, or after Ctrl-C, which is no failure here."""
    from rich.live import Live

    out = console()
    states = look()
    try:
        if args.json or not out.is_terminal:
            _show(args, states, out)
            while any(state.alive for state in states):
                time.sleep(args.interval)
                states = look()
                if not args.json:
                    out.print(Text(""))
                _show(args, states, out)
            return EXIT_OK
        with Live(_renderable(args, states), console=out, auto_refresh=False, transient=True) as live:
            while any(state.alive for state in states):
                time.sleep(args.interval)
                states = look()
                live.update(_renderable(args, states), refresh=True)
        _show(args, states, out)
    except KeyboardInterrupt:
        pass
    return EXIT_OK
