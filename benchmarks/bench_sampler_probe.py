"""What NVML's sources cost and how evenly they are read; with several GPUs, whether their calls wait for each other.

    python benchmarks/bench_sampler_probe.py                     # every GPU there is, or an emulated H200
    python benchmarks/bench_sampler_probe.py --load matmul --counter-period-ms 10 --json probe.json

For each source: calls, achieved rate, time of a call (median, p99, largest), CPU time of a call, lateness of
the reads against their deadlines; and the sampler's share of a core. With two or more GPUs the first one is
read alone and then all together: if NVML served one GPU at a time, the calls would take longer together.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import NvmlSession, open_session


@contextmanager
def matmul_load(gpus: int) -> Iterator[None]:
    """Keeps the first `gpus` CUDA devices busy with matrix products."""
    import torch

    stop = threading.Event()

    def work(device: str) -> None:
        a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
        while not stop.is_set():
            for _ in range(20):
                a @ a
            torch.cuda.synchronize(device)

    threads = [threading.Thread(target=work, args=(f"cuda:{index}",)) for index in range(gpus)]
    for thread in threads:
        thread.start()
    time.sleep(2.0)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def probe(
    session: NvmlSession, uuids: list[str], config: PowerConfig, seconds: float
) -> list[dict[str, Any]]:
    with PowerSampler(gpus=uuids, session=session, config=config) as sampler:
        time.sleep(seconds)
    return sampler.health()


def show(title: str, healths: list[dict[str, Any]]) -> None:
    for number, health in enumerate(healths):
        share = health["cpu_ns"] / health["wall_ns"]
        print(
            f"\n{title}, GPU {number}: {100 * share:.2f} % of a core, {health['missed_deadlines']} deadlines missed"
        )
        print(
            f"{'source':<20} {'calls':>6} {'rate':>8} {'call p50':>9} {'p99':>8} {'max':>8} {'CPU':>8} {'late p99':>9}"
        )
        print(f"{'':<20} {'':>6} {'Hz':>8} {'ms':>9} {'ms':>8} {'ms':>8} {'ms':>8} {'ms':>9}")
        for name, source in health["sources"].items():
            if source["state"] != "ok":
                print(f"{name:<20} {source['state']}")
                continue
            print(
                f"{name:<20} {source['calls']:>6} {source['rate_hz']:>8.2f} {source['call_p50_ns'] / 1e6:>9.3f} "
                f"{source['call_p99_ns'] / 1e6:>8.3f} {source['call_max_ns'] / 1e6:>8.3f} "
                f"{source['cpu_ns'] / source['calls'] / 1e6:>8.3f} {source['lateness_p99_ns'] / 1e6:>9.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--load", choices=("none", "matmul"), default="none")
    parser.add_argument("--counter-period-ms", type=float, help="default: the sampler's own")
    parser.add_argument("--emulated", action="store_true", help="use the emulated library")
    parser.add_argument("--json", type=Path, help="write the result here")
    args = parser.parse_args()
    backend = PowerBackend.emulated if args.emulated else PowerBackend.auto
    config = replace(PowerConfig(), backend=backend, energy_counter_period_ms=args.counter_period_ms)
    with open_session(config, GpuConfig()) as session:
        uuids = [gpu.uuid for gpu in session.gpus()]
        print(f"evidence: {session.evidence}; {session.library['path']}; {len(uuids)} GPU(s)")
        results: dict[str, Any] = {"evidence": session.evidence, "load": args.load}
        plans = [("one alone", uuids[:1])] + ([("all together", uuids)] if len(uuids) > 1 else [])
        for title, chosen in plans:
            if args.load == "matmul":
                with matmul_load(len(uuids)):
                    results[title] = probe(session, chosen, config, args.seconds)
            else:
                results[title] = probe(session, chosen, config, args.seconds)
            show(title, results[title])
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
