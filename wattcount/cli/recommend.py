"""`wattcount recommend`: which GPU, settings and number of replicas should serve a model at a load, and how sure that is."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.cli.sources import QUALITY, results_of, scores_of, slo_of
from wattcount.errors import EXIT_FAILED, EXIT_OK
from wattcount.report.units import count, significant
from wattcount.study.advice import (
    HOW_INTERPOLATED,
    Advice,
    Need,
    Option,
    advise,
    serve_command,
    verify_command,
)
from wattcount.study.bills import Bills, read_bills
from wattcount.study.questions import USUAL_SLO
from wattcount.terminal import PlainConsole, console, table

if TYPE_CHECKING:
    from wattcount.fitting.unmeasured import Filled

SHOWN = 8
"""Options that are shown without --all: the first, and enough to see what others cost."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="SOURCE", nargs="+", required=True, help="a data set, folders with records, tables of results")  # fmt: skip
    parser.add_argument("--model", required=True, help="option or hub id")
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument("--rate", type=_rate, metavar="RPS", help="requests/s of a server, altogether")
    load.add_argument("--batch", action="store_true", help="as a batch, which promises nobody a latency")
    parser.add_argument("--lengths", type=_lengths, default=(512, 128), metavar="IN/OUT", help="tokens of prompt and answer (512/128)")  # fmt: skip
    parser.add_argument("--slo", type=slo_of, default=USUAL_SLO, metavar="ttft_ms=500,tpot_ms=50", help="bounds of a good request")  # fmt: skip
    parser.add_argument("--gpus", type=lambda text: tuple(filter(None, text.split(","))), default=(), metavar="A,B", help="only these")  # fmt: skip
    parser.add_argument("--price", type=Path, metavar="FILE", help="CSV: gpu,per_hour[,currency]")
    parser.add_argument("--carbon", type=Path, metavar="FILE", help="CSV: hour,g_per_kwh for the hours 0 to 23 or `all`, and a row `pue`")  # fmt: skip
    parser.add_argument("--quality", nargs="+", metavar="PATH", help=QUALITY)
    guess = parser.add_mutually_exclusive_group()
    guess.add_argument("--predicted", action="store_true", help="also GPUs that were not measured so, by prediction, in a table of their own (some 10 s); without this only where nothing was measured")  # fmt: skip
    guess.add_argument("--measured-only", action="store_true", help="no prediction, even where nothing was measured")  # fmt: skip
    parser.add_argument("--all", action="store_true", help=f"all options, not the first {SHOWN}")
    parser.add_argument("--json", action="store_true", help="everything as JSON, in plain units")


def main(args: argparse.Namespace) -> int:
    """1 where the data cannot tell."""
    need = Need(
        args.model, None if args.batch else args.rate, args.lengths[0], args.lengths[1], args.slo, args.gpus
    )
    bills = read_bills(args.price, args.carbon)
    results = results_of(args.data)
    advice = advise(results, need, bills, scores_of(args.quality, results))
    filled = None
    if args.predicted or not (advice.options or args.measured_only):
        # The fit needs scipy: nobody else waits for it.
        from wattcount.fitting.unmeasured import fill

        filled = fill(results, need, advice, bills)
    if args.json:
        told = {} if filled is None else filled.to_json()
        print(json.dumps(advice.to_json() | told, indent=2))
    else:
        _show(console(), advice, bills, None if args.all else SHOWN)
        if filled is not None:
            _show_filled(console(), advice, filled)
    return EXIT_OK if advice.refusal is None else EXIT_FAILED


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate; give requests/s above 0")
    return rate


def _lengths(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
    if found is None or int(found[2]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give tokens of prompt and answer as 512/128")
    return int(found[1]), int(found[2])


def _show(out: PlainConsole, advice: Advice, bills: Bills, limit: int | None) -> None:
    need = advice.need
    out.print(f"To serve {need.words}:", style="bold")
    if advice.refusal is not None:
        out.print(f"No advice: {advice.refusal}.")
    elif advice.options:
        first = advice.options[0]
        out.print(
            f"{first.gpu} x {first.replicas}, {first.setting}: {significant(first.energy_j, 3)} J per good request "
            f"({significant(first.low_j, 3)} to {significant(first.high_j, 3)} with 95 %, {first.how_words}); {advice.why}. "
            f"Expected regret {100 * (advice.regret or 0.0):.1f} %; the best of these with probability {100 * (advice.sure_of_first or 0.0):.0f} %."
        )
        if others := len(advice.as_good):
            out.print(
                f"{count(others, 'other option')} (marked ~) may be as good for all that the data tell: choose among them by price, or by what you have."
            )
    if advice.options:
        _table(out, advice, limit)
        out.print(bills.words, style="dim")
        if (hours := bills.best_hours) is not None:
            out.print(
                f"Hour {hours[0]} has the least carbon, {100 * hours[2]:.0f} % of hour {hours[1]}.",
                style="dim",
            )
    for reason, number in advice.left_out.items() if advice.options else ():
        out.print(f"Left out: {reason}{f' ({number})' if number else ''}.", style="dim")
    for note in advice.notes:
        out.print(note, style="dim")
    if advice.refusal is None and advice.options:
        if (serve := serve_command(advice.options[0])) is not None:
            out.print("\nServe each replica with")
            out.print(f"  {serve}", soft_wrap=True)
        verify = verify_command(advice.options[0], need)
        out.print("\nVerify it with")
        out.print(f"  {verify}", soft_wrap=True)
    unsure = advice.refusal is not None or (advice.sure_of_first or 0.0) < 0.95
    if advice.tell is not None and unsure and (advice.refusal is not None or advice.tell != verify):
        out.print("\nThis run would tell more")
        out.print(f"  {advice.tell}", soft_wrap=True)


def _show_filled(out: PlainConsole, advice: Advice, filled: Filled) -> None:
    out.print("\nPredicted, on GPUs where this was not measured; 90 % intervals", style="bold")
    if filled.options:
        priced = any(option.cost_per_1000 is not None for option in filled.options)
        served = any(option.share is not None for option in filled.options)
        headings = ["GPUs", "J/good", "90 %", "W"]
        headings += ["keep SLO"] * served + ["gCO2/1000"] + ["cost/1000"] * priced
        made = table(headings, 1)
        for option in filled.options:
            share = "-" if option.share is None else f"{100 * option.share:.0f} %"
            made.add_row(
                f"{option.gpus} x {option.gpu}" if option.gpus > 1 else option.gpu,
                significant(option.energy_j, 3),
                f"{significant(option.p05_j, 2)} to {significant(option.p95_j, 2)}",
                significant(option.mean_w, 3),
                *([share] * served),
                significant(option.carbon_g_per_1000, 2),
                *([significant(option.cost_per_1000, 3)] * priced),
            )
        out.print(made)
        for basis in dict.fromkeys(option.basis for option in filled.options):
            names = ", ".join(option.gpu for option in filled.options if option.basis == basis)
            out.print(f"{names}: {basis}.", style="dim")
        out.print("Energy by prediction from other settings; SLO as played in the simulator. Never ranked among what was measured.", style="dim")  # fmt: skip
        if advice.options and (best := advice.options[0]).low_j > filled.options[0].p95_j:
            out.print(f"{filled.options[0].gpu} would take less than {best.gpu} even at the end of its interval: measure it.")  # fmt: skip
    for name, reason in filled.abstained.items():
        out.print(f"No prediction for {name}: {reason}.", style="dim")


def _table(out: PlainConsole, advice: Advice, limit: int | None) -> None:
    """Of each GPU with its settings the best number of replicas; without a limit all numbers."""
    first = advice.options[0]
    best = {option.place: option for option in reversed(advice.options)}
    shown = (
        list(advice.options) if limit is None else [o for o in advice.options if best[o.place] is o][:limit]
    )
    served = first.rate_rps is not None
    priced = any(option.cost_per_1000 is not None for option in advice.options)
    names = {
        setting: letter(at) for at, setting in enumerate(dict.fromkeys(option.setting for option in shown))
    }
    headings = [
        "GPUs",
        "set-\nting",
        *["req/s\neach"] * served,
        "J/good\nrequest",
        "95 %",
        "to\nfirst",
        "boards/\nstarts/\nruns",
        "gCO2/\n1000",
    ]
    made = table([*headings, *["cost/\n1000"] * priced], 2 + served)
    for option in shown:
        made.add_row(
            f"{option.replicas} x {option.gpu}".replace("NVIDIA ", "").replace(" HBM3", ""),
            names[option.setting],
            *([_each(option)] if served else []),
            significant(option.energy_j, 3),
            f"{significant(option.low_j, 2)}-{significant(option.high_j, 2)}",
            f"{'~' if option in advice.as_good else ''}{100 * (option.energy_j / first.energy_j - 1):+.0f} %",
            option.basis,
            significant(option.carbon_g_per_1000, 2),
            *([significant(option.cost_per_1000, 3)] * priced),
        )  # fmt: skip
    out.print(made)
    for setting, name in names.items():
        out.print(f"{name}: {setting}", style="dim")
    if any(option.how == HOW_INTERPOLATED for option in shown):
        out.print("In brackets: the measured rates between which it was interpolated.", style="dim")
    if len(shown) < len(advice.options):
        out.print(
            f"and {len(advice.options) - len(shown)} more, most of them with more replicas (--all)",
            style="dim",
        )


def letter(number: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    turn, at = divmod(number, 26)
    return chr(ord("A") + at) + (str(turn + 1) if turn else "")


def _each(option: Option) -> str:
    """`16`, `12 (8-16)`."""
    between = "-".join(f"{cell.first.rate_rps:g}" for cell in option.nodes)
    return f"{option.rate_rps:.3g}" + (f" ({between})" if option.how == HOW_INTERPOLATED else "")
