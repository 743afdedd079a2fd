"""`wattcount status` on a sweep with as many records as the paper has runs: 5,580.

    python benchmarks/bench_status.py [--points 5580] [--repeats 5] [--limit-s 2]

One batch is run on the tiny engine and an emulated H200. Its record is copied, with ids of its own, for every point of a
sweep of 50 models x 10 GPUs; raw files are linked. The first calls look at 500 records each for the first time (`ResultTable.glance`). The ledger holds what a sweep in three
starts would have written: every point started and done, every twentieth failed once before. Then the program is started
afresh and timed from outside, with the files in the page cache and, where that is permitted, without: then most of the time is Python and its
libraries being read from the disk, and the limit is not asked of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wattcount.metrics import load_metrics, to_bytes
from wattcount.records import Record
from wattcount.records.writer import final_folder, new_run_id
from wattcount.result import judge
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, Plan, Point, State
from wattcount.sweep.status import FIGURES

STARTS = 3
FAILED_BEFORE = 20
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
MEASURE = (
    "model=tiny engine=tiny power=emulated gpu=h200 scenario=batch tracking=none display.live=false "
    "scenario.num_requests=8 scenario.bare_idle_s=0.5 scenario.loaded_idle_s=0.5 scenario.bare_idle_after_s=0"
)


def measured(folder: Path) -> Path:
    """The record of one short emulated run."""
    command = [sys.executable, "-m", "wattcount", *MEASURE.split(), f"records_dir={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    found = next(folder.glob("*/r0-*"), None)
    if found is None:
        raise SystemExit(f"the run left no record: {done.stderr[-2000:]}")
    return found


def copy(record: Path, info: dict, metrics: dict, records_dir: Path, planned: Point) -> Path:
    run_id = new_run_id()
    folder = final_folder(records_dir, planned.key * 5, planned.repeat, run_id)
    folder.mkdir(parents=True)
    info |= {"run_id": run_id, "point_id": planned.key * 5, "seed": planned.seed, "repeat": planned.repeat}
    (folder / "run.json").write_text(json.dumps(info))
    for file in record.glob("*.parquet"):
        os.link(file, folder / file.name)
    (folder / "metrics.json").write_bytes(to_bytes(metrics, Record.open(folder).digests))
    return folder


def points(number: int) -> list[Point]:
    kinds = [
        (f"model_{m}", f"gpu_{g}", load)
        for m in range(50)
        for g in range(10)
        for load in ("0.017/s", "0.33/s")
    ]
    return [
        Point(
            f"{i:012x}", (f"model={model}", f"gpu={gpu}", f"repeat={i // len(kinds)}"),
            model, gpu, "server", load, 0, i // len(kinds),
        )
        for i in range(number)
        for model, gpu, load in [kinds[i % len(kinds)]]
    ]  # fmt: skip


def make_sweep(records_dir: Path, record: Path, number: int) -> None:
    planned = points(number)
    info, metrics, found = Record.open(record).info, load_metrics(Record.open(record)), judge(record)
    facts = {
        "wall_s": found.wall_s,
        "energy_j": found.run_energy_j,
        "figures": {name: found.value(name) for name in FIGURES},
        "gpu_uuid": found.boards[0],
    }
    Ledger.open(records_dir, "paper").write_plan(
        Plan("paper", tuple(planned), "2026", ("+experiment=paper",))
    )
    for start in range(STARTS):
        with Ledger.open(records_dir, "paper") as ledger:
            ledger.append(Outcome(State.running))
            for i in range(start, number, STARTS):
                key = planned[i].key
                if i % FAILED_BEFORE == 0:
                    ledger.append(Outcome(State.running, key, attempt=1))
                    ledger.append(
                        Outcome(State.failed, key, attempt=1, reason="timeout", message="took too long")
                    )
                folder = copy(record, info.to_json(), metrics, records_dir, planned[i])
                ledger.append(Outcome(State.running, key, attempt=2))
                ledger.append(Outcome(State.done, key, attempt=2, record=str(folder), **facts))


def timed(records_dir: Path, *options: str) -> tuple[float, str]:
    """Seconds of a new process, and what it printed."""
    command = [sys.executable, "-m", "wattcount", "status", "--records-dir", str(records_dir), *options]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return time.perf_counter() - began, done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=5580)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wattcount-bench-") as name:
        top = Path(name)
        began = time.perf_counter()
        make_sweep(top / "records", measured(top / "one"), args.points)
        print(f"{args.points} records and their ledger made in {time.perf_counter() - began:.0f} s")
        worst = 0.0
        for cache in ("in the page cache", "page cache dropped"):
            for what, options in {"text": (), "json": ("--json",)}.items():
                times = []
                for _ in range(args.repeats):
                    if "dropped" in cache:
                        os.sync()
                        with contextlib.suppress(OSError):
                            DROP_CACHES.write_text("3")
                    seconds, printed = timed(top / "records", *options)
                    times.append(seconds)
                if "dropped" not in cache:
                    worst = max(worst, *times)
                print(f"{cache}, {what}: best {min(times):.2f} s, worst {max(times):.2f} s")
        found = json.loads(printed)
        print(f"counts {found['counts']}")
        if found["counts"]["done"] != args.points:
            print("NOT all points were found done")
            return 1
        print(
            f"limit {args.limit_s:g} s: {'met' if worst < args.limit_s else 'NOT met'} (worst {worst:.2f} s)"
        )
        return 0 if worst < args.limit_s else 1


if __name__ == "__main__":
    raise SystemExit(main())
