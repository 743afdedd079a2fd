"""Energy of an interval against a real GPU's counter: reads that were left out are predicted.

    python benchmarks/bench_energy_recorded.py [FOLDER]        # default ../shared/data/h200 or $WATTCOUNT_SHARED_DATA/h200

Two kinds of recordings of H200s:

- at full rate (`*_trace.csv` in FOLDER: kind,t0,t1,value; E energy counter in mJ, R samples ring, I and A fields 186 and
  185 in mW). The counter's reads are thinned to what the sampler takes, one in twenty; windows start and end at ticks
  that were left out.
- wattcount's own records (`data/h200/records`), where the counter was read once a second: every second read is left
  out, and windows lie between two of these, some 2 s apart; each tick in the middle was seen, so that an error says how
  well a whole interval between two seen ticks is divided.

Ticks are placed on the grid that the full set of reads shows; that all of them may be late alike is not tested. The
counter's own gain is in none of the errors.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wattcount.energy import PowerTrace
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.uncertainty import COVERAGE_95
from wattcount.records import Record

S_NS = 1_000_000_000
GPU = "GPU"
KINDS = {"R": Source.POWER_SAMPLES, "I": Source.POWER_INSTANT, "A": Source.POWER_AVERAGE}
RECORDS = Path(__file__).resolve().parents[1] / "data" / "h200" / "records"

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def read(path: Path, period_s: float) -> tuple[PowerTrace, Ints, Floats]:
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
    trace = PowerTrace((GPU,), np.array(rows, EVENT_DTYPE))
    reads = np.array(counter)
    changed = np.flatnonzero(np.diff(reads[:, 2])) + 1
    seen_ns = (reads[changed - 1, 0] + reads[changed, 1]) // 2
    grid, ticks_ns = trace.model(GPU).counter.grid, trace.model(GPU).counter.ticks_ns
    if grid is None:
        return trace, seen_ns - 10_000_000, reads[changed, 2] / 1e3
    # The same grid that the thinned reads were placed on; where within it a change was seen does not matter.
    offset_ns = np.median((seen_ns - ticks_ns[0] + grid.period_ns / 2) % grid.period_ns - grid.period_ns / 2)
    number = np.round((seen_ns - ticks_ns[0] - offset_ns) / grid.period_ns)
    return trace, (ticks_ns[0] + number * grid.period_ns).astype(np.int64), reads[changed, 2] / 1e3


def summary(errors: Floats) -> str:
    """Root mean square and worst of the errors that are known (not NaN); a dash where none is."""
    errors = errors[~np.isnan(errors)]
    if not len(errors):
        return "-"
    return f"{np.sqrt(np.mean(np.square(errors))):.2f} / {np.abs(errors).max():.1f}"


def alone(trace: PowerTrace, name: str) -> Callable[[int, int], float | None]:
    """What one source says by itself of [start, end]; None where the recording has no such source, or it cannot tell."""

    def of(start_ns: int, end_ns: int) -> float | None:
        estimate = trace.energy_by_source(start_ns, end_ns, GPU).get(name)
        return None if estimate is None else estimate.value_j

    return of


def recordings(folder: Path, period_s: float) -> None:
    names = ("estimate", "covered, width", "counter, straight", "ring alone", "instant, held", "1 s average")
    print(f"{'recording':<12} {'window':>7}   " + "".join(f"{name:>19}" for name in names))
    print(f"{'':<12} {'s':>7}   {'rms / worst %':>19}{'% of windows, %':>19}" + f"{'rms / worst %':>19}" * 4)
    for path in sorted(folder.glob("*_trace.csv")):
        trace, ticks_ns, energy_j = read(path, period_s)

        methods = [
            alone(trace, name)
            for name in ("energy_counter", "power_samples", "power_instant", "power_average")
        ]
        tick_s = float(np.median(np.diff(ticks_ns))) / S_NS
        for seconds in (1, 5, 10):
            # At least so long: a window that is a hair shorter than a second has no value by the average over one.
            span = math.ceil(seconds / tick_s - 1e-9)
            pairs = [
                (int(ticks_ns[i]), int(ticks_ns[i + span])) for i in range(20, len(ticks_ns) - span - 20, 2)
            ]
            true_j = np.array(
                [energy_j[i + span] - energy_j[i] for i in range(20, len(ticks_ns) - span - 20, 2)]
            )
            estimates = [trace.energy(a, b, GPU) for a, b in pairs]
            found = np.array([np.nan if e.value_j is None else e.value_j for e in estimates])
            u95 = np.array([np.nan if e.u95_method_j is None else e.u95_method_j for e in estimates])
            known = ~np.isnan(u95)
            covered = np.abs(found - true_j)[known] <= u95[known]
            cells = [
                summary(100 * (found / true_j - 1)),
                f"{100 * np.mean(covered):.0f}, {100 * np.mean((u95 / true_j)[known]):.2f}"
                if known.any()
                else "-",
            ]
            for method in methods:
                values = np.array([np.nan if (v := method(a, b)) is None else v for a, b in pairs])
                cells.append(summary(100 * (values / true_j - 1)))
            print(f"{path.stem:<12} {seconds:>7}   " + "".join(f"{cell:>19}" for cell in cells))


def records(folder: Path) -> None:
    print(f"\n{'record':<44} {'ticks':>5} {'rms / worst J':>15} {'rms / worst %':>15} {'covered %':>9} {'straight line %':>16}")  # fmt: skip
    for path in sorted(folder.glob("*/*/")):
        record = Record.open(path)
        rate = record.info.config["scenario"].get("rate_rps")
        load = "batch" if rate is None else f"{rate:g} requests/s"
        for uuid in record.power.gpu_uuids:
            name = f"{record.info.config['model']['name']}, {load} ({record.info.point_id[:4]}, {uuid[4:8]})"
            print(f"{name:<44} {thinned_record(record.power, uuid)}")


def thinned_record(power: PowerTrace, uuid: str) -> str:
    """One GPU's row of the table: how well its trace predicts the reads of the counter that were left out."""
    whole = power.model(uuid).counter
    mine = power.events["gpu"] == power.gpu_uuids.index(uuid)
    reads = np.flatnonzero(mine & (power.events["source"] == Source.ENERGY_COUNTER))
    reads = reads[np.argsort(power.events["t0_ns"][reads])]
    kept = np.ones(len(power.events), bool)
    kept[reads[1::2]] = False
    thinned = PowerTrace(power.gpu_uuids, power.events[kept]).model(uuid)
    best, line = thinned.scaled, thinned.straight
    if best is None or line is None:
        return "    - no ticks with samples between them"
    seen = np.isin(np.round(whole.energy_j * 1e3), np.round(best.energy_j * 1e3))
    # From a tick that was seen to the next one, which was left out.
    first = np.flatnonzero(seen[:-1] & ~seen[1:])
    first = first[
        (whole.ticks_ns[first + 1] - whole.ticks_ns[first] > S_NS // 2)
        & (whole.ticks_ns[first + 1] < best.ticks_ns[-1])
    ]
    if not len(first):
        return "    - no tick that was left out between two that were not"
    a, b = whole.ticks_ns[first], whole.ticks_ns[first + 1]
    true_j = whole.energy_j[first + 1] - whole.energy_j[first]
    value_j, parts = best.estimates(a, b)
    u95_j = COVERAGE_95 * np.sqrt(np.sum([part**2 for part in parts.values()], axis=0))
    straight_j, _ = line.estimates(a, b)
    return (
        f"{len(a):>5} {summary(value_j - true_j):>15} {summary(100 * (value_j / true_j - 1)):>15} "
        f"{100 * np.mean(np.abs(value_j - true_j) <= u95_j):>9.0f} {summary(100 * (straight_j / true_j - 1)):>16}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    default = Path(os.environ.get("WATTCOUNT_SHARED_DATA", shared)) / "h200"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--counter-period-s", type=float, default=1.009)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of wattcount's own records")
    args = parser.parse_args()
    if args.folder.is_dir():
        recordings(args.folder, args.counter_period_s)
    else:
        print(f"recordings at full rate: skipped, there are none at {args.folder}")
    records(args.records)


if __name__ == "__main__":
    main()
