"""What the estimator costs: a record of ten minutes and eight GPUs, read and its energies computed.

    python benchmarks/bench_estimator_cost.py [--gpus 8] [--seconds 600]

Virtual traces of emulated H200s are written as `power.parquet`; a process of its own reads the file, prepares all GPUs and
asks for the energy of a window of each; its wall time and the largest memory it held are printed. Best and worst of some
repeats.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from wattcount.emulation.machine import simulate, virtual_trace
from wattcount.energy import PowerTrace

S = 1_000_000_000
START_NS = 1000 * S


def made(path: Path, gpus: int, seconds: float) -> int:
    """Writes the trace; returns its rows."""
    parts, uuids = [], []
    for number in range(gpus):
        rng = np.random.default_rng(number)
        t_ns = START_NS - 15 * S + np.cumsum((rng.uniform(0.03, 0.4, int(seconds * 6)) * S).astype(np.int64))
        sensors = simulate("h200", t_ns, rng.choice([150.0, 420.0, 480.0, 690.0], len(t_ns)), seed=number)
        uuids.append(f"GPU-{number}")
        events = virtual_trace("h200", sensors, START_NS, seconds, gpu_uuid=uuids[-1], seed=number).events
        events["gpu"] = number
        parts.append(events)
    trace = PowerTrace(uuids, np.concatenate(parts))
    pq.write_table(trace.to_arrow(), path, compression="zstd")
    return len(trace)


def measured(path: Path) -> dict[str, float]:
    before_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    trace = PowerTrace.from_arrow(pq.read_table(path))
    read_s = time.perf_counter() - start
    for uuid in trace.gpu_uuids:
        t_ns = trace.events["t0_ns"]
        assert trace.energy(int(t_ns.min()) + 20 * S, int(t_ns.max()) - 20 * S, uuid).u95_j is not None
    total_s = time.perf_counter() - start
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"read_s": read_s, "energies_s": total_s - read_s, "imports_mib": before_mib, "peak_mib": peak_mib}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read is not None:
        print(json.dumps(measured(args.read)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "power.parquet"
        rows = made(path, args.gpus, args.seconds)
        print(f"{args.gpus} GPUs, {args.seconds:g} s: {rows} rows, {path.stat().st_size / 2**20:.1f} MiB")
        results = []
        for _ in range(args.repeats):
            command = [sys.executable, __file__, "--read", str(path)]
            results.append(
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
    for key, unit in (("read_s", "s"), ("energies_s", "s"), ("imports_mib", "MiB"), ("peak_mib", "MiB")):
        values = [result[key] for result in results]
        print(f"{key.partition('_')[0]:<10} {min(values):8.3f} to {max(values):8.3f} {unit}")


if __name__ == "__main__":
    main()
