"""What a record itself says against being believed: each finding with its figure and its limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wattcount.metrics.drift import Drifts, backlog
from wattcount.metrics.locking import locking_of
from wattcount.metrics.observations import MISSING, Ints, Requests, held, int_column, starts_in
from wattcount.metrics.stalls import stalls
from wattcount.metrics.window import Window, phase_window
from wattcount.power.events import Source
from wattcount.record.schema import Phase

if TYPE_CHECKING:
    from wattcount.record import Record

GPU_IS_LOST = 15
"""NVML_ERROR_GPU_IS_LOST."""
READ_GAP_PERIODS = 4.0
"""A stretch without reads longer than this many polling periods is a gap."""
SOURCE_DISAGREEMENT = 0.05
"""Share of the counter's energy by which the 20 ms ring may differ from it. On steady serving loads the two
agree within 1 %; the ring aliases loads that repeat faster than some 100 ms, by up to 16 %."""
SOURCE_DISAGREEMENT_FATAL = 0.25
"""More than aliasing can explain: one of the two sources is broken."""
LOCKED_ERROR_SHARE = 0.01
"""Of the energy, that a load which keeps step with the sensor may be off by."""
SOURCES_MIN_WINDOW_S = 1.0
"""Below, counter and samples are not compared: where a window starts and ends within an update of either is a larger
part of it than what a sensor may be off by."""
AVERAGE_MIN_WINDOW_S = 10.0
"""The 1 s average is compared where its lag of up to a second cannot matter much."""
STALLED_SHARE = 0.01
STALLED_SHARE_FATAL = 0.1
"""Share of the window in which the engine stood still with work to do. A tenth of it is not how anybody serves."""
STALLED_FATAL_S = 0.5
"""In windows of a few seconds, at least this much."""
SEND_LAG_MS = 10.0
SEND_LAG_SHARE = 0.05
"""The generator lags where its p99 send lag exceeds both 10 ms and 5 % of the mean gap between arrivals."""
UNFINISHED_SHARE = 0.01
NOT_ACHIEVED_SHARE = 0.02
"""Share of the requests planned for the window that may be sent outside it."""
MISSED_SHARE = 0.01
"""Share of the sampler's reads that may fall out."""
MIN_COUNTER_READS = 5
"""Reads of the counter in a window, for its energy to rest on more than the two at its ends."""
DRIFT_PERCENT = 5.0
"""Change within a window that is worth a word, if it is more than chance."""
THROTTLED_SHARE = 0.01
CAPPED_SHARE = 0.05
"""Above a single read of the status in 20; a power cap is how a board works at its limit."""
BACKLOG_SHARE = 0.05
"""Share of the requests sent in a window by which those in flight may grow, before the server cannot keep up."""
LIMIT_TOLERANCE_W = 1.0
CLOCK_TOLERANCE = 0.01
"""Share of a locked SM clock; clocks come in steps of 15 MHz, so this is less than one."""
NOT_HELD_SHARE = 0.05
"""Share of a window's time under load in which a locked clock may be another; above a single read in 20."""
CLOCK_SPREAD = 0.1
"""Share of the window's highest SM clock between percentiles 5 and 95 (by time)."""
TEMPERATURE_C = (10.0, 85.0)
"""Outside of it a sensor is broken, or a board is close to its slowdown (87 to 95 degrees C on data-centre boards)."""

THROTTLES = (
    # (bits, code, NVML's names, what it means, limit, invalidates)
    (0x4, "power_capped", "SwPowerCap", "the power limit", CAPPED_SHARE, False),
    (
        0x20 | 0x40,
        "thermal_slowdown",
        "SwThermalSlowdown, HwThermalSlowdown",
        "temperature",
        THROTTLED_SHARE,
        True,
    ),
    (0x8, "hw_slowdown", "HwSlowdown", "the board's own protection", THROTTLED_SHARE, True),
    (0x80, "power_brake", "HwPowerBrakeSlowdown", "an external power brake", THROTTLED_SHARE, True),
    (0x10, "sync_boost", "SyncBoost", "its sync boost group", CAPPED_SHARE, False),
)
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that slow the clocks. `applications_clocks` (0x2) is a
setting and `gpu_idle` (0x1) a state: neither is a finding."""
GPU_IDLE = 0x1
SLOWING = 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80


@dataclass(frozen=True)
class Finding:
    """One thing found. `figure` and `limit` are in `unit`; `invalidates`: the numbers should not be used."""

    code: str
    figure: float
    limit: float
    unit: str
    message: str
    invalidates: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "figure": float(f"{self.figure:.12g}"),
            "limit": self.limit,
            "unit": self.unit,
            "message": self.message,
            "invalidates": self.invalidates,
        }


def check(record: Record, window: Window | None, drifts: Drifts | None = None) -> list[Finding]:
    """Findings about a record, most serious first; `window` None: the run never reached it.

    drifts  trends within the window, where they were computed
    """
    found = [*_gpu_lost(record), *_foreign_process(record, window), *_power_shared(record), *_sampler(record)]
    if window is not None:
        found += [
            *_read_gaps(record, window),
            *_short_window(record, window),
            *_sources(record, window),
            *_locked(record, window),
            *_requests(record, window),
            *_stalled(record, window),
            *_throttles(record, window),
            *_settings(record, window),
            *_asked_of_gpu(record, window),
            *_temperature(record, window),
            *_warmup(record),
            *_overloaded(record, window),
        ]
    if drifts is not None:
        found += _not_settled(record, drifts)
    return sorted(found, key=lambda finding: not finding.invalidates)


def _on(record: Record, uuid: str) -> str:
    """Which GPU, where there are several."""
    return f" of {uuid}" if len(record.power.gpu_uuids) > 1 else ""


def _gpu_lost(record: Record) -> Iterator[Finding]:
    events = record.power.events
    for index, uuid in enumerate(record.power.gpu_uuids):
        lost = int(((events["nvml_return"] == GPU_IS_LOST) & (events["gpu"] == index)).sum())
        if lost:
            yield Finding("gpu_lost", lost, 0, "reads", f"{uuid} fell off the bus (NVML: GPU is lost)", True)


def _foreign_process(record: Record, window: Window | None) -> Iterator[Finding]:
    """Compute processes in bare idle, or more of them in the window than the engine has in loaded idle."""
    phases, trace = record.info.phases, record.power
    bare = phase_window(phases, Phase.BARE_IDLE)
    loaded = phase_window(phases, Phase.LOADED_IDLE)
    for index, uuid in enumerate(trace.gpu_uuids):

        def most(span: Window | None, gpu: int = index) -> int | None:
            if span is None:
                return None
            counts, _ = held(trace.events, gpu, Source.COMPUTE_PROCESSES, span)
            return int(counts.max()) if len(counts) else None

        in_bare, in_loaded, in_window = most(bare), most(loaded), most(window)
        if in_bare:
            yield Finding(
                "foreign_process",
                in_bare,
                0,
                "processes",
                f"{in_bare} other process(es) on {uuid} before the engine started",
                True,
            )
        elif in_loaded is not None and in_window is not None and in_window > in_loaded:
            yield Finding(
                "foreign_process",
                in_window,
                in_loaded,
                "processes",
                f"more compute processes on {uuid} in the window than in loaded idle",
                True,
            )


def _read_gaps(record: Record, window: Window) -> Iterator[Finding]:
    """The longest stretch of the window in which a GPU's energy was not read."""
    trace = record.power
    settings = record.info.config.get("power") or {}
    heartbeat_ms = float(settings.get("heartbeat_ms", 1000.0))
    for index, uuid in enumerate(trace.gpu_uuids):
        mine = trace.events[(trace.events["gpu"] == index) & (trace.events["nvml_return"] == 0)]
        for source, period_ms in (
            (Source.ENERGY_COUNTER, float(settings.get("energy_counter_period_ms") or 1000.0)),
            (Source.POWER_AVERAGE, heartbeat_ms),
            (Source.POWER_USAGE, heartbeat_ms),
        ):
            chosen = mine[mine["source"] == source]
            if not len(chosen):
                continue
            # `prev_t0_ns` is a read too: the last one that still gave the old value.
            reads = np.concatenate([chosen["t1_ns"], chosen["prev_t0_ns"][chosen["prev_t0_ns"] >= 0]])
            inside = reads[(reads > window.start_ns) & (reads < window.end_ns)]
            edges = np.concatenate([[window.start_ns], np.sort(inside), [window.end_ns]])
            gap_ms = int(np.diff(edges).max()) / 1e6
            limit = READ_GAP_PERIODS * max(period_ms, heartbeat_ms)
            if gap_ms > limit:
                yield Finding(
                    "power_gap",
                    gap_ms,
                    limit,
                    "ms",
                    f"{source.name.lower()} of {uuid} was not read for {gap_ms / 1e3:.1f} s of the window",
                    True,
                )
            break


def _sources(record: Record, window: Window) -> Iterator[Finding]:
    """The counter against power that was integrated: the ring, without one the 1 s average."""
    if window.duration_s < SOURCES_MIN_WINDOW_S:
        return
    for uuid in record.power.gpu_uuids:
        known = record.power.energy_by_source(window.start_ns, window.end_ns, uuid)
        counter = known["energy_counter"].value_j if "energy_counter" in known else None
        name = "power_samples"
        if name not in known and window.duration_s >= AVERAGE_MIN_WINDOW_S:
            name = "power_average"
        integral = known[name].value_j if name in known else None
        if not counter or integral is None:
            continue
        share = abs(integral - counter) / counter
        if share > SOURCE_DISAGREEMENT:
            yield Finding(
                "sources_disagree",
                share,
                SOURCE_DISAGREEMENT,
                "1",
                f"{name} of {uuid} gives {integral / counter - 1:+.1%} of the counter's energy",
                share > SOURCE_DISAGREEMENT_FATAL,
            )


def _locked(record: Record, window: Window) -> Iterator[Finding]:
    """Steps that keep step with the sensor's samples."""
    for uuid in record.power.gpu_uuids:
        found = locking_of(record, window, uuid)
        if found is not None and found.error_share > LOCKED_ERROR_SHARE:
            yield Finding(
                "load_locks_to_sensor",
                found.error_share,
                LOCKED_ERROR_SHARE,
                "1",
                f"engine steps of {found.step_ns / 1e6:.1f} ms keep step with the power samples{_on(record, uuid)} "
                f"(coherence {found.coherence:.2f}): the energy may be off by up to {found.error_share:.0%}",
                False,
            )


def _requests(record: Record, window: Window) -> Iterator[Finding]:
    requests = Requests.of(record.requests)
    planned = starts_in(requests.planned_send_ns, window)
    sent = requests.sent_in(window)
    scenario = record.info.config["scenario"]
    lag = np.sort(
        (requests.actual_send_ns - requests.planned_send_ns)[sent & (requests.planned_send_ns != MISSING)]
    )
    open_loop = scenario["kind"] != "batch" and scenario.get("max_in_flight") is None
    if open_loop and len(lag) and planned.any():
        # Nearest rank, so that it exists for few requests too (then it is the largest lag).
        p99_ms = int(lag[-(-99 * len(lag) // 100) - 1]) / 1e6
        mean_gap_ms = window.duration_s * 1e3 / int(planned.sum())
        limit = max(SEND_LAG_MS, SEND_LAG_SHARE * mean_gap_ms)
        if p99_ms > limit:
            yield Finding(
                "generator_lagging",
                p99_ms,
                limit,
                "ms",
                "requests were sent later than planned: the load was not the one asked for",
                p99_ms > max(limit, mean_gap_ms),
            )
    offered, achieved = int(planned.sum()), int((sent & (requests.planned_send_ns != MISSING)).sum())
    if open_loop and offered and 1 - achieved / offered > NOT_ACHIEVED_SHARE:
        yield Finding(
            "load_not_achieved",
            1 - achieved / offered,
            NOT_ACHIEVED_SHARE,
            "1",
            f"{achieved} requests were sent in the window, {offered} were planned for it",
            True,
        )
    not_sent = int((planned & (int_column(record.requests, "actual_send_ns") == MISSING)).sum())
    unfinished = int((sent & ~requests.completed).sum()) + not_sent
    asked = int(sent.sum()) + not_sent
    if asked and unfinished / asked > UNFINISHED_SHARE:
        yield Finding(
            "requests_unfinished",
            unfinished / asked,
            UNFINISHED_SHARE,
            "1",
            f"{unfinished} of {asked} requests of the window failed, were cancelled or never sent",
            False,
        )


def _stalled(record: Record, window: Window) -> Iterator[Finding]:
    found = stalls(record, Requests.of(record.requests), window)
    if found is None or found.seconds <= STALLED_SHARE * window.duration_s:
        return
    share = found.seconds / window.duration_s
    yield Finding(
        "engine_stalled",
        share,
        STALLED_SHARE,
        "1",
        f"the engine stood still {found.count} times with requests in flight, for up to {found.longest_s:.2g} s:"
        " it compiled kernels (its log names them; a second run finds them compiled), or the host was busy",
        share > STALLED_SHARE_FATAL and found.seconds >= STALLED_FATAL_S,
    )


def _power_shared(record: Record) -> Iterator[Finding]:
    shared = [
        gpu
        for gpu in record.info.gpus
        # nvmlGpuVirtualizationMode_t: 2 vGPU, 3 host vGPU, 4 host vSGA; passthrough (1) has the board to itself
        if gpu.get("mig_mode") == 1 or gpu.get("virtualization_mode") in (2, 3, 4)
    ]
    if shared:
        how = "MIG is on" if shared[0].get("mig_mode") == 1 else "it is a virtual GPU"
        yield Finding(
            "power_shared",
            len(shared),
            0,
            "GPUs",
            f"the sensors of {shared[0].get('uuid')} are of the whole board, others may compute on it ({how})",
            True,
        )


def _sampler(record: Record) -> Iterator[Finding]:
    """What the sampler lost, over the whole run."""
    for uuid, books in record.info.sampler.items():
        for name, code, unit, what in (
            ("dropped_events", "dropped_events", "observations", "observations were lost to a full buffer"),
            (
                "ring_overflows",
                "ring_overflows",
                "times",
                "times the samples ring wrapped before it was read",
            ),
        ):
            lost = books.get(name) or 0
            if lost > 0:
                yield Finding(code, lost, 0, unit, f"{uuid}: {lost} {what}", False)
        calls = sum(source.get("calls") or 0 for source in (books.get("sources") or {}).values())
        missed = books.get("missed_deadlines") or 0
        if calls and missed / (calls + missed) > MISSED_SHARE:
            yield Finding(
                "missed_deadlines",
                missed / (calls + missed),
                MISSED_SHARE,
                "1",
                f"{uuid}: {missed} of {calls + missed} reads of the sensors fell out, the one before took too long",
                False,
            )


def _short_window(record: Record, window: Window) -> Iterator[Finding]:
    for uuid in record.power.gpu_uuids:
        reads = record.power.of(uuid, Source.ENERGY_COUNTER)
        reads = reads[reads["nvml_return"] == 0]
        if not len(reads):
            continue
        # `prev_t0_ns` is a read too: the last one that still gave the old value.
        times = np.unique(np.concatenate([reads["t0_ns"], reads["prev_t0_ns"]]))
        inside = int(((times >= window.start_ns) & (times <= window.end_ns)).sum())
        if inside < MIN_COUNTER_READS:
            yield Finding(
                "window_too_short",
                inside,
                MIN_COUNTER_READS,
                "reads",
                f"the energy counter{_on(record, uuid)} was read {inside} times in a window of {window.duration_s:.2g} s",
                False,
            )


def _throttles(record: Record, window: Window) -> Iterator[Finding]:
    """Which reason slowed the clocks, and for how long."""
    for index, uuid in enumerate(record.power.gpu_uuids):
        reasons, lengths = held(record.power.events, index, Source.CLOCK_EVENT_REASONS, window)
        total = int(lengths.sum())
        for bits, code, names, what, limit, invalidates in THROTTLES:
            slowed = int(lengths[(reasons & bits) != 0].sum())
            if total and slowed / total > limit:
                yield Finding(
                    code,
                    slowed / total,
                    limit,
                    "1",
                    f"{what} slowed the clocks{_on(record, uuid)} for {slowed / 1e9:.3g} s of the window ({names})",
                    invalidates,
                )


def _settings(record: Record, window: Window) -> Iterator[Finding]:
    """Power limit and clocks that did not stay what they were."""
    for index, uuid in enumerate(record.power.gpu_uuids):
        limits, _ = held(record.power.events, index, Source.POWER_LIMIT, window)
        if len(limits) and limits.max() > limits.min():
            low, high = int(limits.min()) / 1e3, int(limits.max()) / 1e3
            yield Finding(
                "power_limit_changed",
                high - low,
                0,
                "W",
                f"the power limit{_on(record, uuid)} changed in the window, between {low:g} and {high:g} W",
                True,
            )
        reasons, _ = held(record.power.events, index, Source.CLOCK_EVENT_REASONS, window)
        slowed = bool((reasons & SLOWING).any())  # then it is known why the SM clock moves
        for source, code, name in (
            (Source.CLOCK_SM, "sm_clock_varied", "SM"),
            (Source.CLOCK_MEMORY, "memory_clock_varied", "memory"),
        ):
            clocks, lengths = held(record.power.events, index, source, window)
            if not len(clocks) or clocks.max() <= 0 or (source == Source.CLOCK_SM and slowed):
                continue
            low_mhz, high_mhz = _by_time(clocks, lengths, 0.05), _by_time(clocks, lengths, 0.95)
            spread = (high_mhz - low_mhz) / int(clocks.max())
            if spread > CLOCK_SPREAD:
                yield Finding(
                    code,
                    spread,
                    CLOCK_SPREAD,
                    "1",
                    f"the {name} clock{_on(record, uuid)} moved between {low_mhz} and {high_mhz} MHz in the window",
                    False,
                )


def _asked_of_gpu(record: Record, window: Window) -> Iterator[Finding]:
    """SM clock and power limit that the point asked for, against what was there."""
    gpu = record.info.config.get("gpu") or {}
    clock_mhz, limit_w = gpu.get("sm_clock_mhz"), gpu.get("power_limit_w")
    for index, uuid in enumerate(record.power.gpu_uuids):
        if limit_w is not None:
            limits, lengths = held(record.power.events, index, Source.POWER_LIMIT, window)
            away_w = np.abs(limits / 1e3 - float(limit_w))
            if len(away_w) and away_w.max() > LIMIT_TOLERANCE_W:
                worst_w = int(limits[np.argmax(away_w)]) / 1e3
                seconds = int(lengths[away_w > LIMIT_TOLERANCE_W].sum()) / 1e9
                yield Finding(
                    "power_limit_not_held",
                    float(away_w.max()),
                    LIMIT_TOLERANCE_W,
                    "W",
                    f"{limit_w:g} W were asked for, but for {seconds:.3g} s of the window the power "
                    f"limit{_on(record, uuid)} was another, such as {worst_w:g} W",
                    True,
                )
        if clock_mhz is not None:
            clocks, lengths = _clock_under_load(record, index, window)
            off = np.abs(clocks - int(clock_mhz)) > CLOCK_TOLERANCE * int(clock_mhz)
            share = int(lengths[off].sum()) / int(lengths.sum()) if len(lengths) else 0.0
            if share > NOT_HELD_SHARE:
                low, high = int(clocks[off].min()), int(clocks[off].max())
                yield Finding(
                    "sm_clock_not_held",
                    share,
                    NOT_HELD_SHARE,
                    "1",
                    f"the SM clock{_on(record, uuid)} was {low} to {high} MHz for {share:.0%} of the window's time under "
                    f"load, {clock_mhz} MHz was asked for",
                    True,
                )


def _clock_under_load(record: Record, index: int, window: Window) -> tuple[Ints, Ints]:
    """(SM clock in MHz, nanoseconds) while the GPU does not say that it is idle: an idle one may clock down."""
    events = record.power.events[record.power.events["gpu"] == index]
    series = []
    for source in (Source.CLOCK_SM, Source.CLOCK_EVENT_REASONS):
        mine = np.sort(events[events["source"] == source], order="t1_ns")
        values = np.where(mine["nvml_return"] == 0, mine["value"], MISSING).astype(np.int64)
        series.append((mine["t1_ns"].astype(np.int64), values))
    inside = [times[(times > window.start_ns) & (times < window.end_ns)] for times, _ in series]
    edges = np.unique(np.concatenate([[window.start_ns, window.end_ns], *inside]))

    def at(times: Ints, values: Ints) -> Ints:
        # The first entry stands for the time before anything was read.
        return np.append(MISSING, values)[np.searchsorted(times, edges[:-1], side="right")]

    clocks, reasons = at(*series[0]), at(*series[1])
    loaded = (clocks != MISSING) & ((reasons == MISSING) | (reasons & GPU_IDLE == 0))
    return clocks[loaded], np.diff(edges)[loaded]


def _by_time(values: Ints, lengths: Ints, share: float) -> int:
    """The value that is not exceeded for this share of the time."""
    order = np.argsort(values, kind="stable")
    until = np.cumsum(lengths[order])
    return int(values[order][np.searchsorted(until, share * int(until[-1]))])


def _temperature(record: Record, window: Window) -> Iterator[Finding]:
    low, high = TEMPERATURE_C
    for index, uuid in enumerate(record.power.gpu_uuids):
        degrees, _ = held(record.power.events, index, Source.TEMPERATURE_GPU, window)
        if not len(degrees):
            continue
        for figure, limit, out in (
            (int(degrees.max()), high, int(degrees.max()) > high),
            (int(degrees.min()), low, int(degrees.min()) < low),
        ):
            if out:
                yield Finding(
                    "temperature_out_of_range",
                    figure,
                    limit,
                    "C",
                    f"the GPU{_on(record, uuid)} was at {figure} degrees C in the window; {low:g} to {high:g} are usual",
                    False,
                )


def _warmup(record: Record) -> Iterator[Finding]:
    """A warm-up that ended at its limit, as the run itself found."""
    warmup = record.info.warmup
    for name, percent in (warmup.get("unsettled") or {}).items():
        yield Finding(
            "not_settled",
            abs(float(percent)),
            DRIFT_PERCENT,
            "%",
            f"{_NAMES.get(name, name)} had not settled when the warm-up reached scenario.warmup_limit_s",
            False,
        )
    if not warmup or warmup["settled"]:
        return
    needed_s, seconds = warmup.get("needed_s"), float(warmup["seconds"])
    if needed_s is None or needed_s > seconds:
        yield Finding(
            "warmup_too_short",
            seconds,
            float(needed_s if needed_s is not None else warmup["limit_s"]),
            "s",
            "the window began before the server had filled up: raise scenario.warmup_limit_s above two of its "
            "requests' lives",
            False,
        )


_NAMES = {"power": "power", "throughput": "output tokens/s", "in_flight": "requests in flight"}


def _not_settled(record: Record, drifts: Drifts) -> Iterator[Finding]:
    arrivals = record.info.config["scenario"].get("arrivals") or {}
    if arrivals.get("kind") == "trace":
        # Recorded traffic rises and falls by itself.
        return
    batch = record.info.config["scenario"]["kind"] == "batch"
    for name, drift in (
        ("power", drifts.power_unexplained),
        ("throughput", drifts.throughput if batch else None),
    ):
        if drift is not None and drift.certain and abs(drift.percent) > DRIFT_PERCENT:
            beyond = "" if batch else ", more than the load explains"
            yield Finding(
                "not_settled",
                abs(drift.percent),
                DRIFT_PERCENT,
                "%",
                f"{_NAMES[name]} changed by {drift.percent:+.1f} % within the window{beyond} "
                f"(99 % interval {drift.low:+.1f} to {drift.high:+.1f} %)",
                False,
            )


def _overloaded(record: Record, window: Window) -> Iterator[Finding]:
    scenario = record.info.config["scenario"]
    if scenario["kind"] == "batch" or (scenario.get("arrivals") or {}).get("kind") == "trace":
        return
    found = backlog(Requests.of(record.requests), window)
    if found.growth_share > BACKLOG_SHARE and found.certain:
        yield Finding(
            "overloaded",
            found.growth_share,
            BACKLOG_SHARE,
            "1",
            f"requests came faster than they were served: {found.begin} in flight at the window's begin, "
            f"{found.end} at its end; latency depends on how long the window is",
            False,
        )
