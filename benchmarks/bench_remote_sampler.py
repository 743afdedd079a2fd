"""Power of another machine against the truth: what it takes of the network and of both CPUs, how well the clocks are known.

    python benchmarks/bench_remote_sampler.py                       # about 5 minutes
    python benchmarks/bench_remote_sampler.py --seconds 20 --windows 50 --gpus 4

The listener is a process in a time namespace, so its CLOCK_MONOTONIC is ahead by exactly 1,000 s (root, or user namespaces), on a machine
with emulated H200s whose power is a square wave of 100 and 600 W. For each network, made by a proxy that delays: by how much the
translated times are off, the bound that is said, and the energy of windows at any place and of 1 to 10 s against the truth. The first
row is the same sampler on this machine. CPU is given where no proxy takes its part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from remote_machine import APART_S, SECRET, Elsewhere, Proxy

from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.energy.trace import PowerTrace
from wattcount.gpu import PowerSampler
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.remote import wire

NETWORKS_MS = {
    "direct": None,
    "0.2 ms there, 0.2 ms back": (0.2, 0.2),
    "5 ms there, 5 ms back": (5.0, 5.0),
    "30 ms there, 0.2 ms back": (30.0, 0.2),
    "0.2 ms there, 30 ms back": (0.2, 30.0),
}
"""Delays of the ways to the listener and back [ms]; a proxy adds some tenths."""


@dataclass
class Sampled:
    """What one sampling of some seconds came to."""

    trace: PowerTrace
    clock: dict[str, Any] | None
    seconds: float
    client_cpu_s: float
    listener_cpu_s: float | None
    received_bytes: int
    sent_bytes: int
    dropped: int


def sampled(address: str | None, seconds: float, elsewhere: Elsewhere | None) -> Sampled:
    """From the listener at `address`, or (None) on this machine."""
    with attach_session(address) as session:
        sampler = PowerSampler(session=session)
        sampler.start()
        listener = None if elsewhere is None else elsewhere.listener()
        began_s, cpu_s = time.monotonic(), time.process_time()
        theirs = listener.cpu_times() if listener is not None else None
        before = session.remote.connection.traffic if session.remote is not None else {}
        while time.monotonic() < began_s + seconds:
            time.sleep(1.0)  # as a run does
            sampler.drain()
            sampler.latest_power_w()
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        after = session.remote.connection.traffic if session.remote is not None else {}
        now = listener.cpu_times() if listener is not None else None
        if (failure := sampler.failure) is not None:
            raise failure
        sampler.stop()
        return Sampled(
            sampler.trace(),
            sampler.clock,
            took_s,
            cpu_s,
            None if theirs is None or now is None else now.user + now.system - theirs.user - theirs.system,
            *(after.get(name, 0) - before.get(name, 0) for name in ("received_bytes", "sent_bytes")),
            sum(gpu["dropped_events"] for gpu in sampler.health()),
        )


def windows(found: Sampled, elsewhere: Elsewhere, number: int) -> dict[str, float]:
    """The energy of windows against the truth, whose times are of this machine."""
    rng = np.random.default_rng(1)
    (uuid, *_) = found.trace.gpu_uuids
    times = found.trace.events["t0_ns"]
    first, last = int(times.min()) + 3 * 10**9, int(times.max()) - 2 * 10**9
    errors, method, clock = [], [], []
    for length_s in rng.uniform(1, min(10, (last - first) / 2e9), number):
        length = round(length_s * 1e9)
        start = int(rng.integers(first, last - length))
        estimate = found.trace.energy(start, start + length, uuid)
        assert estimate.value_j is not None
        assert estimate.u95_method_j is not None
        true_j = elsewhere.true_j(start, start + length)
        errors.append(estimate.value_j - true_j)
        method.append(estimate.u95_method_j)
        clock.append(estimate.budget_j.get("clock", 0.0))
    off = np.abs(errors)
    return {
        "rms_error_j": float(np.sqrt(np.mean(np.square(errors)))),
        "bias_j": float(np.mean(errors)),
        "u95_method_j": float(np.median(method)),
        "u95_clock_j": float(np.median(clock)),
        "covered": float(np.mean(off <= method)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=45.0, help="of each sampling")
    parser.add_argument("--windows", type=int, default=200)
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ[wire.SECRET_ENV] = SECRET
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="wattcount-bench-") as folder:
        total_s = (args.seconds + 15) * (len(NETWORKS_MS) + 1) + 60
        elsewhere = Elsewhere(Path(folder) / "elsewhere", gpus=args.gpus, seconds=total_s)
        try:
            here = EmulatedMachine(
                [EmulatedGpu("h200", truth="curve.csv")] * args.gpus,
                elsewhere.folder,
                epoch_ns=elsewhere.epoch_ns - APART_S * 10**9,
            )
            with here:
                local = sampled(None, args.seconds, None)
            rows.append(row("this machine", local, windows(local, elsewhere, args.windows), cpu=True))
            for name, delays_ms in NETWORKS_MS.items():
                proxy = None
                if delays_ms is not None:
                    proxy = Proxy(elsewhere.port, *(delay / 1e3 for delay in delays_ms))
                address = elsewhere.address if proxy is None else proxy.address
                found = sampled(address, args.seconds, elsewhere)
                if proxy is not None:
                    proxy.close()
                rows.append(row(name, found, windows(found, elsewhere, args.windows), cpu=delays_ms is None))
        finally:
            elsewhere.close()
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1))


def row(name: str, found: Sampled, energy: dict[str, float], *, cpu: bool) -> dict[str, Any]:
    """One line of the table, printed, and as it is kept."""
    clock, seconds = found.clock or {}, found.seconds
    # The differences that a record keeps, and the largest by which one of them is off.
    off = [abs(apart - APART_S * 10**9) for _, apart, _ in clock.get("knots", ())]
    within = all(abs(apart - APART_S * 10**9) <= bound for _, apart, bound in clock.get("knots", ()))
    kept = {
        "network": name,
        "events_per_s": len(found.trace) / seconds,
        "received_bytes_per_s": found.received_bytes / seconds,
        "sent_bytes_per_s": found.sent_bytes / seconds,
        "client_cpu_percent": 100 * found.client_cpu_s / seconds if cpu else None,
        "listener_cpu_percent": None
        if found.listener_cpu_s is None
        else 100 * found.listener_cpu_s / seconds,
        "round_trip_p50_ms": clock.get("round_trip_p50_ns", 0) / 1e6,
        "largest_offset_error_us": max(off, default=0) / 1e3,
        "bound_us": clock.get("bound_ns", 0) / 1e3,
        "offsets_within_their_bounds": within,
        "dropped": found.dropped,
        **energy,
    }
    if name == "this machine":
        print(
            f"{'':28} events/s  kB/s in/out  CPU here/there  RTT p50   offset off by (bound)   energy: rms off, u95 (clock), covered"
        )
    there = "" if kept["listener_cpu_percent"] is None else f"{kept['listener_cpu_percent']:.1f} %"
    client = f"{kept['client_cpu_percent']:.1f} %" if cpu else "-"
    print(
        f"{name:28} {kept['events_per_s']:8.0f}  {kept['received_bytes_per_s'] / 1e3:5.1f} / {kept['sent_bytes_per_s'] / 1e3:3.1f}"
        f"  {client:>6} / {there:>6} {kept['round_trip_p50_ms']:6.2f} ms"
        f"  {kept['largest_offset_error_us']:8.1f} us ({kept['bound_us']:8.1f} us){'' if within else ' EXCEEDED'}"
        f"  {kept['rms_error_j']:.2f} J, {kept['u95_method_j']:.2f} ({kept['u95_clock_j']:.2f}) J, {100 * kept['covered']:.0f} %",
        flush=True,
    )
    return kept


if __name__ == "__main__":
    main()
