"""`wattcount fleet`: which boards are on, asleep or off under a day of traffic, and what that saves (docs/fleet.md)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

from wattcount.cli.sources import results_of, server_runs, slo_of
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.fleet.compare import J_PER_KWH, Asked, Compared, compared, slot_of
from wattcount.fleet.traffic import Traffic, shares
from wattcount.load.arrivals import read_trace
from wattcount.prediction.setting import Abstained
from wattcount.report.units import significant
from wattcount.simulation.predicted import EVIDENCE
from wattcount.study.bills import read_bills
from wattcount.study.questions import USUAL_SLO
from wattcount.terminal import PlainConsole, console, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="SOURCE", action="append", required=True, help="a data set or a folder with records; may be given more than once")  # fmt: skip
    parser.add_argument("--traffic", metavar="TRACE.csv", type=Path, required=True, help="TIMESTAMP,ContextTokens,GeneratedTokens; its course is stretched to a day")  # fmt: skip
    parser.add_argument("--models", metavar="A[=SHARE]", nargs="+", required=True, help="models, with their shares of the requests (equal)")  # fmt: skip
    parser.add_argument("--gpus", metavar="NAME=BOARDS", nargs="+", required=True, help="the boards that there are: h100=8 h200=4")  # fmt: skip
    parser.add_argument("--slo", type=slo_of, default=USUAL_SLO, metavar="ttft_ms=500,tpot_ms=50", help="bounds of a good request")  # fmt: skip
    parser.add_argument("--target", type=_share, default=0.95, metavar="0.95", help="share of the requests that must be good")  # fmt: skip
    parser.add_argument("--headroom", type=_share, default=0.1, metavar="0.1", help="share of each board's capacity that stays free")  # fmt: skip
    parser.add_argument(
        "--no-spare", action="store_true", help="without N+1: no board needs to be able to fail"
    )
    parser.add_argument("--scale", type=_positive, default=1.0, metavar="X", help="times as many requests as the trace has")  # fmt: skip
    parser.add_argument("--slots", type=int, default=24, metavar="N", help="parts of the day (24)")
    parser.add_argument("--price", type=Path, metavar="FILE", help="CSV: gpu,per_hour[,currency]")
    parser.add_argument("--json", action="store_true", help="everything as JSON, in plain units")


def main(args: argparse.Namespace) -> int:
    if not 1 <= args.slots <= 96:
        raise NotStartedError(f"--slots {args.slots}: give 1 to 96 parts of a day")
    traffic = Traffic(read_trace(args.traffic), args.slots, args.scale)
    bills = read_bills(args.price)
    owned = _owned(args.gpus)
    price = {gpu: bills.per_gpu_hour[gpu.lower()] for gpu in owned if gpu.lower() in bills.per_gpu_hour}
    asked = Asked(
        owned, shares(args.models), traffic, args.slo, args.target, args.headroom, not args.no_spare, price
    )
    rows = results_of(args.data)

    def bare_w(gpu: str) -> float | None:
        found = [value for run in rows if run.gpu == gpu and (value := run.value("power/idle_bare_w"))]
        return median(found) if found else None

    try:
        found = compared(asked, lambda model: server_runs(args.data, model), bare_w)
    except Abstained as abstained:
        if args.json:
            print(json.dumps({"evidence": EVIDENCE.value, "abstained": abstained.reason}, indent=2))
        else:
            console().print(f"No plan: {abstained.reason}.")
        return EXIT_OK
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
    else:
        _show(console(), found, bills.currency)
    return EXIT_OK


def _owned(texts: list[str]) -> dict[str, int]:
    owned: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not name or not count.isdigit() or not 1 <= int(count) <= 1000 or name in owned:
            raise NotStartedError(f"{text!r}: give each GPU once with its boards, as h100=8")
        owned[name] = int(count)
    return owned


def _share(text: str) -> float:
    value = _positive(text) if text not in ("0", "0.0") else 0.0
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a share below 1")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0")
    return value


def _show(out: PlainConsole, found: Compared, currency: str) -> None:
    fleet, plan = found.fleet, found.lines[0].plan
    assert plan is not None
    out.print(f"Evidence: {EVIDENCE.value}", style="bold")
    made = table(["slots", "req/s", "on", "asleep", "unloaded", "off"], 3)
    slot = 0
    while slot < fleet.slots:
        after = slot
        while after + 1 < fleet.slots and _boards(found, after + 1) == _boards(found, slot):
            after += 1
        rates = [sum(rates[t] for rates in fleet.demand.values()) for t in range(slot, after + 1)]
        label = f"{slot}" if after == slot else f"{slot}-{after}"
        made.add_row(label, f"{min(rates):.3g}-{max(rates):.3g}" if after > slot else f"{rates[0]:.3g}", *_boards(found, slot))  # fmt: skip
        slot = after + 1
    out.print(made)
    lines = table(["day", "kWh", "to the plan", f"cost{f' {currency}' if currency else ''}", "keep SLO", "worst slot"], 1)  # fmt: skip
    best = found.lines[0].replayed
    assert best is not None
    for line in found.lines:
        if line.replayed is None:
            lines.add_row(line.rule.name, "-", line.why or "", "", "", "")
            continue
        lines.add_row(
            line.rule.name,
            significant(line.replayed.energy_j / J_PER_KWH, 4),
            f"{100 * (line.replayed.energy_j / best.energy_j - 1):+.1f} %",
            "-" if line.cost is None else significant(line.cost, 4),
            f"{100 * line.replayed.attained:.2f} %",
            f"{100 * line.replayed.worst:.1f} %",
        )
    out.print(lines)
    out.print(f"Played in the simulator; solved in {plan.seconds:.1f} s to a gap of {100 * plan.gap:.2g} %.", style="dim")  # fmt: skip
    for board in fleet.boards.values():
        out.print(f"{board.model} on {board.gpu}: {board.capacity_rps:.3g} requests/s, {board.idle_w:.0f} W idle, {board.power_w[-1]:.0f} W at that; {board.basis}.", style="dim")  # fmt: skip
    for reason in found.left_out:
        out.print(f"Left out: {reason}.", style="dim")


def _boards(found: Compared, slot: int) -> list[str]:

    plan = found.lines[0].plan
    assert plan is not None
    states = slot_of(found.fleet, plan, slot)
    return [
        ", ".join(f"{number} {name}" for name, number in states[state].items()) or "-"
        for state in ("on", "asleep", "unloaded", "off")
    ]
