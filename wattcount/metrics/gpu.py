"""How the GPUs were: temperature, SM clock and what slowed it; and what speaks against the board.

What slowed a clock is told by the bits of NVML's clock event reasons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wattcount.energy.events import Source
from wattcount.metrics.observations import MISSING, Ints, Window, held, phase_window
from wattcount.metrics.sheet import Checks, Finding, Sheet, finding_specs, metric_specs
from wattcount.metrics.window import Observed, on
from wattcount.records import Record
from wattcount.records.schema import Phase

GPU_IDLE = 0x1
"""Bit of nvml.h (nvmlClocksEventReasonGpuIdle): nothing runs, so the clocks may fall."""
SW_POWER_CAP = 0x4
"""Bit of nvml.h (nvmlClocksEventReasonSwPowerCap): the driver lowers the clocks to keep the power limit."""
HW_SLOWDOWN = 0x8
"""Bit of nvml.h (nvmlClocksThrottleReasonHwSlowdown): the board lowers the clocks by itself, to half or less."""
SYNC_BOOST = 0x10
"""Bit of nvml.h (nvmlClocksEventReasonSyncBoost): the GPU keeps to the clocks of the slowest GPU of its group."""
THERMAL_SLOWDOWN = 0x20 | 0x40
"""Software's and hardware's."""
POWER_BRAKE = 0x80
"""Bit of nvml.h (nvmlClocksThrottleReasonHwPowerBrakeSlowdown): the power supply asked the board to slow down."""
SLOWING = SW_POWER_CAP | HW_SLOWDOWN | SYNC_BOOST | THERMAL_SLOWDOWN | POWER_BRAKE
"""Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that slow a clock. `applications_clocks` (0x2) is a setting, `gpu_idle`
a state: neither does."""
WHAT_SLOWS = {
    SW_POWER_CAP: "the power limit",
    THERMAL_SLOWDOWN: "temperature",
    HW_SLOWDOWN: "the board's own protection",
    POWER_BRAKE: "an external power brake",
    SYNC_BOOST: "its sync boost group",
}
"""Words for each reason."""

THROTTLED_SHARE = 0.01
"""Share of a window that may be slowed by what is not how a board works."""
CAPPED_SHARE = 0.05
"""Share of a window that may be slowed by a limit, which is how a board works; above a single read of the status in 20."""
LIMIT_TOLERANCE_W = 1.0
"""Difference of a power limit from the one asked for [W] that counts as none."""
CLOCK_TOLERANCE = 0.01
"""Difference of a locked SM clock from the one asked for [share] that counts as none: less than one step of 15 MHz."""
NOT_HELD_SHARE = 0.05
"""Share of a window's time under load in which a locked clock may be another; above a single read in 20."""
CLOCK_SPREAD = 0.1
"""Range of a clock in the window, percentiles 5 to 95 by time [share of its highest], that is no finding."""
CLOCK_TOLERANCE_SHARE = 0.02
"""Difference of mean SM clocks under load [share] up to which two runs count as run at one clock. A server whose limit slowed it by
0.8 % predicts others to 4 %, one slowed by 9.5 % to 35 % (H200, Llama-3-8B's shape)."""
TEMPERATURE_C = (10.0, 85.0)
"""Usual temperatures [degrees C]: outside a sensor is broken, or a board is close to its slowdown (87 to 95 on data-centre boards)."""

METRICS = metric_specs(
    """
    gpu/temperature_min_c      | C       |        | lowest GPU temperature in the window, of all GPUs
    gpu/temperature_max_c      | C       |        | highest GPU temperature in the window, of all GPUs
    gpu/clock_sm_mean_mhz      | MHz     |        | SM clock weighted by the time it held, mean of all GPUs
    gpu/clock_event_reasons    | bitmask |        | NVML's clock event reasons seen in the window, or-ed
    gpu/power_capped_share     | 1       |        | share of the window with the software power cap slowing the clocks (bit 0x4)
    gpu/thermal_slowdown_share | 1       | lower  | share of the window slowed by temperature (bits 0x20, 0x40)
    """
)
"""The metrics of this module, by key: name, unit, which way is better, definition."""
NULL_REASONS: dict[str, str] = {}
"""No reason for null of its own. Every part of `metrics_json` has this table."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """`gpu/...` of the window: of all GPUs together, weighted with how long each value held."""
    record, window = seen.record, seen.window
    if window is None:
        return

    def gather(source: Source) -> tuple[Ints, Ints]:
        pairs = [held(record.power, index, source, window) for index in range(len(record.power.gpu_uuids))]
        if not pairs:
            empty = np.empty(0, dtype=np.int64)
            return empty, empty
        return np.concatenate([v for v, _ in pairs]), np.concatenate([d for _, d in pairs])

    temperature, _ = gather(Source.TEMPERATURE_GPU)
    sheet.put("gpu/temperature_min_c", int(temperature.min()) if len(temperature) else None)
    sheet.put("gpu/temperature_max_c", int(temperature.max()) if len(temperature) else None)
    clock, span = gather(Source.CLOCK_SM)
    sheet.put("gpu/clock_sm_mean_mhz", int((clock * span).sum()) / int(span.sum()) if len(clock) else None)
    reasons, span = gather(Source.CLOCK_EVENT_REASONS)
    if not len(reasons):
        for key in ("gpu/clock_event_reasons", "gpu/power_capped_share", "gpu/thermal_slowdown_share"):
            sheet.put(key, None)
        return
    total = int(span.sum())
    sheet.put("gpu/clock_event_reasons", int(np.bitwise_or.reduce(reasons)))
    sheet.put("gpu/power_capped_share", int(span[(reasons & SW_POWER_CAP) != 0].sum()) / total)
    sheet.put("gpu/thermal_slowdown_share", int(span[(reasons & THERMAL_SLOWDOWN) != 0].sum()) / total)


@dataclass(frozen=True)
class LoadClocks:
    """SM clocks of a stretch under load, of the GPU that was slowed most.

    mean_mhz, highest_mhz  mean under load in the stretch, and the highest in the whole record; None: not recorded
    slowed_share           share of the stretch with a reason that slows clocks, 0..1; None: not recorded
    slowed_by              what these reasons were, in words
    """

    mean_mhz: float | None
    highest_mhz: int | None
    slowed_share: float | None
    slowed_by: tuple[str, ...]

    @property
    def slowdown(self) -> float | None:
        """Share by which the mean lies below the highest; None: not known."""
        if self.mean_mhz is None or not self.highest_mhz:
            return None
        return 1 - self.mean_mhz / self.highest_mhz


def load_clocks(record: Record, window: Window) -> LoadClocks:
    return record.once(("load_clocks", window), lambda: _load_clocks(record, window))


def _load_clocks(record: Record, window: Window) -> LoadClocks:
    found = []
    for gpu, uuid in enumerate(record.power.gpu_uuids):
        clocks, lengths = clock_under_load(record, gpu, window)
        mean_mhz = float((clocks * lengths).sum()) / int(lengths.sum()) if len(clocks) else None
        mine = record.power.of(uuid, Source.CLOCK_SM)
        mine = mine[mine["nvml_return"] == 0]
        reasons, spans = held(record.power, gpu, Source.CLOCK_EVENT_REASONS, window)
        slowed = spans[(reasons & SLOWING) != 0]
        every = int(np.bitwise_or.reduce(reasons)) if len(reasons) else 0
        found.append(
            LoadClocks(
                mean_mhz,
                int(mine["value"].max()) if len(mine) else None,
                int(slowed.sum()) / int(spans.sum()) if len(spans) else None,
                tuple(what for bits, what in WHAT_SLOWS.items() if every & bits),
            )
        )
    nothing = LoadClocks(None, None, None, ())
    return max(found, key=lambda one: (one.slowdown or 0.0, one.slowed_share or 0.0), default=nothing)


def clock_under_load(record: Record, index: int, window: Window) -> tuple[Ints, Ints]:
    """(SM clock in MHz, nanoseconds) while the GPU does not say that it is idle: an idle one may clock down."""
    series = []
    for source in (Source.CLOCK_SM, Source.CLOCK_EVENT_REASONS):
        mine = record.power.of(record.power.gpu_uuids[index], source)
        mine = mine[np.argsort(mine["t1_ns"], kind="stable")]
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


# -- findings

FOREIGN, SHARED, LIMIT_CHANGED, SM_VARIED, MEMORY_VARIED, LIMIT_NOT_HELD, CLOCK_NOT_HELD, TEMPERATURE = (
    finding_specs(
        """
    foreign_process | processes | yes | compute processes on the GPU in bare idle, or in the window | 0, or those in loaded
        idle; a server's own, where they are known | its energy is in the joules | end the other process, or choose another
        GPU (`gpu.devices`); `nvidia-smi` shows who it is
    power_shared | GPUs | yes | GPUs with MIG on, or virtual ones (vGPU), by `run.json` | 0 | the sensors see the whole
        board | turn MIG off, or measure a GPU that is passed through whole
    power_limit_changed | W | yes | range of the enforced power limit in the window, W | 0 | two settings in one window |
        find out who changed it (another program, a power manager), and measure again
    sm_clock_varied | 1 | no | range of the SM clock (percentiles 5 to 95 by time) / its maximum, with none of the reasons
        above | 10 % | GPUs lower their clocks when there is nothing to do | nothing, where the load has gaps; for one clock
        set `gpu.sm_clock_mhz`
    memory_clock_varied | 1 | no | the same of the memory clock | 10 % |  | nothing, where the load has gaps; else see
        `nvidia-smi -q -d CLOCK`
    power_limit_not_held | W | yes | farthest that the enforced power limit was from `gpu.power_limit_w` in the window, W |
        1 W | not the point asked for | find out who changes it (another program, a power manager); setting it takes root
    sm_clock_not_held | 1 | yes | share of the window's time under load with an SM clock more than 1 % from
        `gpu.sm_clock_mhz`: a power cap or heat lowers a locked clock, too | 5 % | not the point asked for | lower
        `gpu.sm_clock_mhz`, or raise the power limit, so that the clock can be held
    temperature_out_of_range | C | no | highest (lowest) GPU temperature in the window, degrees C | 85 (10) | a hot board
        leaks more and its figures are true; a slowdown has a code of its own | cool the board better; below 10 degrees C
        its sensor is broken
    """
    )
)
THROTTLES = dict(
    zip(
        (SW_POWER_CAP, THERMAL_SLOWDOWN, HW_SLOWDOWN, POWER_BRAKE, SYNC_BOOST),
        finding_specs(
            """
    power_capped | 1 | no | share of the window with the clocks slowed by the power limit (NVML's SwPowerCap) | 5 % | how a
        board works at its limit, and the limit is in `run.json` | nothing, where the board is to run at its limit; else
        raise `gpu.power_limit_w`
    thermal_slowdown | 1 | yes | the same by temperature (SwThermalSlowdown, HwThermalSlowdown) | 1 % | the cooling was
        measured, not the GPU | cool the board better, or measure on another one
    hw_slowdown | 1 | yes | the same by the board's protection (HwSlowdown) | 1 % |  | look at the board's power supply and
        cooling: `nvidia-smi -q -d PERFORMANCE`
    power_brake | 1 | yes | the same by an external power brake (HwPowerBrakeSlowdown) | 1 % | the rack's doing | ask who
        runs the rack: its power supply told the board to slow down
    sync_boost | 1 | no | the same by the sync boost group (SyncBoost) | 5 % | a setting | take the GPU out of its sync
        boost group, where its clock should be its own
    """
        ),
        strict=True,
    )
)
"""Reasons that are findings of their own, where they slowed the clocks for longer than their limit."""
NVML_NAMES = {
    SW_POWER_CAP: "SwPowerCap",
    THERMAL_SLOWDOWN: "SwThermalSlowdown, HwThermalSlowdown",
    HW_SLOWDOWN: "HwSlowdown",
    POWER_BRAKE: "HwPowerBrakeSlowdown",
    SYNC_BOOST: "SyncBoost",
}
"""Names of the bits in nvml.h, without `nvmlClocksEventReason`: a reader of `nvidia-smi -q` knows them."""


@CHECKS.finds(FOREIGN)
def foreign_process(seen: Observed) -> Iterator[Finding]:
    """Compute processes in bare idle; more of them than a server has of its own; or more in the window than in loaded idle."""
    phases, trace = seen.record.info.phases, seen.record.power
    bare = phase_window(phases, Phase.BARE_IDLE)
    loaded = phase_window(phases, Phase.LOADED_IDLE)
    computing = (seen.record.info.engine_details.get("server") or {}).get("computing") or {}
    for index, uuid in enumerate(trace.gpu_uuids):

        def most(span: Window | None, gpu: int = index) -> int | None:
            if span is None:
                return None
            counts, _ = held(trace, gpu, Source.COMPUTE_PROCESSES, span)
            return int(counts.max()) if len(counts) else None

        in_bare, in_loaded, in_window = most(bare), most(loaded), most(seen.window)
        most_loaded = max((n for n in (in_loaded, in_window) if n is not None), default=0)
        if in_bare:
            yield FOREIGN.found(
                in_bare, 0, f"{in_bare} other process(es) on {uuid} before the engine started"
            )
        elif uuid in computing and most_loaded > len(computing[uuid]):
            own = len(computing[uuid])
            yield FOREIGN.found(
                most_loaded,
                own,
                f"{most_loaded - own} process(es) beside the server's {own} compute on {uuid}",
            )
        elif in_loaded is not None and in_window is not None and in_window > in_loaded:
            message = f"more compute processes on {uuid} in the window than in loaded idle"
            yield FOREIGN.found(in_window, in_loaded, message)


@CHECKS.finds(SHARED)
def power_shared(seen: Observed) -> Iterator[Finding]:
    """GPUs on which others may compute, by what NVML said of them."""
    shared = [
        gpu
        for gpu in seen.record.info.gpus
        # nvmlGpuVirtualizationMode_t: 2 vGPU, 3 host vGPU, 4 host vSGA; passthrough (1) has the board to itself
        if gpu.get("mig_mode") == 1 or gpu.get("virtualization_mode") in (2, 3, 4)
    ]
    if shared:
        how = "MIG is on" if shared[0].get("mig_mode") == 1 else "it is a virtual GPU"
        yield SHARED.found(
            len(shared),
            0,
            f"the sensors of {shared[0].get('uuid')} are of the whole board, others may compute on it ({how})",
        )


@CHECKS.finds_in_window(*THROTTLES.values())
def throttles(seen: Observed, window: Window) -> Iterator[Finding]:
    """Which reason slowed the clocks, and for how long."""
    for index, uuid in enumerate(seen.record.power.gpu_uuids):
        reasons, lengths = held(seen.record.power, index, Source.CLOCK_EVENT_REASONS, window)
        total = int(lengths.sum())
        for bits, spec in THROTTLES.items():
            limit = CAPPED_SHARE if bits in (SW_POWER_CAP, SYNC_BOOST) else THROTTLED_SHARE
            slowed = int(lengths[(reasons & bits) != 0].sum())
            if total and slowed / total > limit:
                yield spec.found(
                    slowed / total,
                    limit,
                    f"{WHAT_SLOWS[bits]} slowed the clocks{on(seen, uuid)} for {slowed / 1e9:.3g} s of the window "
                    f"({NVML_NAMES[bits]})",
                )


@CHECKS.finds_in_window(LIMIT_CHANGED, SM_VARIED, MEMORY_VARIED)
def settings_changed(seen: Observed, window: Window) -> Iterator[Finding]:
    """Power limit and clocks that did not stay what they were."""
    power = seen.record.power
    for index, uuid in enumerate(power.gpu_uuids):
        limits, _ = held(power, index, Source.POWER_LIMIT, window)
        if len(limits) and limits.max() > limits.min():
            low, high = int(limits.min()) / 1e3, int(limits.max()) / 1e3
            yield LIMIT_CHANGED.found(
                high - low,
                0,
                f"the power limit{on(seen, uuid)} changed in the window, between {low:g} and {high:g} W",
            )
        reasons, _ = held(power, index, Source.CLOCK_EVENT_REASONS, window)
        slowed = bool((reasons & SLOWING).any())  # then it is known why the SM clock moves
        for source, spec, name in (
            (Source.CLOCK_SM, SM_VARIED, "SM"),
            (Source.CLOCK_MEMORY, MEMORY_VARIED, "memory"),
        ):
            clocks, lengths = held(power, index, source, window)
            if not len(clocks) or clocks.max() <= 0 or (source == Source.CLOCK_SM and slowed):
                continue
            low_mhz, high_mhz = _by_time(clocks, lengths, 0.05), _by_time(clocks, lengths, 0.95)
            spread = (high_mhz - low_mhz) / int(clocks.max())
            if spread > CLOCK_SPREAD:
                yield spec.found(
                    spread,
                    CLOCK_SPREAD,
                    f"the {name} clock{on(seen, uuid)} moved between {low_mhz} and {high_mhz} MHz in the window",
                )


@CHECKS.finds_in_window(LIMIT_NOT_HELD, CLOCK_NOT_HELD)
def asked_of_gpu(seen: Observed, window: Window) -> Iterator[Finding]:
    """SM clock and power limit that the point asked for, against what was there."""
    record = seen.record
    clock_mhz, limit_w = record.info.resolved.gpu.sm_clock_mhz, record.info.resolved.gpu.power_limit_w
    for index, uuid in enumerate(record.power.gpu_uuids):
        if limit_w is not None:
            limits, lengths = held(record.power, index, Source.POWER_LIMIT, window)
            away_w = np.abs(limits / 1e3 - limit_w)
            if len(away_w) and away_w.max() > LIMIT_TOLERANCE_W:
                worst_w = int(limits[np.argmax(away_w)]) / 1e3
                seconds = int(lengths[away_w > LIMIT_TOLERANCE_W].sum()) / 1e9
                yield LIMIT_NOT_HELD.found(
                    float(away_w.max()),
                    LIMIT_TOLERANCE_W,
                    f"{limit_w:g} W were asked for, but for {seconds:.3g} s of the window the power "
                    f"limit{on(seen, uuid)} was another, such as {worst_w:g} W",
                )
        if clock_mhz is not None:
            clocks, lengths = clock_under_load(record, index, window)
            off = np.abs(clocks - clock_mhz) > CLOCK_TOLERANCE * clock_mhz
            share = int(lengths[off].sum()) / int(lengths.sum()) if len(lengths) else 0.0
            if share > NOT_HELD_SHARE:
                low, high = int(clocks[off].min()), int(clocks[off].max())
                yield CLOCK_NOT_HELD.found(
                    share,
                    NOT_HELD_SHARE,
                    f"the SM clock{on(seen, uuid)} was {low} to {high} MHz for {share:.0%} of the window's time under "
                    f"load, {clock_mhz} MHz was asked for",
                )


@CHECKS.finds_in_window(TEMPERATURE)
def temperature(seen: Observed, window: Window) -> Iterator[Finding]:
    low, high = TEMPERATURE_C
    for index, uuid in enumerate(seen.record.power.gpu_uuids):
        degrees, _ = held(seen.record.power, index, Source.TEMPERATURE_GPU, window)
        if not len(degrees):
            continue
        for figure, limit, out in (
            (int(degrees.max()), high, int(degrees.max()) > high),
            (int(degrees.min()), low, int(degrees.min()) < low),
        ):
            if out:
                yield TEMPERATURE.found(
                    figure,
                    limit,
                    f"the GPU{on(seen, uuid)} was at {figure} degrees C in the window; {low:g} to {high:g} are usual",
                )


def _by_time(values: Ints, lengths: Ints, share: float) -> int:
    """The value that is not exceeded for this share of the time."""
    order = np.argsort(values, kind="stable")
    until = np.cumsum(lengths[order])
    return int(values[order][np.searchsorted(until, share * int(until[-1]))])
