"""How much worse than the best is what `recommend` advises, where it has not seen the answer? On the records in data/.

    OMP_NUM_THREADS=1 python benchmarks/bench_advice_regret.py --json data/study/regret.json

Repeats held out: of each model and load with several settings that were started twice or more, half of the starts of each, drawn by chance, give the advice, the other half the
truth; the mean over SPLITS such draws is the load's regret. A single split hangs on which start fell where. Rates held out: of each model at each rate that several options
were measured at, all runs at that rate are held out, and the advice comes from the other rates of those options.

Truth is the mean energy of the starts held out, which scatter themselves: the best of them looks better than it is. So beside the advice stands `knows_all`: who takes
the option with the least mean over *all* starts, those held out included. What that one loses is chance, and nobody can lose less on purpose. A load that `recommend` refuses counts
apart, with what its first option would have lost. Halves of few starts lie on opposite sides of their mean, so the advice is wrong more often than the next start would show it: `against_all` has the
mean over all starts as the truth, those that were seen too, and says too little. What the advice costs lies between the two. The baselines, on the same loads: the default GPU (H100) with its best setting, the GPU with the least energy over all
other loads of the kind with its best setting (best as the starts that were seen tell), the option without levers, and the worst option.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.advice import Need, advise
from wattcount.study.comparison import Cell, cells
from wattcount.study.curves import curve_key
from wattcount.study.service import Count, over_runs

ROOT = Path(__file__).resolve().parent.parent
SLO = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
DEFAULT = "H100"
SPLITS = 20
"""Draws of a load's starts into halves: the mean over them moves by less than a quarter of what one split moves by."""
SEED = 11


@dataclass(frozen=True)
class Choice:
    """An option at a held-out load: its GPU, whether nothing was turned, its energy per token as held out and over all starts [J], and its place in the advice."""

    gpu: str
    plain: bool
    truth_j: float
    all_j: float
    place: int


@dataclass(frozen=True)
class Try:
    """One load once held out. `refused`: `recommend` gave no advice."""

    load: str
    choices: Sequence[Choice]
    refused: bool


def energy_j(cell: Cell) -> float:
    value = cell.mean(PER_TOKEN)
    assert value is not None
    return value


def keeps(cell: Cell) -> bool:
    share = over_runs(cell.runs, SLO, Count.WHERE_UNSURE)
    return share is not None and share.keeps is True


def rates_held_out(runs: Sequence[Result]) -> Iterable[Try]:
    served = [run for run in runs if run.kind == "server" and run.rate_rps is not None and run.valid]
    loads: dict[tuple[str, float, int, int], list[Result]] = {}
    for run in served:
        loads.setdefault(
            (str(run.model), float(run.rate_rps or 0), run.input_tokens or 0, run.output_tokens or 0), []
        ).append(run)
    for (model, rate, inputs, outputs), held in sorted(loads.items()):
        there = {curve_key(cell): cell for cell in cells(held) if keeps(cell)}
        if len(there) < 2:
            continue
        advice = advise([run for run in runs if run not in held], Need(model, rate, inputs, outputs, SLO))
        places: dict[object, int] = {}
        for place, option in enumerate(advice.options):
            if option.replicas == 1:
                places.setdefault(curve_key(option.nodes[-1]), place)
        found = [
            Choice(cell.gpu_model, not cell.levers, energy_j(cell), energy_j(cell), places[key])
            for key, cell in there.items()
            if key in places
        ]
        if len(found) > 1:
            yield Try(f"{model}, {rate:g} requests/s, the rate held out", found, advice.refusal is not None)


def repeats_held_out(runs: Sequence[Result], kind: str) -> Iterable[Try]:
    """Settings with two starts at least."""
    loads: dict[tuple[object, ...], list[Result]] = {}
    for run in runs:
        if run.kind == kind and run.valid:
            loads.setdefault(
                (str(run.model), run.num_requests, run.rate_rps, run.input_tokens, run.output_tokens), []
            ).append(run)
    rng = np.random.default_rng(SEED)
    for (model, size, rate, inputs, outputs), held in loads.items():
        settings = [cell for cell in cells(held) if len(cell.runs) > 1 and (kind == "batch" or keeps(cell))]
        if len(settings) < 2:
            continue
        others = [run for run in runs if run not in held]
        need = Need(str(model), rate, inputs or 0, outputs or 0, SLO)  # type: ignore[arg-type,operator]
        load = f"batch of {size}" if kind == "batch" else f"{rate:g} requests/s"
        for _ in range(SPLITS):
            seen: list[Result] = []
            truth: dict[object, Cell] = {}
            for cell in settings:
                order = [cell.runs[i] for i in rng.permutation(len(cell.runs))]
                half = (len(order) + int(rng.integers(2))) // 2
                seen += order[:half]
                truth[cell.key] = replace(cell, runs=tuple(order[half:]))
            advice = advise([*others, *seen], need)
            places: dict[object, int] = {}
            for place, option in enumerate(advice.options):
                if option.replicas == 1 and len(option.nodes) == 1:
                    places.setdefault(option.nodes[0].key, place)
            found = [
                Choice(
                    cell.gpu_model,
                    not cell.levers,
                    energy_j(truth[cell.key]),
                    energy_j(cell),
                    places[cell.key],
                )
                for cell in settings
                if cell.key in places
            ]
            if len(found) > 1:
                yield Try(f"{model}, {load}, repeats held out", found, advice.refusal is not None)


def excess(choices: Sequence[Choice], taken: Choice | None) -> float | None:
    """How much more energy `taken` has than the least of them, as held out, relative."""
    return None if taken is None else taken.truth_j / min(choice.truth_j for choice in choices) - 1


def first(choices: Iterable[Choice]) -> Choice | None:
    """The one that the advice has before the others."""
    return min(choices, key=lambda choice: choice.place, default=None)


def best_gpus(tries: Sequence[Try]) -> Mapping[str, str]:
    """For each load the GPU with the least energy over the other loads."""
    cost: dict[str, dict[str, float]] = {}
    for one in tries:
        least = min(choice.all_j for choice in one.choices)
        cost[one.load] = {
            gpu: min(c.all_j for c in one.choices if c.gpu == gpu) / least
            for gpu in {c.gpu for c in one.choices}
        }
    found = {}
    for load in cost:
        others: dict[str, list[float]] = defaultdict(list)
        for other, costs in cost.items():
            if other != load and len(costs) > 1:
                for gpu, value in costs.items():
                    others[gpu].append(value)
        if others:
            found[load] = min(others, key=lambda gpu: float(np.mean(others[gpu])))
    return found


WHO = ("regret", "against_all", "knows_all", "default_gpu", "best_single_gpu", "nothing_turned", "worst")


def judged(tries: Sequence[Try]) -> tuple[list[dict[str, object]], dict[str, float]]:
    """(a row for each load, the mean over the loads that were advised)."""
    best = best_gpus(tries)
    by_load: dict[str, list[Try]] = {}
    for one in tries:
        by_load.setdefault(one.load, []).append(one)
    rows: list[dict[str, object]] = []
    for load, mine in by_load.items():
        advised = [one for one in mine if not one.refused]
        refused = [float(excess(one.choices, first(one.choices)) or 0.0) for one in mine if one.refused]
        row: dict[str, object] = {
            "load": load,
            "options": len(mine[0].choices),
            "tries": len(mine),
            "refused": len(refused),
            "regret_where_refused": float(np.mean(refused)) if refused else None,
        }
        for who in WHO:
            losses = [
                loss for one in advised if (loss := _loss(who, one.choices, best.get(load))) is not None
            ]
            row[who] = float(np.mean(losses)) if losses else None
        rows.append(row)
    means = {}
    for who in WHO:
        values = [float(value) for row in rows if (value := row[who]) is not None]  # type: ignore[arg-type]
        if values:
            means[who] = float(np.mean(values))
    return rows, means


def _loss(who: str, choices: Sequence[Choice], best_gpu: str | None) -> float | None:
    if who == "against_all":
        taken = first(choices)
        return None if taken is None else taken.all_j / min(choice.all_j for choice in choices) - 1
    taken = {
        "regret": lambda: first(choices),
        "knows_all": lambda: min(choices, key=lambda choice: choice.all_j),
        "default_gpu": lambda: first(choice for choice in choices if DEFAULT in choice.gpu),
        "best_single_gpu": lambda: first(choice for choice in choices if choice.gpu == best_gpu),
        "nothing_turned": lambda: first(choice for choice in choices if choice.plain),
        "worst": lambda: max(choices, key=lambda choice: choice.truth_j),
    }[who]()
    return excess(choices, taken)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]
    done = {}
    kinds = {
        "batch": list(repeats_held_out(runs, "batch")),
        "server": [*repeats_held_out(runs, "server"), *rates_held_out(runs)],
    }
    for kind, tries in kinds.items():
        rows, means = judged(tries)
        done[kind] = {"loads": rows, "mean": means}
        for row in rows:
            print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        print(kind, len(rows), {key: f"{100 * value:.2f} %" for key, value in means.items()})
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
