"""How long the study and the advice take on thousands of results, and whether that is within what they promise.

    python benchmarks/bench_study.py [--records FOLDER] [--json FILE]

Without --records: RESULTS results are made up, of 31 models on two GPUs, as many settings as a campaign has, each started three times. With it: the results of a
folder of records, which are read from its kept table. Emulated results count as measured here, for the study leaves emulated ones out. Times are of this process
alone: CPU and wall clock, least of --tries.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.records.schema import Evidence
from wattcount.result import Result, results
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY
from wattcount.study.advice import Need, advise
from wattcount.study.questions import QUESTIONS, Study

RESULTS = 5580
"""As many as 31 models x 2 GPUs x 2 settings x 15 loads x 3 starts."""
STUDY_S, RECOMMEND_S = 10.0, 2.0
"""Limits of the wall time [s] on an idle core of two."""
GPUS = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
RATES_RPS = (0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
BATCHES = (32, 64, 128, 256, 512)


def made_up(seed: int = 1) -> list[Result]:
    rng = np.random.default_rng(seed)
    found = []
    for model in range(31):
        for gpu in GPUS:
            for lever in ((), ("fp8",)):
                for load in (*RATES_RPS, *(float(-size) for size in BATCHES)):
                    level = (1 + model / 10) * (0.8 if lever else 1.0) * (1 + 5 / abs(load))
                    key = f"{model} {gpu} {lever} {load}"
                    found += [
                        _result(key, f"model_{model}", gpu, lever, load, level * float(np.exp(rng.normal(0, 0.03))), start)
                        for start in range(3)
                    ]  # fmt: skip
    return found


def _result(key: str, model: str, gpu: str, lever: tuple[str, ...], load: float, joules: float, start: int) -> Result:  # fmt: skip
    serves = load > 0
    latency = {
        f"latency/{name}_p{p}_ms": 20.0 + p / 10 for name in ("ttft", "tpot") for p in (50, 90, 95, 99)
    }
    return Result(
        run_id=f"{key} {start}",
        session=f"{key} {start}",
        setting_key=key,
        setting={"model": {"name": model}, "gpu": {"found_name": gpu}, "engine": {"levers": list(lever)},
                 "scenario": {"kind": "server" if serves else "batch", "rate_rps": load if serves else None}},
        model=model,
        weights="random",
        scenario="server" if serves else "batch",
        kind="server" if serves else "batch",
        num_requests=None if serves else int(-load),
        rate_rps=load if serves else None,
        input_tokens=512,
        output_tokens=128,
        levers=lever,
        gpus=(gpu,),
        boards=(f"{gpu} {start}",),
        seed=1,
        repeat=start,
        evidence=Evidence.MEASURED,
        metrics={
            PER_TOKEN: joules,
            WATTS: 300.0 + 100.0 * joules,
            ENERGY: 20000.0,
            f"{ENERGY}_u95_sensor": 1000.0,
            "energy/gpu_j_per_request": 128 * joules,
            "throughput/output_tokens_per_s": 1000.0,
            "requests/sent": 500.0,
            **latency,
        },
    )  # fmt: skip


def least(work: Callable[[], object], tries: int) -> tuple[float, float]:
    """(wall, CPU) [s] of the quickest of `tries`."""
    found = []
    for _ in range(tries):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=Path)
    parser.add_argument("--tries", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}

    def timed(name: str, work: Callable[[], object], limit_s: float | None = None) -> None:
        wall, cpu = least(work, args.tries)
        rows[name] = {"wall_s": round(wall, 3), "cpu_s": round(cpu, 3)} | (
            {"limit_s": limit_s} if limit_s else {}
        )
        print(f"{name}: {wall:.2f} s, CPU {cpu:.2f} s" + (f" (limit {limit_s:g} s)" if limit_s else ""))

    runs = made_up()
    if args.records:
        folder: Path = args.records
        results(folder)
        timed("reading the kept table", lambda: results(folder))
        runs = [replace(run, evidence=Evidence.MEASURED) for run in results(folder)]
    server = next(run for run in runs if run.kind == "server" and run.rate_rps)
    need = Need(
        str(server.model), (server.rate_rps or 0.0) * 1.1, server.input_tokens or 0, server.output_tokens or 0,
        SloConfig(ttft_ms=500.0, tpot_ms=50.0),
    )  # fmt: skip
    print(f"{len(runs)} results")
    timed("study, all questions", lambda: Study(runs).answers(), STUDY_S)
    for name in QUESTIONS:
        timed(f"study, {name} alone", lambda name=name: Study(runs).answers([name]))  # type: ignore[misc]
    timed("recommend", lambda: advise(runs, need), RECOMMEND_S)
    if args.json:
        args.json.write_text(json.dumps({"results": len(runs), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
