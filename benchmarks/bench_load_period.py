"""Does the energy counter see fast loads rightly? Equal work in bursts that repeat every 2 to 30 ms.

    python benchmarks/bench_load_period.py --trace load_period.parquet --json load_period.json

The power sensor behind the counter has a period of its own (20 ms on an H200). A load whose period divides it, or
is divided by it, meets the sensor always in the same phase; if the counter sampled power rather than integrated
it, its joules would then depend on that phase. For each period the same bursts of matrix products run at the
period itself and at a period 1.7 % shorter and longer: the work a second differs by -+1.7 %, their mean by
less than 0.03 %. What is compared is the energy per product above what the GPU draws between bursts:

    e(period) = (E - P_gap T) / products,   P_gap from a straight line through all loads of equal burst and varied period

Energy is from the counter, from the first tick to the last tick seen in the load; products are counted in between
by when their burst was started. The other sources are read at the same time; `--trace` keeps all of it.
Orders are drawn by seed and repeated, so that drift of temperature does not look like an effect of the period.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wattcount.clock import now_ns
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.energy import PowerTrace
from wattcount.energy.events import Source
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import open_session

PERIODS_MS = (2.0, 2.5, 4.0, 5.0, 10.0, 20.0, 30.0)
DETUNED = (1.0, 1.0 - 0.017, 1.0 + 0.017)
DUTY = 0.5
TICK_NS = 100_000_000
"""Of the energy counter (A100, H100, H200), good to some 20 ppm."""


@dataclass
class Load:
    """One stretch of bursts: its period, and by burst when it was started and how many products it held."""

    round: int
    period_ms: float
    detuned: float
    products_a_burst: int
    started_ns: list[int]


class Gpu:
    """Bursts of matrix products through torch. Without CUDA the same bookkeeping and no work."""

    def __init__(self) -> None:
        import torch

        self.cuda = torch.cuda.is_available()
        self.product_ms = 0.2
        if self.cuda:
            self._torch = torch
            self._a = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
            self._out = torch.empty_like(self._a)
            self.burst(200)
            self.wait()
            start = time.perf_counter()
            self.burst(500)
            self.wait()
            self.product_ms = (time.perf_counter() - start) * 1e3 / 500

    def burst(self, products: int) -> None:
        if self.cuda:
            for _ in range(products):
                self._torch.mm(self._a, self._a, out=self._out)

    def wait(self) -> None:
        if self.cuda:
            self._torch.cuda.synchronize()


def run(gpu: Gpu, number: int, period_ms: float, detuned: float, seconds: float) -> Load:
    products = max(1, round(DUTY * period_ms / gpu.product_ms))
    period_ns = round(period_ms * detuned * 1e6)
    started: list[int] = []
    begin = now_ns() + 1_000_000
    for k in range(int(seconds * 1e9 / period_ns)):
        due = begin + k * period_ns
        while now_ns() < due:
            pass
        started.append(now_ns())
        gpu.burst(products)
    gpu.wait()
    return Load(number, period_ms, detuned, products, started)


def analyse(trace: PowerTrace, loads: list[Load], product_ms: float) -> dict[str, object]:
    (uuid,) = trace.gpu_uuids
    reads = trace.of(uuid, Source.ENERGY_COUNTER)
    reads = reads[reads["nvml_return"] == 0]
    seen_ns = (reads["t0_ns"] + reads["t1_ns"]) // 2
    rows = []
    for load in loads:
        started = np.array(load.started_ns)
        # The first half second settles clocks and sensors.
        inside = (seen_ns > started[0] + 500_000_000) & (seen_ns < started[-1])
        changed = np.flatnonzero(inside[1:] & inside[:-1] & (np.diff(reads["value"]) != 0)) + 1
        if len(changed) < 10:
            raise SystemExit("too few ticks of the counter in a load: raise --seconds")
        # Ticks are a whole number of grid steps apart, however late each was seen.
        ticks_ns, energy_j = seen_ns[changed], reads["value"][changed] / 1e3
        span_s = round((ticks_ns[-1] - ticks_ns[0]) / TICK_NS) * TICK_NS / 1e9
        bursts_s = 1e9 / float(np.median(np.diff(started)))
        late = np.abs(np.diff(started) / (load.period_ms * load.detuned * 1e6) - 1) > 0.1
        by_source = {
            name: estimate.value_j / (int(ticks_ns[-1]) - int(ticks_ns[0])) * 1e9
            for name, estimate in trace.energy_by_source(int(ticks_ns[0]), int(ticks_ns[-1]), uuid).items()
            if estimate.value_j is not None
        }
        rows.append(
            {
                "round": load.round,
                "period_ms": load.period_ms,
                "detuned": load.detuned,
                "products_a_burst": load.products_a_burst,
                "products_per_s": load.products_a_burst
                * (len(started) - 1)
                / ((started[-1] - started[0]) / 1e9),
                "bursts_per_s": bursts_s,
                "late_bursts": int(late.sum()),
                "span_s": span_s,
                "counter_w": float(energy_j[-1] - energy_j[0]) / span_s,
                **{f"{name}_w": value for name, value in by_source.items()},
            }
        )
    # Counter power = P_gap + e * products/s: of one kind of burst the three detunings differ in rate only a little,
    # over all of them P_gap is well known.
    rate = np.array([row["products_per_s"] for row in rows])
    power = np.array([row["counter_w"] for row in rows])
    slope_j, gap_w = (float(x) for x in np.polyfit(rate, power, 1))
    table = []
    for period in sorted({load.period_ms for load in loads}):
        tuned, beside = (
            np.array(
                [
                    (row["counter_w"] - gap_w) / row["products_per_s"]
                    for row in rows
                    if row["period_ms"] == period and (row["detuned"] == 1.0) == is_tuned
                ]
            )
            for is_tuned in (True, False)
        )
        watts = {
            is_tuned: float(
                np.mean(
                    [
                        row["counter_w"]
                        for row in rows
                        if row["period_ms"] == period and (row["detuned"] == 1.0) == is_tuned
                    ]
                )
            )
            for is_tuned in (True, False)
        }
        table.append(
            {
                "period_ms": period,
                "loads": len(tuned) + len(beside),
                "counter_w": watts[True],
                "j_per_product": float(tuned.mean()),
                "difference_percent": 100 * float(tuned.mean() / beside.mean() - 1),
                "difference_of_energy_percent": 100 * (watts[True] / watts[False] - 1),
                "spread_percent": 100
                * float(np.std(np.concatenate((tuned / tuned.mean(), beside / beside.mean())), ddof=2)),
            }
        )
    return {
        "product_ms": product_ms,
        "gap_w": gap_w,
        "j_per_product": slope_j,
        "by_period": table,
        "loads": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--counter-period-ms", type=float, default=11.0)
    parser.add_argument("--emulated", action="store_true", help="use the emulated library")
    parser.add_argument("--trace", type=Path, help="keep what the sampler saw here (Parquet)")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    gpu = Gpu()
    if not gpu.cuda and not args.emulated:
        print("skipped: torch finds no CUDA device (--emulated rehearses the bookkeeping without one)")
        return
    config = PowerConfig(
        backend=PowerBackend.emulated if args.emulated else PowerBackend.auto,
        energy_counter_period_ms=args.counter_period_ms,
        power_period_ms=5.0,
    )
    rng = np.random.default_rng(0)
    with open_session(config, GpuConfig()) as session:
        uuid = session.gpus()[0].uuid
        with PowerSampler(gpus=[uuid], session=session, config=config) as sampler:
            time.sleep(1.5)
            loads = []
            for number in range(args.rounds):
                plan = [(period, detuned) for period in PERIODS_MS for detuned in DETUNED]
                loads += [run(gpu, number, *plan[i], args.seconds) for i in rng.permutation(len(plan))]
            time.sleep(1.5)
        trace = sampler.trace()
        evidence = session.evidence
    if args.trace:
        pq.write_table(trace.to_arrow(), args.trace, compression="zstd")
        args.trace.with_suffix(".loads.json").write_text(json.dumps([asdict(load) for load in loads]))
    result = {
        "evidence": evidence,
        "device": "cuda" if gpu.cuda else "none",
        **analyse(trace, loads, gpu.product_ms),
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    print(
        f"evidence {evidence}; a product takes {gpu.product_ms:.3f} ms; between bursts {result['gap_w']:.0f} W"
    )
    print(
        f"{'period ms':>10} {'loads':>6} {'W':>7} {'J per product':>14} {'against detuned':>16} {'spread of a load':>17}"
    )
    for row in result["by_period"]:  # type: ignore[attr-defined]
        print(
            f"{row['period_ms']:>10.1f} {row['loads']:>6} {row['counter_w']:>7.1f} {row['j_per_product']:>14.5f} "
            f"{row['difference_percent']:>+14.2f} % {row['spread_percent']:>15.2f} %"
        )


if __name__ == "__main__":
    main()
