"""What the host did in the window: how fast it computed, how busy it was, what it took for the engine's steps.

A step needs the CPU, too: it is scheduled, its kernels are launched, and only then the engine waits for the GPU::

    report     i - 1                        i                         i + 1
    CPU        |--- launch of step i + 1 ---|- wait for i -|
    GPU            |-- step i --|              |-- step i + 1 --|

A step above the captured CUDA graphs is launched kernel by kernel, which takes longer than what the GPU computes in it
meanwhile. So the same GPU serves otherwise on another host: a slower one gets bigger batches, and often less energy a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wattcount.metrics.observations import MISSING, Bools, Floats, Ints, Window, int_column
from wattcount.metrics.sheet import (
    NOT_RECORDED,
    Checks,
    Finding,
    FindingSpec,
    MetricSpec,
    Sheet,
    metric_specs,
)
from wattcount.metrics.window import Observed
from wattcount.records.intake import compute
from wattcount.records.schema import Evidence

if TYPE_CHECKING:
    import pyarrow as pa


PROMPT_TOKENS = (256, 1024)
"""Prompt tokens of the steps that stand for steps with a prompt [tokens]. Chosen: around a prompt of 512, which most of the records
in data/ have."""
MIN_STEPS = 8
"""Fewest steps whose median is given. Chosen: then one odd step in four does not move it."""
REACH_NS = 3_000_000_000
"""Longest distance of a sample from a bound of the window [ns]. Chosen: samples come once a second, and one may be late."""
PARTS = 4
"""Parts of the window that are held against each other. Chosen: a host that was slow for a quarter of the window has moved its figures."""
UNSTEADY_RATIO = 1.5
"""Slowest / fastest part from which on the host was unsteady. Measured: of 101 eager runs in data/ a tenth are above, up to 1.9; of
the servers with CUDA graphs two, by a hundredth."""
ALIKE = (0.8, 1.25)
"""Tokens that a decoding step may have to be held against others [median]. Chosen: what the CPU does for a step grows with its requests,
by some tenths for twice as many, and by more where a batch outgrows its CUDA graphs."""
HOST_BOUND = 0.9
"""Share of a step in which the engine does not wait for the GPU, from which on the step is the CPU's. Measured: 0.99 eager, 0.4 to 0.8
with CUDA graphs."""
DISTURBED_SHARE = 0.02
"""Share of time taken from the run's processes from which on the host was disturbed. Measured: steal time was 0.06 % where two runs
differed by 4 % for other reasons; at 2 % a step of 25 ms takes half a millisecond longer."""

SEVERAL = "steps_overlap"
"""Reason for null: steps of several replicas or stages overlap, so what one of them took cannot be told."""
OWN_STEPS = "waits_not_told"
"""Reason for null: the engine does not tell how long a step waited for the GPU."""
FEW_STEPS = "too_few_steps"
"""Reason for null: fewer steps of that kind than a median needs."""
ELSEWHERE = "server_elsewhere"
"""Reason for null: the server ran on another machine, whose CPU the run does not see."""

METRICS = (
    metric_specs(
        """
    host/step_share       | 1  |        | share of the time with requests running in which the engine did not wait for the GPU,
        but scheduled and launched: near 1, the steps are as fast as the CPU
    host/decode_step_ms   | ms | lower  | time of a step without prompt tokens, median
    host/decode_launch_ms | ms | lower  | of that, what the engine did not wait for the GPU
    """
    )
    | {
        "host/prefill_step_ms": MetricSpec(
            "ms",
            f"time of a step with {PROMPT_TOKENS[0]} to {PROMPT_TOKENS[1]} prompt tokens after one without, median",
            "lower",
        )
    }
    | metric_specs(
        """
    host/prefill_launch_ms | ms | lower  | time in which the engine launched such a step and did not wait for the GPU, median
    host/spin_ms           | ms | lower  | CPU time of a fixed piece of work, once a second, median: how fast the CPU computes
    host/spin_lost_share   | 1  | lower  | share of the time of all these pieces of work in which they had lost the CPU
    host/busy_share        | 1  |        | share of the CPU time of all the host's CPUs that anybody used
    host/steal_share       | 1  | lower  | share of it that a hypervisor gave to other virtual machines
    host/throttled_share   | 1  | lower  | share of the window in which the run's cgroup was held back by its CPU limit
    """
    )
    | {
        f"host/pressure_{name}_share": MetricSpec(
            "1", f"share of the window in which a task of the host waited for {what} (PSI, some)", "lower"
        )
        for name, what in {"cpu": "a CPU", "memory": "memory", "io": "a disk"}.items()
    }
    | metric_specs(
        """
    host/run_cpus          | 1   |        | CPU time of the run's processes, the engine's and the client's, / T: CPUs that they
        used
    host/wait_share        | 1   | lower  | share of the window in which the main thread of a process of the run could have run
        and waited for a CPU, the process that waited longest
    host/involuntary_per_s | 1/s | lower  | context switches of these main threads that they did not ask for, all together
    """
    )
)
"""The metrics of this module, by key: what the CPU took for steps, and what took time from it."""
NULL_REASONS = {
    SEVERAL: "several replicas or stages, whose steps overlap",
    OWN_STEPS: "the engine tells how long its steps took, not how long it waited for the GPU",
    ELSEWHERE: "the server ran on another machine than the run",
    FEW_STEPS: f"fewer than {MIN_STEPS} steps of that kind",
}
"""What each of this module's reasons for null means, in words."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    if seen.window is None:
        return
    _put_steps(sheet, seen)
    host = seen.once(_sampled)
    found = {} if host is None else host.figures(seen.window)
    for key in METRICS:
        if key not in sheet.metrics:
            sheet.put(key, found.get(key), ELSEWHERE if _elsewhere(seen) else NOT_RECORDED)


# -- steps


@dataclass(frozen=True)
class Steps:
    """Gaps between the reports of successive steps within a window, float64[gaps] and bool[gaps].

    middle_ns  time of the gap
    took_ms    its length
    host_ms    of it, what the engine did not wait for the GPU
    whole_ms   of it and the next, as far as the step lies in both; nan at the window's end
    decode     what was computed and launched in it were decoding steps alone
    prefill    what was launched in it was a step with `PROMPT_TOKENS` after one without a prompt
    tokens     that were decoded in what was launched in it
    ahead      a step is launched in the gap before its own
    """

    middle_ns: Ints
    took_ms: Floats
    host_ms: Floats
    whole_ms: Floats
    decode: Bools
    prefill: Bools
    tokens: Ints
    ahead: bool


def steps_of(seen: Observed) -> Steps | str:
    """The steps of the window, or the reason why they say nothing of the host."""
    record, window = seen.record, seen.window
    assert window is not None
    engine, table = record.info.resolved.engine, record.steps
    if engine.data_parallel_size > 1 or engine.pipeline_parallel_size > 1:
        return SEVERAL
    names = ("logged_ns", "engine_ts_ns", "duration_ns", "prefill_tokens", "decode_tokens", "running")
    order = np.argsort(int_column(table, "logged_ns"), kind="stable")
    reported, own, waited, prefill, decode, running = (int_column(table, name)[order] for name in names)
    if len(reported) and (own != MISSING).all():
        return OWN_STEPS
    if (waited == MISSING).all():
        return NOT_RECORDED
    # Under asynchronous scheduling the step after it is launched before a step is waited for.
    ahead = (record.info.engine.get("details") or {}).get("async_scheduling") is not False
    at = np.arange(1, len(reported) - 1)
    inside = (reported[at - 1] >= window.start_ns) & (reported[at] <= window.end_ns) & (running[at - 1] > 0)
    at = at[inside & (waited[at] != MISSING)]
    before, launched = (at, at + 1) if ahead else (at - 1, at)
    took_ms = (reported[at] - reported[at - 1]) / 1e6
    whole_ms = (reported[launched] - reported[at - 1]) / 1e6
    ended = (reported[launched] <= window.end_ns) & (running[before] > 0)
    low, high = PROMPT_TOKENS
    return Steps(
        (reported[at] + reported[at - 1]) // 2,
        took_ms,
        np.maximum(took_ms - waited[at] / 1e6, 0.0),
        np.where(ended, whole_ms, np.nan),
        (prefill[at] == 0) & (prefill[launched] == 0) & (decode[launched] > 0),
        (prefill[before] == 0) & (prefill[launched] >= low) & (prefill[launched] <= high),
        decode[launched],
        ahead,
    )


def _put_steps(sheet: Sheet, seen: Observed) -> None:
    steps = seen.once(steps_of)
    if isinstance(steps, str):
        for key in METRICS:
            if key.startswith(("host/step", "host/decode", "host/prefill")):
                sheet.put(key, None, steps)
        return
    total = float(steps.took_ms.sum())
    sheet.put("host/step_share", float(steps.host_ms.sum()) / total if total else None, FEW_STEPS)
    decode_ms = _median(steps.took_ms[steps.decode])
    sheet.put("host/decode_step_ms", decode_ms, FEW_STEPS)
    sheet.put("host/decode_launch_ms", _median(steps.host_ms[steps.decode]), FEW_STEPS)
    sheet.put("host/prefill_launch_ms", _median(steps.host_ms[steps.prefill]), FEW_STEPS)
    whole_ms = _median(steps.whole_ms[steps.prefill & ~np.isnan(steps.whole_ms)])
    # Launched ahead, the two gaps hold a decoding step as well.
    other_ms = decode_ms if steps.ahead else 0.0
    known = whole_ms is not None and other_ms is not None
    sheet.put("host/prefill_step_ms", whole_ms - other_ms if known else None, FEW_STEPS)  # type: ignore[operator]


def _median(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) >= MIN_STEPS else None


# -- samples


class Sampled:
    """`host.parquet`: the host's rows, and those of each process, in the order of time."""

    def __init__(self, table: pa.Table) -> None:
        self._host = table.filter(table["pid"].is_null())
        processes, equal = table.filter(table["pid"].is_valid()), compute().equal
        self._processes = [
            processes.filter(equal(processes["pid"], pid))
            for pid in sorted(set(processes["pid"].to_pylist()))
        ]

    def spins(self, window: Window) -> tuple[Ints, Floats, Floats]:
        """(times, milliseconds by the clock, of CPU time) of the spins in the window."""
        t_ns, taken, of_cpu = (int_column(self._host, name) for name in ("t_ns", "spin_ns", "spin_cpu_ns"))
        inside = (
            (t_ns >= window.start_ns) & (t_ns <= window.end_ns) & (taken != MISSING) & (of_cpu != MISSING)
        )
        return t_ns[inside], taken[inside] / 1e6, of_cpu[inside] / 1e6

    def counted(self, name: str, window: Window) -> float | None:
        """Rise of one of the host's counters in the window; None where it was not read around it."""
        return _rise(self._host, name, window, whole=True)

    def of_processes(self, name: str, window: Window) -> list[float]:
        """The same of each process, as far as it lived in the window."""
        found = (_rise(table, name, window, whole=False) for table in self._processes)
        return [rise for rise in found if rise is not None]

    def figures(self, window: Window) -> dict[str, float | None]:
        """`host/...` of the samples."""
        seconds = window.duration_s
        _, taken_ms, cpu_ms = self.spins(window)
        found: dict[str, float | None] = {}
        if len(cpu_ms):
            found["host/spin_ms"] = float(np.median(cpu_ms))
            found["host/spin_lost_share"] = max(0.0, 1 - float(cpu_ms.sum() / taken_ms.sum()))
        times = [self.counted(f"{name}_ms", window) for name in ("user", "system", "idle", "iowait", "steal")]
        known_ms = [value for value in times if value is not None]
        if len(known_ms) == len(times) and (total_ms := sum(known_ms)):
            user_ms, system_ms, *_, steal_ms = known_ms
            found["host/busy_share"] = (user_ms + system_ms) / total_ms
            found["host/steal_share"] = steal_ms / total_ms
        for name in ("throttled", "pressure_cpu", "pressure_memory", "pressure_io"):
            rise_us = self.counted(f"{name}_us", window)
            found[f"host/{name}_share"] = None if rise_us is None else rise_us / (seconds * 1e6)
        for key, name, per, of in (
            ("host/run_cpus", "cpu_ns", 1e9, sum),
            ("host/wait_share", "wait_ns", 1e9, max),
            ("host/involuntary_per_s", "involuntary", 1.0, sum),
        ):
            rises = self.of_processes(name, window)
            found[key] = of(rises) / (seconds * per) if rises else None
        return found


def _rise(table: pa.Table, name: str, window: Window, *, whole: bool) -> float | None:
    t_ns, values = int_column(table, "t_ns"), int_column(table, name)
    t_ns, values = t_ns[values != MISSING], values[values != MISSING]
    if not len(t_ns):
        return None
    if whole and (t_ns[0] > window.start_ns + REACH_NS or t_ns[-1] < window.end_ns - REACH_NS):
        return None
    # From the first value on: large counters are not exact in floating point.
    at = np.interp([window.start_ns - t_ns[0], window.end_ns - t_ns[0]], t_ns - t_ns[0], values - values[0])
    return max(0.0, float(at[1] - at[0]))


def _elsewhere(seen: Observed) -> bool:
    server = (seen.record.info.engine.get("details") or {}).get("server")
    return isinstance(server, dict) and server.get("local") is False


def _sampled(seen: Observed) -> Sampled | None:
    """None where nothing was recorded, or not of the host that served."""
    table = seen.record.host
    return Sampled(table) if len(table) and not _elsewhere(seen) else None


# -- findings

UNSTEADY = FindingSpec(
    "host_unsteady",
    "1",
    "slowest / fastest quarter of the window, by the median of what the CPU took: for a decoding step where the engine hardly waits for "
    "the GPU, for launching a step with a prompt elsewhere; or for the spin",
    f"{UNSTEADY_RATIO:g}",
    False,
    "the figures are this run's; how far another start would lie is in the host's part of the uncertainty",
    "keep others off the host, and repeat: several starts show by how much it scatters",
)
"""The CPU was slower in one quarter of the window than in another. It leaves a run valid: the energy is that of the run as it
was."""
DISTURBED = FindingSpec(
    "host_disturbed",
    "1",
    "share of time that others took from the run's processes: steal time, throttling, waits of a main thread for a CPU; the largest",
    f"{DISTURBED_SHARE:.0%}",
    False,
    "the same; no record shows yet from which share on energy is another",
    "keep others off the host, or give the run CPUs of its own (`engine.pinned_cpus`)",
)
"""Others took time from the run's processes. It leaves a run valid: the energy is that of the run as it was."""


def slowest_to_fastest(t_ns: Ints, values: Floats, window: Window) -> float | None:
    """Ratio of the largest to the smallest median of `PARTS` equal parts of the window; None where a part has too few values."""
    edges = np.linspace(0, window.end_ns - window.start_ns, PARTS + 1)
    part = np.clip(np.searchsorted(edges, t_ns - window.start_ns, side="right") - 1, 0, PARTS - 1)
    medians = [_median(values[part == number]) for number in range(PARTS)]
    known = [median for median in medians if median is not None]
    return max(known) / min(known) if len(known) == PARTS and min(known) > 0 else None


@CHECKS.finds_in_window(UNSTEADY)
def unsteady(seen: Observed, window: Window) -> Iterator[Finding]:
    """A host that computed faster in one part of the window than in another."""
    if seen.record.info.evidence is not Evidence.MEASURED:
        return
    found: dict[str, float | None] = {}
    steps = seen.once(steps_of)
    if not isinstance(steps, str):
        chosen, what = steps.decode, "decoding steps"
        if chosen.any():
            usual = np.median(steps.tokens[chosen])
            chosen = chosen & (steps.tokens >= ALIKE[0] * usual) & (steps.tokens <= ALIKE[1] * usual)
        if steps.host_ms[chosen].sum() <= HOST_BOUND * steps.took_ms[chosen].sum():
            chosen, what = steps.prefill, "launching steps with a prompt"
        found[what] = slowest_to_fastest(steps.middle_ns[chosen], steps.host_ms[chosen], window)
    host = seen.once(_sampled)
    if host is not None:
        t_ns, _, cpu_ms = host.spins(window)
        found["a fixed piece of work"] = slowest_to_fastest(t_ns, cpu_ms, window)
    for what, ratio in found.items():
        if ratio is not None and ratio > UNSTEADY_RATIO:
            yield UNSTEADY.found(
                ratio,
                UNSTEADY_RATIO,
                f"the host's CPU took {ratio:.2g} times as long for {what} in one quarter of the window as in another: keep others "
                "off it, or repeat the run",
            )


@CHECKS.finds_in_window(DISTURBED)
def disturbed(seen: Observed, window: Window) -> Iterator[Finding]:
    """A host that did not let the run's processes compute."""
    host = seen.once(_sampled)
    if host is None or seen.record.info.evidence is not Evidence.MEASURED:
        return
    found = host.figures(window)
    words = {
        "host/steal_share": "the hypervisor gave {} of the CPU time to other virtual machines",
        "host/throttled_share": "the CPU limit of its cgroup held the run back for {} of the window",
        "host/wait_share": "a process of the run waited for a CPU for {} of the window",
    }
    share, key = max((found.get(key) or 0.0, key) for key in words)
    if share > DISTURBED_SHARE:
        yield DISTURBED.found(share, DISTURBED_SHARE, words[key].format(f"{share:.1%}"))
