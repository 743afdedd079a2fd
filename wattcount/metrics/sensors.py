"""How well the sensors were read: the sampler's books, loads that keep step with a sensor, and reads that are missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wattcount.energy import EnergyEstimate
from wattcount.energy.events import Source, lost_line, says_lost
from wattcount.energy.uncertainty import EnergySum, total
from wattcount.metrics.observations import Ints, Window, gpu_uuids, int_column
from wattcount.metrics.sheet import Checks, Finding, MetricSpec, Sheet, finding_specs, metric_specs
from wattcount.metrics.window import Observed, on
from wattcount.records.schema import RunInfo

if TYPE_CHECKING:
    from wattcount.records import Record

ENERGY_SOURCES = ("energy_counter", "power_samples", "power_average", "power_instant", "power_usage")
"""The sources an energy can be had from, by their names in `power.parquet`."""
POLLED_SOURCES = (*ENERGY_SOURCES, "status")
"""What the sampler polls at a rate of its own; `status` is temperature, clocks and the like."""
STATUS_SOURCES = ("temperature_gpu", "clock_sm", "utilization_gpu", "memory_used")
"""Sources that are read together at the status rate; the first one that the GPU has stands for all."""

SENSITIVITY = {1: 0.16, 2: 0.08}
"""Largest error of the energy counter [share] by how many steps fall to one sample, for a load that is half on and half off.

Measured on an H200 (benchmarks/bench_load_period.py, docs/h200.md): 16 % at the samples' own period of 20 ms, 7 and 9 % at half
of it, within the 1 % of its scatter at a quarter and below.
"""
MIN_STEPS = 20
"""Fewest engine steps in a window whose coherence is told: with fewer, random phases are coherent too often."""
READ_GAP_PERIODS = 4.0
"""Length above which a stretch without reads is a gap [polling periods]. Chosen: three lost reads."""
READ_GAP_SHARE = 0.1
"""Part of a phase that a gap which began before it, or ends after it, may take [share]. Chosen: a gap over the end of a phase hides
when power changed there."""
LOCKED_ERROR_SHARE = 0.01
"""Error of the energy by a load that keeps step with the sensor [share], above which it is a finding."""
MISSED_SHARE = 0.01
"""Share of the sampler's reads that may fall out."""
MIN_COUNTER_READS = 5
"""Fewest reads of the counter in a window, for its energy to rest on more than the two at its ends."""

METRICS = (
    metric_specs(
        """
    sampler/cpu_share | 1 | lower  | CPU time of the sampling threads / wall time, summed over GPUs: 0.01 is 1 % of one core
    """
    )
    | {
        key: spec
        for source in POLLED_SOURCES
        for key, spec in {
            f"sampler/{source}_rate_hz": MetricSpec("Hz", f"reads of {source} a second, the slowest GPU"),
            f"sampler/{source}_jitter_ms": MetricSpec(
                "ms", f"how late reads of {source} began, percentile 99; the worst GPU", "lower"
            ),
        }.items()
    }
    | metric_specs(
        """
    sampler/missed_deadlines | 1 | lower  | reads that fell out because the one before took too long
    sampler/dropped_events   | 1 | lower  | observations lost to a full buffer
    sampler/ring_overflows   | 1 | lower  | times the driver's samples ring had wrapped before it was drained
    run/overhead_s           | s | lower  | what wattcount adds to the phases and the engine's start
    run/engine_start_s       | s | lower  | time the engine took to start
    """
    )
)
"""The metrics of this module, by key: what the sampler cost, and what each source was asked and gave."""
NULL_REASONS: dict[str, str] = {}
"""No reason for null of its own. Every part of `metrics_json` has this table."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """`sampler/...` and `run/...`, of the whole run."""
    figures = sampler_figures(seen.record.info) | timing_figures(seen.record.info)
    for key in METRICS:
        sheet.put(key, figures.get(key))


def sampler_figures(info: RunInfo) -> dict[str, int | float]:
    """`sampler/...` figures of a run; a figure that cannot be had is left out.

    Several GPUs: shares and counts add up; of rates the slowest, of lateness the worst.
    """
    gpus = [gpu for gpu in info.sampler.values() if isinstance(gpu, Mapping)]
    figures: dict[str, int | float] = {}
    shares = [gpu["cpu_ns"] / gpu["wall_ns"] for gpu in gpus if gpu.get("wall_ns")]
    if shares and len(shares) == len(gpus):
        figures["sampler/cpu_share"] = math.fsum(shares)
    for name in ("missed_deadlines", "dropped_events", "ring_overflows"):
        counts = [gpu[name] for gpu in gpus if gpu.get(name) is not None]
        if counts:
            figures[f"sampler/{name}"] = int(sum(counts))
    for source in POLLED_SOURCES:
        books = [book for gpu in gpus if (book := _book(gpu, source)) is not None]
        if rates := [book["rate_hz"] for book in books if book.get("rate_hz")]:
            figures[f"sampler/{source}_rate_hz"] = float(min(rates))
        if late := [book["lateness_p99_ns"] for book in books if book.get("lateness_p99_ns") is not None]:
            figures[f"sampler/{source}_jitter_ms"] = float(max(late)) / 1e6
    return figures


def _book(gpu: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """The books of a source that works on this GPU."""
    sources = gpu.get("sources", {})
    for name in STATUS_SOURCES if source == "status" else (source,):
        book: Mapping[str, Any] | None = sources.get(name)
        if book is not None and book.get("calls", 0) > book.get("errors", 0):
            return book
    return None


def timing_figures(info: RunInfo) -> dict[str, float]:
    """`run/...`: what wattcount itself adds to a run, seconds."""
    return {
        f"run/{name}": float(info.timing[name])
        for name in ("overhead_s", "engine_start_s")
        if name in info.timing
    }


# -- a load in step with the power sensor, which then sees it at one phase only


@dataclass(frozen=True)
class Locking:
    """Steps against samples. `coherence` is 0 where steps fall anywhere between two samples, 1 where always alike."""

    step_ns: float
    steps_a_sample: int
    coherence: float

    @property
    def error_share(self) -> float:
        """Largest share by which the counter may be off: the sensitivity, as far as the steps keep step."""
        return SENSITIVITY.get(self.steps_a_sample, 0.0) * self.coherence


def locking(step_ns: Ints, sample_period_ns: float) -> Locking | None:
    """How steps logged at these times, int64[n] increasing, keep time with the samples; None where there are too few.

    The phase of each step in the period that matters, the samples' or a fraction of it, is a unit vector; coherence is
    the length of their mean, less what as many steps at random phases would have (Mardia and Jupp, Directional
    Statistics, 2000, section 2.3.1: the mean square length of n random unit vectors' mean is 1 / n).
    """
    if len(step_ns) < MIN_STEPS:
        return None
    length_ns = float(np.median(np.diff(step_ns)))
    if length_ns <= 0:
        return None
    a_sample = max(1, round(sample_period_ns / length_ns))
    phase = (
        2 * np.pi * ((step_ns - step_ns[0]) % (sample_period_ns / a_sample)) / (sample_period_ns / a_sample)
    )
    square = float(np.mean(np.cos(phase)) ** 2 + np.mean(np.sin(phase)) ** 2)
    chance = 1 / len(step_ns)
    return Locking(length_ns, a_sample, max(0.0, (square - chance) / (1 - chance)) ** 0.5)


def locking_of(record: Record, window: Window, gpu_uuid: str) -> Locking | None:
    """How a record's engine steps in a window keep time with one GPU's samples ring; None where either is missing."""
    return record.once(("locking", window, gpu_uuid), lambda: _locking_of(record, window, gpu_uuid))


def _locking_of(record: Record, window: Window, gpu_uuid: str) -> Locking | None:
    logged_ns = np.sort(int_column(record.steps, "logged_ns"))
    inside = logged_ns[(logged_ns >= window.start_ns) & (logged_ns < window.end_ns)]
    step_us = record.power.usual_step(gpu_uuid, Source.POWER_SAMPLES, "source_ts_us")
    return None if step_us is None else locking(inside, 1e3 * step_us)


def window_energy(record: Record, window: Window, gpu_uuid: str) -> EnergyEstimate:
    """Energy of a window, with what locking may do to it in the sensor's part of the uncertainty (`locking`).

    The sensor's, because runs of the same load on one board would share it.
    """
    estimate = record.power.energy(window.start_ns, window.end_ns, gpu_uuid)
    found = locking_of(record, window, gpu_uuid)
    if (
        found is None
        or estimate.value_j is None
        or estimate.u95_method_j is None
        or estimate.u95_sensor_j is None
    ):
        return estimate
    locked_j = found.error_share * estimate.value_j
    sensor_j = math.hypot(estimate.u95_sensor_j, locked_j)
    return replace(
        estimate,
        u95_j=math.hypot(estimate.u95_method_j, sensor_j),
        u95_sensor_j=sensor_j,
        budget_j={**estimate.budget_j, "locking": locked_j},
    )


def window_energy_sum(record: Record, window: Window) -> EnergySum | None:
    """The sum over the GPUs of the run (`energy.uncertainty.total`); None where one's energy or uncertainty is not known."""
    estimates = []
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return None
        estimates.append(window_energy(record, window, uuid))
    return total(estimates)


# -- findings

GPU_LOST, DROPPED, OVERFLOWS, MISSED, POWER_GAP, FEW_READS, LOCKED = finding_specs(
    """
    gpu_lost | reads | yes | reads that ended with "GPU is lost" | 0 |  | the board fell off the bus: see `dmesg` for Xid
        errors, and reset it or the host
    dropped_events | observations | no | observations lost to a full buffer, whole run | 0 | `power_gap` does if it mattered
        | raise `power.buffer_mib_per_gpu`, or read less often (`power.energy_counter_period_ms`)
    ring_overflows | times | no | times the samples ring wrapped before it was read, whole run | 0 | the counter has the
        joules, only the shape has a hole | give the host more free CPU, or lower `power.samples_period_ms`
    missed_deadlines | 1 | no | share of the sampler's reads that fell out, whole run | 1 % | the next read makes up for it,
        or it is a `power_gap` | give the host more free CPU
    power_gap | ms | yes | longest stretch without a read of the GPU's energy (or power) that lies in the window, its steady
        part or an idle phase, or takes a tenth of it | 4 polling periods or heartbeats | what was drawn there, or on which
        side of the phase's end, was not seen | give the host more free CPU, and measure again
    window_too_short | reads | no | reads of the energy counter in the window (the figure is below the limit) | 5 | the
        uncertainty of the energy says how much is known | measure longer (`scenario.window_s`, `scenario.num_requests`)
    load_locks_to_sensor | 1 | no | share by which the counter may be off because engine steps keep step with the power
        samples ([h200.md](h200.md#fast-loads-what-the-counter-makes-of-them)) | 1 % | how much of it is there is not known
        | repeat at a load a little different, whose steps do not keep step with the sensor
    """
)


@CHECKS.finds(GPU_LOST)
def gpu_lost(seen: Observed) -> Iterator[Finding]:
    events = seen.record.power.events
    for index, uuid in enumerate(seen.record.power.gpu_uuids):
        lost = int((says_lost(events) & (events["gpu"] == index)).sum())
        if lost:
            yield GPU_LOST.found(lost, 0, lost_line(uuid))


@CHECKS.finds(DROPPED, OVERFLOWS, MISSED)
def sampler_losses(seen: Observed) -> Iterator[Finding]:
    """What the sampler lost, over the whole run."""
    for uuid, books in seen.record.info.sampler.items():
        for spec, what in (
            (DROPPED, "observations were lost to a full buffer"),
            (OVERFLOWS, "times the samples ring wrapped before it was read"),
        ):
            lost = books.get(spec.code) or 0
            if lost > 0:
                yield spec.found(lost, 0, f"{uuid}: {lost} {what}")
        calls = sum(source.get("calls") or 0 for source in (books.get("sources") or {}).values())
        missed = books.get("missed_deadlines") or 0
        if calls and missed / (calls + missed) > MISSED_SHARE:
            yield MISSED.found(
                missed / (calls + missed),
                MISSED_SHARE,
                f"{uuid}: {missed} of {calls + missed} reads of the sensors fell out, the one before took too long",
            )


@CHECKS.finds(POWER_GAP)
def read_gaps(seen: Observed) -> Iterator[Finding]:
    """The longest part of each stretch in which a GPU's energy was not read."""
    trace = seen.record.power
    asked = seen.record.info.resolved.power
    for uuid in trace.gpu_uuids:
        for source, period_ms in (
            (Source.ENERGY_COUNTER, asked.energy_counter_period_ms or 1000.0),
            (Source.POWER_AVERAGE, asked.heartbeat_ms),
            (Source.POWER_USAGE, asked.heartbeat_ms),
        ):
            chosen = trace.of(uuid, source)
            chosen = chosen[chosen["nvml_return"] == 0]
            if not len(chosen):
                continue
            # `prev_t0_ns` is a read too: the last one that still gave the old value.
            reads = np.sort(
                np.concatenate([chosen["t1_ns"], chosen["prev_t0_ns"][chosen["prev_t0_ns"] >= 0]])
            )
            limit = READ_GAP_PERIODS * max(period_ms, asked.heartbeat_ms)
            for name, span in seen.spans.items():
                known = np.concatenate([[min(span.start_ns, reads[0])], reads, [max(span.end_ns, reads[-1])]])
                inside_ns = np.minimum(known[1:], span.end_ns) - np.maximum(known[:-1], span.start_ns)
                longest = int(np.argmax(inside_ns))
                gap_ms = float(known[longest + 1] - known[longest]) / 1e6
                inside_ms = float(inside_ns[longest]) / 1e6
                if gap_ms > limit and inside_ms > min(limit, READ_GAP_SHARE * span.duration_s * 1e3):
                    yield POWER_GAP.found(
                        gap_ms,
                        limit,
                        f"{source.name.lower()} of {uuid} was not read for {gap_ms / 1e3:.1f} s, "
                        f"{inside_ms / 1e3:.1f} s of them in {name}",
                    )
            break


@CHECKS.finds_in_window(FEW_READS)
def few_reads(seen: Observed, window: Window) -> Iterator[Finding]:
    """A window so short that its energy rests on hardly more than the reads at its ends."""
    for uuid in seen.record.power.gpu_uuids:
        reads = seen.record.power.of(uuid, Source.ENERGY_COUNTER)
        reads = reads[reads["nvml_return"] == 0]
        if not len(reads):
            continue
        # `prev_t0_ns` is a read too: the last one that still gave the old value.
        times = np.unique(np.concatenate([reads["t0_ns"], reads["prev_t0_ns"]]))
        inside = int(((times >= window.start_ns) & (times <= window.end_ns)).sum())
        if inside < MIN_COUNTER_READS:
            yield FEW_READS.found(
                inside,
                MIN_COUNTER_READS,
                f"the energy counter{on(seen, uuid)} was read {inside} times in a window of {window.duration_s:.2g} s",
            )


@CHECKS.finds_in_window(LOCKED)
def locked(seen: Observed, window: Window) -> Iterator[Finding]:
    """Steps that keep step with the sensor's samples."""
    for uuid in seen.record.power.gpu_uuids:
        found = locking_of(seen.record, window, uuid)
        if found is not None and found.error_share > LOCKED_ERROR_SHARE:
            yield LOCKED.found(
                found.error_share,
                LOCKED_ERROR_SHARE,
                f"engine steps of {found.step_ns / 1e6:.1f} ms keep step with the power samples{on(seen, uuid)} "
                f"(coherence {found.coherence:.2f}): the energy may be off by up to {found.error_share:.0%}",
            )
