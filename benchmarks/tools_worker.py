"""One tool measuring windows on an emulated GPU, in a process of its own; started by bench_tools.py.

    LD_LIBRARY_PATH=... WATTCOUNT_NVML_EMULATOR=machine.json python tools_worker.py TOOL PLAN.json

Runs with the Python of the tools' own virtual environment, so it imports nothing of wattcount but for the tool
`wattcount`. The plan: `{"lanes": [[[start_s, end_s], ...], ...]}`, seconds since an epoch; the windows of a lane follow each
other, lanes run at once in threads. Prints `{"ready": ..}` when the tool is made, reads the epoch (CLOCK_MONOTONIC
ns) from standard input, then prints a result: for each lane and window `[a_ns, b_ns, joules or null]`, where `a` is
when the tool's start call had returned and `b` when its end call was made: what a user's work lies between.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

S_NS = 1_000_000_000
POLL_S = 0.1
ZEUS_POWER_PERIOD_S = 0.05
LEAD_S = 1.5
"""Tools that record a timeline begin so long before the first window and end so long after the last."""


class Tool:
    """`begin` and `end` surround a window; `energy_j` is asked when all windows are over."""

    package = ""

    def start(self) -> None:
        """Once, before the first window."""

    def stop(self) -> None:
        """Once, after the last window."""

    def prepare(self, lane: int) -> Any:
        """Makes what the lane's next window needs, outside of the window."""

    def begin(self, lane: int, prepared: Any) -> Any:
        """Begins a window; what it returns is passed on."""

    def end(self, lane: int, begun: Any) -> Any:
        """Ends it."""

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:
        raise NotImplementedError


class Harness(Tool):
    """Nothing is measured: what the windows themselves cost."""

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        return None


class ZeusMonitorTool(Tool):
    """The energy counter read at both ends."""

    package = "zeus"

    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor = ZeusMonitor(gpu_indices=[0], cpu_indices=[])

    def begin(self, lane: int, prepared: Any) -> Any:  # noqa: ARG002
        # There is no CUDA work to wait for.
        self._monitor.begin_window(str(lane), sync_execution=False)

    def end(self, lane: int, begun: Any) -> Any:  # noqa: ARG002
        return self._monitor.end_window(str(lane), sync_execution=False).gpu_energy[0]

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        return float(ended)


class ZeusPowerMonitorTool(Tool):
    """Instant power, polled by a process, integrated by the trapezoidal rule."""

    package = "zeus"

    def __init__(self) -> None:
        from zeus.monitor import PowerMonitor

        # Left to itself, 0.16.0 infers a period of 0 here and polls without a pause.
        self._monitor = PowerMonitor(
            gpu_indices=[0], update_period=ZEUS_POWER_PERIOD_S, power_domains=["device_instant"]
        )

    def stop(self) -> None:
        time.sleep(0.5)

    def begin(self, lane: int, prepared: Any) -> Any:  # noqa: ARG002
        return time.time()

    def end(self, lane: int, begun: Any) -> Any:  # noqa: ARG002
        return begun, time.time()

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        energy = self._monitor.get_energy(*ended)
        return None if energy is None else energy[0]


class CodecarbonTool(Tool):
    """A task of an offline tracker: the energy counter read at both ends."""

    package = "codecarbon"

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self._make = lambda: OfflineEmissionsTracker(
            country_iso_code="USA", save_to_file=False, log_level="error", allow_multiple_runs=True
        )
        self._trackers: dict[int, Any] = {}

    def prepare(self, lane: int) -> Any:
        if lane not in self._trackers:
            tracker = self._trackers[lane] = self._make()
            # The first task of a tracker takes a second to find the hardware.
            tracker.start_task("warm-up")
            tracker.stop_task("warm-up")

    def begin(self, lane: int, prepared: Any) -> Any:  # noqa: ARG002
        self._trackers[lane].start_task()

    def end(self, lane: int, begun: Any) -> Any:  # noqa: ARG002
        return self._trackers[lane].stop_task().gpu_energy

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        return float(ended) * 3.6e6  # kWh


class EnergyMeterTool(Tool):
    """GetPowerUsage at 10 Hz from a thread, integrated by the trapezoidal rule."""

    package = "ai-energymeter"

    def __init__(self) -> None:
        from energymeter import EnergyMeter

        self._make = lambda: EnergyMeter(ignore_disk=True, include_idle=True)

    def prepare(self, lane: int) -> Any:  # noqa: ARG002
        return self._make()

    def begin(self, lane: int, prepared: Any) -> Any:  # noqa: ARG002
        prepared.begin()
        return prepared

    def end(self, lane: int, begun: Any) -> Any:  # noqa: ARG002
        begun.end()
        return begun

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        return float(ended.get_total_joules_gpu())


class Poller(Tool):
    """A thread that records something until the end."""

    package = "nvidia-ml-py"

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self.t_ns: list[int] = []
        self.values: list[float] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _poll(self) -> None:
        raise NotImplementedError

    def _times_s(self, *more_ns: int) -> Any:
        return (np.array([*self.t_ns, *more_ns], np.int64) - self.t_ns[0]) / S_NS


class PynvmlTool(Poller):
    """GetPowerUsage at 10 Hz, joined by straight lines and cut at the window's bounds."""

    def _poll(self) -> None:
        while not self._over.wait(POLL_S):
            self.t_ns.append(time.monotonic_ns())
            self.values.append(self._nvml.nvmlDeviceGetPowerUsage(self._gpu) / 1e3)

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        *t_s, a_s, b_s = self._times_s(a_ns, b_ns)
        inside = [a_s, *(t for t in t_s if a_s < t < b_s), b_s]
        watts = np.interp(inside, t_s, self.values)
        return float(((watts[1:] + watts[:-1]) / 2 * np.diff(inside)).sum())


class CounterEdgesTool(Poller):
    """The energy counter read back to back; between two changes of it the energy is a straight line."""

    def _poll(self) -> None:
        before_ns, last = time.monotonic_ns(), None
        while not self._over.is_set():
            call_ns = time.monotonic_ns()
            value = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            if last is not None and value != last:
                # Somewhere between the last call that gave the old value and the end of this one.
                self.t_ns.append((before_ns + time.monotonic_ns()) // 2)
                self.values.append(value / 1e3)
            before_ns, last = call_ns, value

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        *t_s, a_s, b_s = self._times_s(a_ns, b_ns)
        if not t_s[0] <= a_s < b_s <= t_s[-1]:
            return None
        low, high = np.interp([a_s, b_s], t_s, self.values)
        return float(high - low)


class CounterEndsTool(Tool):
    """The energy counter polled until it changes, once at each end; the power in between is taken as constant."""

    package = "nvidia-ml-py"

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._gpu = pynvml.nvmlDeviceGetHandleByIndex(0)

    def _edge(self) -> tuple[int, int]:
        """(ns, millijoules) at the next change."""
        before_ns = time.monotonic_ns()
        old = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
        while True:
            call_ns = time.monotonic_ns()
            value = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
            if value != old:
                return (before_ns + time.monotonic_ns()) // 2, value
            before_ns = call_ns

    def begin(self, lane: int, prepared: Any) -> Any:  # noqa: ARG002
        return self._edge()

    def end(self, lane: int, begun: Any) -> Any:  # noqa: ARG002
        return begun, self._edge()

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:
        (first_ns, first_mj), (last_ns, last_mj) = ended
        return float((last_mj - first_mj) / 1e3 * (b_ns - a_ns) / (last_ns - first_ns))


class WattcountTool(Tool):
    """wattcount's sampler as it comes, and its estimate of each window."""

    package = "wattcount"

    def __init__(self) -> None:
        from wattcount.gpu import PowerSampler

        self._sampler = PowerSampler(gpus=[0])
        self.u95_j: dict[tuple[int, int], float] = {}

    def start(self) -> None:
        self._sampler.start()

    def stop(self) -> None:
        self._sampler.stop()
        self._trace = self._sampler.trace()

    def energy_j(self, ended: Any, a_ns: int, b_ns: int) -> float | None:  # noqa: ARG002
        estimate = self._trace.energy(a_ns, b_ns, self._trace.gpu_uuids[0])
        if estimate.u95_j is not None:
            self.u95_j[a_ns, b_ns] = estimate.u95_j
        return estimate.value_j


TOOLS: dict[str, type[Tool]] = {
    "harness": Harness,
    "wattcount": WattcountTool,
    "zeus_monitor": ZeusMonitorTool,
    "zeus_power_monitor": ZeusPowerMonitorTool,
    "codecarbon": CodecarbonTool,
    "ai_energymeter": EnergyMeterTool,
    "pynvml_10hz": PynvmlTool,
    "counter_ends": CounterEndsTool,
    "counter_edges": CounterEdgesTool,
}


def sleep_until(t_ns: int) -> None:
    left_ns = t_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / S_NS)


def tree_cpu_s() -> float:
    """CPU time of this process and all its descendants, ended ones that were waited for included."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own_s = time.process_time() + children.ru_utime + children.ru_stime
    ticks: dict[int, tuple[int, int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it has ended meanwhile
        ticks[int(stat.parent.name)] = (int(fields[1]), sum(int(field) for field in fields[11:15]))
    family = {os.getpid()}
    while grown := {pid for pid, (parent, _) in ticks.items() if parent in family} - family:
        family |= grown
    return own_s + sum(ticks[pid][1] for pid in family - {os.getpid()}) / os.sysconf("SC_CLK_TCK")


def run_lane(tool: Tool, lane: int, windows: list[list[float]], epoch_ns: int, results: list[Any]) -> None:
    for start_s, end_s in windows:
        prepared = tool.prepare(lane)
        start_ns, end_ns = (epoch_ns + round(at_s * S_NS) for at_s in (start_s, end_s))
        sleep_until(start_ns)
        late_ns = time.monotonic_ns() - start_ns
        begun = tool.begin(lane, prepared)
        a_ns = time.monotonic_ns()
        sleep_until(end_ns)
        b_ns = time.monotonic_ns()
        results.append((a_ns, b_ns, tool.end(lane, begun), late_ns))


def main() -> None:
    name, plan_path = sys.argv[1:]
    lanes = json.loads(Path(plan_path).read_text())["lanes"]
    # Some tools print; the answer goes where standard output was, what they print to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    tool = TOOLS[name]()
    for lane in range(len(lanes)):
        tool.prepare(lane)
    print(
        json.dumps({"ready": True, "version": version(tool.package) if tool.package else None}),
        file=answers,
        flush=True,
    )
    epoch_ns = int(sys.stdin.readline())
    sleep_until(epoch_ns - round(LEAD_S * S_NS))
    cpu_s, start_ns = tree_cpu_s(), time.monotonic_ns()
    tool.start()
    results: list[list[Any]] = [[] for _ in lanes]
    threads = [
        threading.Thread(target=run_lane, args=(tool, lane, windows, epoch_ns, results[lane]))
        for lane, windows in enumerate(lanes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sleep_until(epoch_ns + round((max(window[1] for lane in lanes for window in lane) + LEAD_S) * S_NS))
    cpu_s, wall_s = tree_cpu_s() - cpu_s, (time.monotonic_ns() - start_ns) / S_NS
    tool.stop()
    answer = {
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "late_ms": [late_ns / 1e6 for lane in results for *_, late_ns in lane],
        "lanes": [[(a, b, tool.energy_j(ended, a, b)) for a, b, ended, _ in lane] for lane in results],
    }
    u95_j = getattr(tool, "u95_j", {})
    answer["u95_j"] = [[u95_j.get((a, b)) for a, b, *_ in lane] for lane in results]
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
