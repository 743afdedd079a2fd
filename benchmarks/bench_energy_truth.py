"""Energy of an interval against the truth: sensor profiles x load shapes x windows, in virtual time.

    python benchmarks/bench_energy_truth.py --json truth.json      # some minutes on two cores
    python benchmarks/bench_energy_truth.py --profiles h200 --traces 4

The emulator's core turns a true power curve into what the sensors of a GPU would show; the sampler's schedule (a read of
the counter a second, with its jitter and call time) turns that into a trace; `PowerTrace.energy` is compared with the
integral of the true curve over windows of 0.25, 1, 10 and 60 s that begin at random. In half of the traces the sensor
has gain 1 and offset 0, so that what is left is the estimator's own error, to be covered by its own interval
(`u95_method_j`). In the other half gain and offset are drawn from the stated prior, and the whole interval
(`u95_j`) has to cover.

Width is compared with an estimator that knows the profile: it is given the true time of every tick that was read and
the true lag of the samples, and its half width is the 95th percentile of its own errors in the same cell.

Load shapes are in shares of the board's power limit. `recorded` replays the power of vLLM on an H200 from
../shared/data/h200 (skipped where that is not there), with decode steps of 8 to 14 ms laid over it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.emulation.machine import profiles, simulate, virtual_trace
from wattcount.energy.anchored import Anchored
from wattcount.energy.counter import Counter
from wattcount.energy.curve import PowerCurve
from wattcount.energy.uncertainty import COVERAGE_95, SENSOR_PRIOR

S = 1_000_000_000
START_NS = 1000 * S
SECONDS = 150.0
IDLE_SHARE = 0.137
"""Of the power limit, between batches."""
WINDOWS_S = (0.25, 1.0, 10.0, 60.0)
PROFILES = ("h200", "h100_nvl", "b200", "a100", "a100_40gb", "a30", "rtx3090", "rtx4090", "l4", "v100", "t4")
SHARED = Path(
    os.environ.get("WATTCOUNT_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Seconds from the trace's start on, and share of the power limit from then on."""


def constant(rng: np.random.Generator) -> Curve:
    return np.array([-20.0]), np.array([rng.uniform(0.15, 0.95)])


def steps(rng: np.random.Generator) -> Curve:
    t = np.cumsum(rng.uniform(1.0, 9.0, 80)) - 20
    return t, rng.uniform(0.12, 1.0, len(t))


def ramps(rng: np.random.Generator) -> Curve:
    t = np.arange(-20.0, SECONDS + 5, 0.01)
    period = rng.uniform(6.0, 14.0)
    return t, 0.15 + 0.8 * np.abs(2 * ((t / period + rng.uniform()) % 1.0) - 1)


def square(period_s: float, on_s: float) -> Callable[[np.random.Generator], Curve]:
    def make(rng: np.random.Generator) -> Curve:
        begin = np.arange(-20.0, SECONDS + 5, period_s) + rng.uniform(0, period_s)
        t = np.stack((begin, begin + on_s), axis=1).ravel()
        return t, np.tile([rng.uniform(0.8, 1.0), rng.uniform(0.12, 0.3)], len(begin))

    return make


def bursts(rng: np.random.Generator) -> Curve:
    """Of 2 to 30 ms, at random."""
    begin = np.cumsum(rng.exponential(0.06, int(30 * (SECONDS + 30)))) - 20
    begin = np.maximum.accumulate(begin + 0.032 * np.arange(len(begin)) * 0)
    length = np.minimum(rng.uniform(0.002, 0.030, len(begin)), np.append(np.diff(begin), 1.0) * 0.9)
    t = np.stack((begin, begin + length), axis=1).ravel()
    return t, np.tile([0.95, 0.2], len(begin))


def short_steps(rng: np.random.Generator) -> Curve:
    """A new power every 8 to 30 ms."""
    t = np.cumsum(rng.uniform(0.008, 0.030, int((SECONDS + 30) / 0.019))) - 20
    return t, rng.uniform(0.2, 1.0, len(t))


def decode_steps(rng: np.random.Generator) -> Curve:
    """An engine that decodes: steps of one length of 8 to 30 ms, 3 % scatter, with a dip at the end of each."""
    length_s = rng.uniform(0.008, 0.030)
    number = int((SECONDS + 30) / length_s)
    begin = np.cumsum(length_s * (1 + 0.03 * rng.standard_normal(number)).clip(0.5, 1.5)) - 20
    t = np.stack((begin, begin + rng.uniform(0.5, 0.8) * length_s), axis=1).ravel()
    return t, np.tile([rng.uniform(0.5, 0.95), rng.uniform(0.2, 0.45)], number)


def llm_steps(rng: np.random.Generator) -> Curve:
    """Prefill spikes over decode plateaus: stretches of 30 to 400 ms."""
    t = np.cumsum(rng.uniform(0.03, 0.4, int((SECONDS + 30) / 0.2))) - 20
    return t, rng.choice([0.22, 0.6, 0.69, 0.98], len(t))


def llm_server(rng: np.random.Generator) -> Curve:
    """Poisson arrivals, 2 a second; a prefill of 30 ms each, decode steps of 12 ms with a dip between them, idle."""
    arrivals = np.cumsum(rng.exponential(0.5, int(3 * (SECONDS + 40)))) - 20
    t: list[float] = []
    share: list[float] = []
    now, following, running = -20.0, 0, [0.0]
    while now < SECONDS + 5:
        running = [end for end in running if end > now]
        if arrivals[following] <= now:
            t.append(now)
            share.append(rng.uniform(0.85, 0.98))
            now += 0.03
            running.append(now + rng.uniform(0.5, 2.0))
            following += 1
        elif running:
            t += [now, now + 0.009]
            share += [
                0.47 + 0.03 * min(len(running), 6) + rng.uniform(-0.02, 0.02),
                0.36 + rng.uniform(-0.03, 0.03),
            ]
            now += 0.012
        else:
            t.append(now)
            share.append(0.18)
            now = arrivals[following] + 1e-6
    return np.array(t), np.array(share)


def recorded(rng: np.random.Generator) -> Curve:
    path = SHARED / "h200" / "vllm_trace.csv"
    rows = [row for row in csv.reader(path.open()) if row[0] == "R"]
    t, watts = np.array([float(row[1]) for row in rows]), np.array([float(row[3]) for row in rows]) / 1e3
    length = t[-1] - t[0]
    grid = np.arange(-20.0, SECONDS + 5, 0.004)
    power = np.interp((grid + rng.uniform(0, length)) % length, t - t[0], watts) / 700
    step = np.cumsum(rng.uniform(0.008, 0.014, int((SECONDS + 40) / 0.008))) - 20
    phase = np.interp(grid, step, np.arange(len(step))) % 1.0
    return grid, power * (1 + 0.12 * np.where(phase < 0.75, 1 / 3, -1.0) * (power > 0.3))


def batches(rng: np.random.Generator, work: Callable[[np.random.Generator, float], Curve]) -> Curve:
    """Idle, then `work` as long as one of the windows, and so on; the last point of each batch is its end."""
    t, share = [np.array([-20.0])], [np.array([IDLE_SHARE])]
    now = rng.uniform(3.5, 5.0)
    # Of each length as many as fit; the long one last, so that every trace has one.
    lengths = [*rng.permutation([0.25] * 12 + [1.0] * 12 + [10.0] * 3).tolist(), 60.0]
    for length_s in lengths:
        at, level = work(rng, length_s)
        t += [now + at, np.array([now + length_s])]
        share += [level, np.array([IDLE_SHARE])]
        now += length_s + rng.uniform(0.6, 1.4)
    return np.concatenate(t), np.concatenate(share)


def llm_work(rng: np.random.Generator, length_s: float) -> Curve:
    """Prefill for a tenth of the batch, then decode steps of 12 ms with a dip in each."""
    prefill_s = length_s / 10
    begin = np.arange(prefill_s, length_s - 0.012, 0.012)
    t = np.stack((begin, begin + 0.009), axis=1).ravel()
    level = np.tile([rng.uniform(0.5, 0.7), rng.uniform(0.4, 0.5)], len(begin))
    return np.concatenate(([0.0], t)), np.concatenate(([0.95], level))


def batch_steady(rng: np.random.Generator) -> Curve:
    return batches(rng, lambda rng, _: (np.array([0.0]), np.array([rng.uniform(0.5, 0.95)])))


def batch_llm(rng: np.random.Generator) -> Curve:
    return batches(rng, llm_work)


LOADS: dict[str, Callable[[np.random.Generator], Curve]] = {
    "constant": constant,
    "steps 1-9 s": steps,
    "ramps": ramps,
    "500 ms / 1 s": square(1.0, 0.5),
    "100 / 200 ms": square(0.2, 0.1),
    "40 / 130 ms": square(0.13, 0.04),
    "25 / 100 ms": square(0.1, 0.025),
    "25 / 101.7 ms": square(0.1017, 0.025),
    "10 / 20 ms": square(0.02, 0.01),
    "10 / 20.3 ms": square(0.0203, 0.01),
    "5 / 12.3 ms": square(0.0123, 0.005),
    "bursts 2-30 ms": bursts,
    "LLM steps": llm_steps,
    "LLM server": llm_server,
    "LLM recorded": recorded,
    "steps 8-30 ms": short_steps,
    "decode 8-30 ms": decode_steps,
    "batch, steady": batch_steady,
    "batch, LLM": batch_llm,
}
ALIGNED = ("batch, steady", "batch, LLM")
"""Loads whose windows begin and end with the load, as a batch's does; the others' begin at random."""


def windows(
    rng: np.random.Generator, load: str, curve: Curve, count: int, length_s: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begin and end of at most `count` windows, ns: at random, or those of the load itself (`ALIGNED`)."""
    length_ns = round(length_s * S)
    if load not in ALIGNED:
        start = START_NS + (rng.uniform(4.0, SECONDS - length_s - 6.0, count) * S).astype(np.int64)
        return start, start + length_ns
    t_s, share = curve
    idle = t_s[share == IDLE_SHARE]
    begins = t_s[np.flatnonzero(share[:-1] == IDLE_SHARE) + 1]
    fits = (np.abs(idle[1:] - begins[: len(idle) - 1] - length_s) < 1e-3) & (idle[1:] < SECONDS - 2.0)
    start = START_NS + (begins[: len(idle) - 1][fits] * S).astype(np.int64)
    return start[:count], start[:count] + length_ns


def one(job: tuple[str, str, int, int]) -> list[dict[str, Any]]:
    """All windows of one trace."""
    profile_name, load, number, count = job
    total = number % 2 == 1
    rng = np.random.default_rng([number, *(ord(c) for c in profile_name + load)])
    profile = next(p for p in profiles() if p["name"] == profile_name)
    t_s, share = LOADS[load](rng)
    gain = 1 + (rng.standard_normal() * SENSOR_PRIOR.gain_u95 / COVERAGE_95 if total else 0.0)
    offset_w = rng.standard_normal() * SENSOR_PRIOR.offset_u95_w / COVERAGE_95 if total else 0.0
    t_ns = START_NS + (t_s * S).astype(np.int64)
    t_ns, keep = np.unique(t_ns, return_index=True)
    sensors = simulate(
        profile_name,
        t_ns,
        share[keep] * profile["tdp_w"],
        seed=int(rng.integers(1 << 31)),
        gain=gain,
        offset_w=offset_w,
    )
    trace = virtual_trace(profile_name, sensors, START_NS, SECONDS, seed=int(rng.integers(1 << 31)))
    (uuid,) = trace.gpu_uuids
    model = trace.model(uuid)
    best = model.scaled or model.straight
    assert best is not None
    oracle = _oracle(profile, sensors, model.shape, model.counter) if not total else None
    found = []
    for length_s in WINDOWS_S:
        start_ns, end_ns = windows(rng, load, (t_s, share), count, length_s)
        if not len(start_ns):
            continue
        true_j = sensors.true_energy_j(end_ns) - sensors.true_energy_j(start_ns)
        value_j, parts = best.estimates(start_ns, end_ns)
        method_j = COVERAGE_95 * np.sqrt(np.sum([part**2 for part in parts.values()], axis=0))
        sensor_j = np.hypot(SENSOR_PRIOR.gain_u95 * value_j, SENSOR_PRIOR.offset_u95_w * length_s)
        row: dict[str, Any] = {
            "profile": profile_name,
            "load": load,
            "window_s": length_s,
            "total": total,
            "grid": model.counter.grid is not None,
            "error": value_j / true_j - 1,
            "u95": (np.hypot(method_j, sensor_j) if total else method_j) / true_j,
        }
        if model.straight is not None:
            row["straight"] = model.straight.estimates(start_ns, end_ns)[0] / true_j - 1
        if oracle is not None:
            row["oracle"] = oracle.estimates(start_ns, end_ns)[0] / true_j - 1
        found.append(row)
    return found


def _oracle(
    profile: dict[str, Any], sensors: Any, shape: PowerCurve | None, counter: Counter
) -> Anchored | None:
    """The same estimator, told when each tick was and how late the samples are."""
    if shape is None:
        return None
    dense_ns = np.arange(START_NS - S, START_NS + round(SECONDS * S), 500_000)
    shown = sensors.counter_j(dense_ns)
    changed = np.flatnonzero(np.diff(shown) > 0) + 1
    period_ns = profile["counter_period_ms"] * 1e6
    phase = (dense_ns[changed] - dense_ns[changed[0]] + period_ns / 2) % period_ns - period_ns / 2
    # Ticks show from their own time on: the earliest ones of a short stretch were on time.
    first_ns = dense_ns[changed[0]] + float(np.quantile(phase, 0.01))
    value_mj = np.round(shown[changed] * 1e3)
    tick_of = dict(
        zip(
            value_mj.tolist(),
            np.round((dense_ns[changed] - first_ns) / period_ns - 0.1).tolist(),
            strict=True,
        )
    )
    known = [i for i, joules in enumerate(counter.energy_j) if round(joules * 1e3) in tick_of]
    ticks_ns = np.array(
        [first_ns + tick_of[round(counter.energy_j[i] * 1e3)] * period_ns for i in known]
    ).astype(np.int64)
    ticks_ns, at = np.unique(ticks_ns, return_index=True)
    lag_ns = round((profile["lowpass_ms"] + profile["ring_delay_ms"]) * 1e6)
    moved = shape.shifted(round(counter.shape_lag_ns) - lag_ns)
    told = Counter(ticks_ns, counter.energy_j[known][at], counter.breaks_ns, None, 0.0, 0.0, 0.0, 0.0)
    return Anchored(moved, told.ticks_ns, told.energy_j, told)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    error, u95 = (np.concatenate([row[key] for row in rows]) for key in ("error", "u95"))
    off = 100 * np.abs(error)
    flagged = u95 > 0.03
    found = {
        "windows": len(error),
        "rms_percent": float(np.sqrt(np.mean(off**2))),
        "p99_percent": float(np.quantile(off, 0.99)),
        "worst_percent": float(off.max()),
        "covered_percent": 100 * float(np.mean(np.abs(error) <= u95)),
        "u95_percent": 100 * float(np.mean(u95)),
        "median_u95_percent": 100 * float(np.median(u95)),
        "flagged_percent": 100 * float(np.mean(flagged)),
        "worst_unflagged_percent": float(off[~flagged].max(initial=0.0)),
    }
    for key in ("straight", "oracle"):
        if all(key in row for row in rows):
            values = 100 * np.abs(np.concatenate([row[key] for row in rows]))
            found[f"{key}_rms_percent"] = float(np.sqrt(np.mean(values**2)))
            found[f"{key}_p95_percent"] = float(np.quantile(values, 0.95))
    return found


def pooled(title: str, cells: dict[tuple[bool, str, str, float], list[dict[str, Any]]], part: int) -> None:
    """Coverage and width of estimation over everything with the same profile (part 1) or load (2), by window."""
    print(f"\n{title:<16}" + f"{'covered %':>10}{'width %':>9}" + "".join(f"{w:>15g} s" for w in WINDOWS_S))
    for name in dict.fromkeys(key[part] for key in cells):
        line = f"{name:<16}"
        for length in (None, *WINDOWS_S):
            rows = [
                row
                for key, found in cells.items()
                if not key[0] and key[part] == name and length in (None, key[3])
                for row in found
            ]
            if not rows:
                continue
            every = summary(rows)
            line += f"{every['covered_percent']:>10.1f}{every['median_u95_percent']:>{9 if length is None else 7}.3f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--traces", type=int, default=40, help="of each cell; half of them with gain and offset drawn"
    )
    parser.add_argument("--windows", type=int, default=100, help="of each length in a trace")
    parser.add_argument("--profiles", nargs="*", default=list(PROFILES))
    parser.add_argument("--loads", nargs="*", default=list(LOADS))
    parser.add_argument("--estimation-only", action="store_true", help="no traces with gain and offset drawn")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write every cell here")
    args = parser.parse_args()
    loads = list(args.loads)
    if "LLM recorded" in loads and not (SHARED / "h200" / "vllm_trace.csv").is_file():
        loads.remove("LLM recorded")
        print(f"LLM recorded: left out, there is no recording at {SHARED / 'h200'}")
    began = time.perf_counter()
    jobs = [
        (p, load, n, args.windows)
        for p in args.profiles
        for load in loads
        for n in range(0, args.traces, 1 + args.estimation_only)
    ]
    cells: dict[tuple[bool, str, str, float], list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(args.jobs) as pool:
        for rows in pool.map(one, jobs, chunksize=8):
            for row in rows:
                cells.setdefault((row["total"], row["profile"], row["load"], row["window_s"]), []).append(row)
    table = [
        {
            "error": "total" if total else "estimation",
            "profile": profile,
            "load": load,
            "window_s": length,
            **summary(rows),
        }
        for (total, profile, load, length), rows in cells.items()
    ]
    pooled("profile", cells, 1)
    pooled("load", cells, 2)
    for kind in ("estimation",) if args.estimation_only else ("estimation", "total"):
        print(
            f"\n{kind}: over {len(args.profiles)} profiles; error p99 / worst, worst of windows not flagged, covered (least), width"
        )
        print(
            f"{'load':<16} {'s':>6} {'p99 %':>8} {'worst %':>8} {'unflagged':>9} {'flagged %':>9} {'covered %':>9} {'least %':>8} {'u95 %':>7} {'/ oracle':>8}"
        )
        for load in loads:
            for length in WINDOWS_S:
                chosen = [
                    c for c in table if c["error"] == kind and c["load"] == load and c["window_s"] == length
                ]
                every = summary(
                    [
                        row
                        for key, rows in cells.items()
                        if (key[0], key[2], key[3]) == (kind == "total", load, length)
                        for row in rows
                    ]
                )
                ratio = [
                    c["u95_percent"] / c["oracle_p95_percent"] for c in chosen if c.get("oracle_p95_percent")
                ]
                print(
                    f"{load:<16} {length:>6g} {every['p99_percent']:>8.3f} {every['worst_percent']:>8.2f} "
                    f"{every['worst_unflagged_percent']:>9.2f} {every['flagged_percent']:>9.1f} {every['covered_percent']:>9.1f} "
                    f"{min(c['covered_percent'] for c in chosen):>8.1f} {every['u95_percent']:>7.3f} "
                    f"{np.median(ratio) if ratio else float('nan'):>8.2f}"
                )
        every = summary([row for key, rows in cells.items() if key[0] == (kind == "total") for row in rows])
        print(
            f"{'all':<16} {'':>6} covered {every['covered_percent']:.1f} % of {every['windows']} windows; cells under 93 %: "
            f"{sum(c['covered_percent'] < 93 for c in table if c['error'] == kind)} of {sum(c['error'] == kind for c in table)}"
        )
    print(f"\n{len(jobs)} traces, {time.perf_counter() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
