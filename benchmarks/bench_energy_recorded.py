"""Energy of an interval against a real GPU's counter: one read in twenty predicts the others.

    python benchmarks/bench_energy_recorded.py [FOLDER]        # default ../shared/data/h200 or $WATTCOUNT_SHARED_DATA/h200

Recordings of an H200 at full rate (`*_trace.csv`: kind,t0,t1,value; E energy counter in mJ, R samples ring, I and A
fields 186 and 185 in mW). The counter's reads are thinned to what the sampler takes; windows then start and end
at ticks that were left out, where the full recording says what the counter counted. That places a tick to some
10 ms, which is part of the errors shown.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wattcount.power import PowerTrace
from wattcount.power.events import EVENT_DTYPE, Source

S_NS = 1_000_000_000
GPU = "GPU"
KINDS = {"R": Source.POWER_SAMPLES, "I": Source.POWER_INSTANT, "A": Source.POWER_AVERAGE}


def read(path: Path, period_s: float) -> tuple[PowerTrace, np.ndarray, np.ndarray]:
    """(trace with a thinned counter, ticks ns, joules at them)."""
    rows: list[tuple[int, ...]] = []
    counter: list[tuple[int, int, int]] = []
    with path.open() as file:
        for row in csv.DictReader(file):
            t0, t1, value = round(float(row["t0"]) * S_NS), round(float(row["t1"]) * S_NS), int(row["value"])
            if row["kind"] == "E":
                counter.append((t0, t1, value))
            elif row["kind"] in KINDS:
                stamp = t0 // 1000 if row["kind"] == "R" else -1
                rows.append((-1, t0, t1, stamp, value, 0, KINDS[row["kind"]], 0))
    rng = np.random.default_rng(0)
    due = counter[0][0]
    for t0, t1, value in counter:
        if t0 >= due:
            rows.append((-1, t0, t1, -1, value, 0, Source.ENERGY_COUNTER, 0))
            due = t0 + int(period_s * S_NS * rng.uniform(0.95, 1.05))
    rows += [(-1, t, t, -1, t, 0, Source.REALTIME, 0) for t in (counter[0][0], counter[-1][0])]
    reads = np.array(counter)
    changed = np.flatnonzero(np.diff(reads[:, 2])) + 1
    ticks_ns = (reads[changed - 1, 0] + reads[changed, 1]) // 2 - 10_000_000
    return PowerTrace((GPU,), np.array(rows, EVENT_DTYPE)), ticks_ns, reads[changed, 2] / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("WATTCOUNT_SHARED_DATA", shared)) / "h200"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--counter-period-s", type=float, default=1.009)
    args = parser.parse_args()
    if not args.folder.is_dir():
        print(f"skipped: there are no recordings at {args.folder}")
        return
    print(f"{'recording':<12} {'window':>7}   " + "".join(f"{name:>22}" for name in ("estimate", "counter, straight", "ring alone", "instant, held", "1 s average")))  # fmt: skip
    print(f"{'':<12} {'s':>7}   " + f"{'rms / worst %':>22}" * 5)
    for path in sorted(args.folder.glob("*_trace.csv")):
        trace, ticks_ns, energy_j = read(path, args.counter_period_s)

        def alone(name: str, trace: PowerTrace = trace) -> Callable[[int, int], float | None]:
            return lambda a, b: trace.energy_by_source(a, b, GPU)[name].value_j

        methods: list[Callable[[int, int], float | None]] = [
            lambda a, b, trace=trace: trace.energy(a, b, GPU).value_j,  # type: ignore[misc]
            alone("energy_counter"),
            alone("power_samples"),
            alone("power_instant"),
            alone("power_average"),
        ]
        for span in (10, 50, 100):
            cells = []
            for method in methods:
                errors = []
                for i in range(20, len(ticks_ns) - span - 20, 2):
                    value = method(int(ticks_ns[i]), int(ticks_ns[i + span]))
                    if value is not None:
                        errors.append(100 * (value / (energy_j[i + span] - energy_j[i]) - 1))
                cells.append(f"{np.sqrt(np.mean(np.square(errors))):.2f} / {np.abs(errors).max():.1f}")
            print(f"{path.stem:<12} {span / 10:>7.0f}   " + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
