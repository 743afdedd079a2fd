"""`wattcount simulate`: what a load would do to a server, played without a GPU (docs/simulation.md)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wattcount.cli.sources import server_runs, slo_of
from wattcount.config.composition import compose
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.prediction.setting import Abstained
from wattcount.report.units import significant
from wattcount.result import Result
from wattcount.result.table import write_table
from wattcount.simulation.predicted import EVIDENCE, Predicted, at_rate, basis_of, serves, simulate
from wattcount.study.questions import USUAL_SLO
from wattcount.terminal import PlainConsole, console, table

COLUMNS = {
    "energy/gpu_j_per_output_token": "J/token",
    "latency/ttft_p95_ms": "TTFT p95 ms",
    "latency/tpot_p50_ms": "TPOT p50 ms",
}
"""Figures of the table that have an interval, with their headings. --json has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="SOURCE", action="append", required=True, help="a data set or a folder with records; may be given more than once")  # fmt: skip
    parser.add_argument("--rates", type=_rates, metavar="1,4,16", help="a curve over these requests/s")
    parser.add_argument("--slo", type=slo_of, default=USUAL_SLO, metavar="ttft_ms=500,tpot_ms=50", help="bounds of a good request")  # fmt: skip
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder with groups of your own")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.parquet", help="also write the rows as results, which the other commands read")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="everything as JSON, in plain units")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as for a run: model=llama3_1_8b gpu=h100 scenario=server scenario.rate_rps=8")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    for override in args.overrides:
        if "=" not in override:
            raise NotStartedError(f"{override!r} is no KEY=VALUE; give model=llama3_1_8b, gpu=h100, ...")
    given = {override.partition("=")[0] for override in args.overrides}
    if lacking := [name for name in ("model", "gpu") if name not in given]:
        raise NotStartedError(
            f"give {' and '.join(f'{name}=...' for name in lacking)}: nothing here says which"
        )
    usual = [] if "scenario" in given else ["scenario=server"]
    config = compose([*usual, *args.overrides], None if args.config_dir is None else str(args.config_dir))
    configs = [at_rate(config, rate) for rate in args.rates] if args.rates else [config]
    try:
        basis = basis_of(
            config, [run for run in server_runs(args.data, config.model.name) if serves(config, run)]
        )
        found = [simulate(each, basis, args.slo) for each in configs]
    except Abstained as abstained:
        if args.output is not None:
            cfg = configs[0]
            write_table(
                [Result.not_predicted(cfg.model.name, cfg.gpu.name, abstained.reason, cfg)], args.output
            )
        if args.json:
            print(
                json.dumps({"evidence": EVIDENCE.value, "abstained": abstained.reason, "rows": []}, indent=2)
            )
        else:
            console().print(f"Nothing is predicted: {abstained.reason}")
        return EXIT_OK
    if args.output is not None:
        write_table([each.to_result(cfg) for each, cfg in zip(found, configs, strict=True)], args.output)
    if args.json:
        print(json.dumps({"evidence": EVIDENCE.value, "basis": basis.words, "rows": [each.to_json() for each in found]}, indent=2))  # fmt: skip
    else:
        _show(console(), found)
    return EXIT_OK


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < 1e6 for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r}: give requests/s above 0 as 1,4,16")
    return rates


def _show(out: PlainConsole, found: list[Predicted]) -> None:
    made = table(["req/s", "W", *COLUMNS.values(), "keep SLO"], 0)
    for each in found:
        made.add_row(
            f"{each.rate_rps:.4g}",
            significant(each.values["power/gpu_mean_w"] or 0.0, 3),
            *(_cell(each, key) for key in COLUMNS),
            "-" if each.attained is None else f"{100 * each.attained:.1f} %",
        )
    bounds = (("TTFT", found[0].slo.ttft_ms), ("TPOT", found[0].slo.tpot_ms), ("E2E", found[0].slo.e2e_ms))
    out.print(f"Evidence: {EVIDENCE.value}, with 90 % intervals", style="bold")
    out.print(made)
    out.print(f"SLO: {', '.join(f'{name} {bound:g} ms' for name, bound in bounds if bound)}.", style="dim")
    for each in found:
        if each.overloaded is not None:
            out.print(f"At {each.rate_rps:.4g} requests/s the load cannot be served: {each.overloaded}.")
    out.print(f"Basis: {found[0].basis}.", style="dim")
    for kind in dict.fromkeys(each.kind for each in found):
        rates = ", ".join(f"{each.rate_rps:.4g}" for each in found if each.kind == kind)
        out.print(f"At {rates} requests/s: {kind}.", style="dim")


def _cell(found: Predicted, key: str) -> str:
    value, interval = found.values[key], found.interval(key)
    if value is None or interval is None:
        return "-"
    return f"{significant(value, 3)} ({significant(interval[0], 2)}-{significant(interval[1], 2)})"
