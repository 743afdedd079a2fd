"""How much worse than the best is what `recommend` advises, where it has not seen the answer? On the records in data/.

    OMP_NUM_THREADS=1 python benchmarks/bench_advice_regret.py --json data/study/regret.json

Rates: of each model at each load that several options were measured at, all runs at that rate are held out, and the advice comes from the other rates of
those options. Repeats: of each model and load with several settings that were repeated, the first half of the runs of each gives the advice, the other half the
truth. Truth is the mean energy of the runs held out, options that were not measured at the load count for nothing. Beside the advice stand four baselines on the same
held-out loads: the default GPU (H100) with its best setting; the GPU with the least energy over all loads of the kind; the worst option; and the
first measured option without levers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.advice import Need, Option, advise
from wattcount.study.comparison import Cell, cells
from wattcount.study.curves import curve_key
from wattcount.study.service import Count, over_runs

ROOT = Path(__file__).resolve().parent.parent
SLO = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
DEFAULT = "H100"


@dataclass(frozen=True)
class Truth:
    """An option at a held-out load: what it is told by, its GPU, whether nothing was turned, and its energy per token [J]."""

    key: object
    gpu: str
    plain: bool
    energy_j: float


def held_out_server(runs: list[Result]) -> Iterable[tuple[str, list[Truth], Option | None]]:
    served = [run for run in runs if run.kind == "server" and run.rate_rps is not None and run.valid]
    for model, rate, lengths in sorted(
        {(str(r.model), float(r.rate_rps or 0), (r.input_tokens or 0, r.output_tokens or 0)) for r in served}
    ):
        held = [
            r
            for r in served
            if (r.model, r.rate_rps, (r.input_tokens, r.output_tokens)) == (model, rate, lengths)
        ]
        truths = [_truth(cell, curve_key(cell)) for cell in cells(held) if _keeps(cell)]
        if len(truths) < 2:
            continue
        left = [run for run in runs if run not in held]
        advice = advise(left, Need(model, rate, *lengths, SLO))
        ones = [option for option in advice.options if option.replicas == 1]
        known = {truth.key for truth in truths}
        usable = [option for option in ones if curve_key(option.nodes[-1]) in known]
        if len({curve_key(option.nodes[-1]) for option in usable}) < 2:
            continue
        reached = {curve_key(option.nodes[-1]) for option in usable}
        yield (
            f"{model}, {rate:g} requests/s, the rate held out",
            [truth for truth in truths if truth.key in reached],
            usable[0],
        )


def held_out_repeats(runs: list[Result], kind: str) -> Iterable[tuple[str, list[Truth], Option | None]]:
    """Settings with two valid runs at least: the first half tells, the other half is the truth."""
    mine = [run for run in runs if run.kind == kind and run.valid]
    loads: dict[tuple[object, ...], list[Result]] = {}
    for run in mine:
        loads.setdefault(
            (str(run.model), run.num_requests, run.rate_rps, run.input_tokens or 0, run.output_tokens or 0),
            [],
        ).append(run)
    for (model, size, rate, inputs, outputs), held in loads.items():
        found = [cell for cell in cells(held) if len(cell.runs) > 1 and (kind == "batch" or _keeps(cell))]
        if len(found) < 2:
            continue
        halves = [(cell, (len(cell.runs) + 1) // 2) for cell in found]
        seen = [run for cell, half in halves for run in cell.runs[:half]]
        truths = [_truth(replace(cell, runs=cell.runs[half:]), cell.key) for cell, half in halves]
        others = [run for run in runs if run not in held]
        advice = advise([*others, *seen], Need(str(model), rate, inputs, outputs, SLO))  # type: ignore[arg-type]
        same = {cell.key for cell in found}
        usable = [
            o for o in advice.options if o.replicas == 1 and len(o.nodes) == 1 and o.nodes[0].key in same
        ]
        load = f"batch of {size}" if kind == "batch" else f"{rate:g} requests/s"
        yield f"{model}, {load}, repeats held out", truths, usable[0] if usable else None


def _keeps(cell: Cell) -> bool:
    share = over_runs(cell.runs, SLO, Count.WHERE_UNSURE)
    return share is not None and share.keeps is True


def _truth(cell: Cell, key: object) -> Truth:
    value = cell.mean(PER_TOKEN)
    assert value is not None
    return Truth(key, cell.gpu_model, not cell.levers, value)


def judged(
    loads: list[tuple[str, list[Truth], Option | None]],
) -> tuple[list[dict[str, object]], dict[str, float]]:
    """(a row for each load, mean regret of the advice and of each baseline, relative)."""
    gpus = sorted({truth.gpu for _, truths, _ in loads for truth in truths})
    cost = {
        gpu: np.mean(
            [
                _least(truths, gpu) / _least(truths)
                for _, truths, _ in loads
                if any(t.gpu == gpu for t in truths)
            ]
        )
        for gpu in gpus
    }
    best_gpu = min(gpus, key=lambda gpu: cost[gpu])
    rows = []
    for name, truths, option in loads:
        least = _least(truths)
        if option is None:
            continue
        keys = (option.nodes[0].key, curve_key(option.nodes[-1]))
        taken = next(truth for truth in truths if truth.key in keys)
        default = [truth for truth in truths if DEFAULT in truth.gpu]
        plain = [truth for truth in truths if truth.plain]
        rows.append(
            {
                "load": name,
                "options": len(truths),
                "regret": taken.energy_j / least - 1,
                "default_gpu": _least(default) / least - 1 if default else None,
                "best_single_gpu": _least(truths, best_gpu) / least - 1
                if any(t.gpu == best_gpu for t in truths)
                else None,
                "nothing_turned": plain[0].energy_j / least - 1 if plain else None,
                "worst": max(truth.energy_j for truth in truths) / least - 1,
            }
        )
    means = {}
    for key in ("regret", "default_gpu", "best_single_gpu", "nothing_turned", "worst"):
        values = [float(row[key]) for row in rows if row[key] is not None]  # type: ignore[arg-type]
        if values:
            means[key] = float(np.mean(values))
    return rows, means


def _least(truths: list[Truth], gpu: str | None = None) -> float:
    return min(truth.energy_j for truth in truths if gpu is None or truth.gpu == gpu)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]
    done = {}
    kinds = {
        "batch": list(held_out_repeats(runs, "batch")),
        "server": [*held_out_repeats(runs, "server"), *held_out_server(runs)],
    }
    for kind, loads in kinds.items():
        rows, means = judged(loads)
        done[kind] = {"loads": rows, "mean": means}
        for row in rows:
            print(row)
        print(kind, len(rows), {key: f"{100 * value:.2f} %" for key, value in means.items()})
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
