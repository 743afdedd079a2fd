#!/usr/bin/env python3
"""How far the simulator is from real runs at rates that were left out of its step model; the protocol is in docs/simulation.md.

    python benchmarks/bench_simulation.py        # writes data/study/simulation.json; `make docs` makes the tables of it

Beside it: the physics of `prediction.steps`, which have seen none of these runs, on every measured server run whose record tells its steps.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from wattcount.prediction.setting import Abstained, PredictionSetting
from wattcount.prediction.steps import step_model
from wattcount.records import Record
from wattcount.result import results
from wattcount.simulation.check import GATES, SLOS, groups, left_out, repeated
from wattcount.simulation.figures import figures, latencies
from wattcount.simulation.measured import SeenRun, UnusableError, read_run
from wattcount.simulation.scheduler import play

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("h200", "h100", "campaign", "servers")


def seen(folders: tuple[str, ...] = FOLDERS) -> list[SeenRun]:
    found = []
    for folder in folders:
        for run in results(ROOT / "data" / folder / "records", keep=False):
            if run.valid and run.kind == "server" and run.record is not None:
                try:
                    found.append(read_run(Record.open(run.record)))
                except UnusableError as error:
                    print(error)
    return found


def by_physics(run: SeenRun) -> dict[str, float | None] | None:
    """Errors by gate of a run played by the physics; None where they abstain."""
    try:
        model = step_model(PredictionSetting.of_run(run.config))
    except Abstained:
        return None
    played = play(run.load, run.limits, model, jump=True)
    made, latency = figures(played, run.window_s), latencies(played, run.window_s)
    tpot, ttft = run.seen.percentile_ms("tpot", 50), run.seen.percentile_ms("ttft", 95)
    found: dict[str, float | None] = {
        "energy": (made["energy/gpu_j"] or math.nan) / run.energy_j - 1.0,
        "tpot_p50": (made["latency/tpot_p50_ms"] or math.nan) / tpot - 1.0 if tpot else None,
        "ttft_p95": (made["latency/ttft_p95_ms"] or math.nan) / ttft - 1.0 if ttft else None,
    }
    for name, slo in SLOS.items():
        simulated, measured = latency.attained(slo), run.seen.attained(slo)
        found[name] = None if simulated is None or measured is None else simulated - measured
    return found


def quantile(errors: list[float]) -> float:
    """|ln(1 + error)| that 90 % keep, by the rank that holds for one more (conformal)."""
    logs = np.sort(np.abs(np.log1p(errors)))
    rank = min(len(logs), math.ceil(0.9 * (len(logs) + 1)))
    return float(logs[rank - 1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=ROOT / "data" / "study" / "simulation.json")
    args = parser.parse_args()
    begun = time.perf_counter()
    runs = seen()
    rows: list[dict[str, Any]] = []
    repeats: list[dict[str, Any]] = []
    for group in groups(runs):
        for found in left_out(group):
            rows.append(found.to_json())
            print(rows[-1], flush=True)
        first = {"model": group[0].config.model.name, "gpu": group[0].gpu}
        repeats += [{**first, "errors": errors} for errors in repeated(group)]
    physics = [
        {"model": run.config.model.name, "gpu": run.gpu, "rate_rps": run.rate_rps, "errors": errors}
        for run in runs
        if (errors := by_physics(run)) is not None
    ]
    intervals = {
        name: {
            short: quantile([row["errors"][gate] for row in those if row["errors"][gate] is not None])
            for short, gate in (("energy", "energy"), ("tpot", "tpot_p50"), ("ttft", "ttft_p95"))
        }
        for name, those in (
            ("within", [row for row in rows if row["within"]]),
            ("beyond", [row for row in rows if not row["within"]]),
            ("physics", physics),
        )
    }
    print(intervals)
    done = {"gates": GATES, "left_out": rows, "repeats": repeats, "physics": physics, "intervals": intervals}
    args.json.write_text(json.dumps(done, indent=1) + "\n")
    print(f"{len(runs)} runs, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
