"""Forgers of run records: each makes, of a real record, one that says something else and looks as real as it can.

A forger changes the raw observations in memory; `written` puts the forged record on the disk with its `metrics.json` computed
afresh, so that its files agree with each other and only what a sensor can show is left to catch it. All of them are given
another record of the same kind of board, for those who borrow.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wattcount.dataset.signs import LADDER
from wattcount.emulation.machine import simulate, virtual_trace
from wattcount.energy.counter import CounterGrid
from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.trace import PowerTrace
from wattcount.files import write_atomically
from wattcount.metrics import compute, to_bytes
from wattcount.records import Record, schema
from wattcount.records.schema import Phase
from wattcount.records.writer import write_tables

Events = NDArray[np.void]
POWER = (Source.POWER_AVERAGE, Source.POWER_INSTANT, Source.POWER_USAGE, Source.POWER_SAMPLES)
BOX_SAMPLES = 50
"""Samples that averaged power is the mean of."""


@dataclass(frozen=True)
class Case:
    """What a forger has: a record, another one to borrow from, and chance."""

    record: Record
    other: Record
    rng: np.random.Generator


Forge = Callable[[Case], Record | None]


@dataclass(frozen=True)
class Ring:
    """The samples of one GPU, in the order of time."""

    t_ns: Ints
    value_mw: Ints


@dataclass(frozen=True)
class Forger:
    """Who forges: `forge(case)` gives a record, or None where that record is of no use to it."""

    id: str
    what: str
    forge: Forge


# -- records in memory


def with_events(record: Record, events: Events) -> Record:
    """The same record with other readings of its sensors."""
    made = Record(record.path, copy.deepcopy(record.info))
    power = record.power
    made.power = PowerTrace(power.gpu_uuids, events, clock_bound_ns=power.clock_bound_ns)
    made.power_table = made.power.to_arrow()
    made.requests, made.steps = record.requests, record.steps
    made.host, made.host_power_table = record.host, record.host_power_table
    return made


def with_tables(record: Record, requests: pa.Table, steps: pa.Table) -> Record:
    """The same record with other requests and steps."""
    made = with_events(record, record.power.events)
    made.requests, made.steps = requests, steps
    return made


def written(record: Record, folder: Path) -> Record:
    """Writes the record with `metrics.json` and the facts of its files; what is there now is read again."""
    folder.mkdir(parents=True, exist_ok=True)
    others = {
        schema.STEPS_PARQUET: record.steps,
        schema.HOST_POWER_PARQUET: record.host_power_table,
        schema.HOST_PARQUET: record.host,
    }
    facts = write_tables(folder, [record.power_table], record.requests, others)
    info = replace(record.info, files=facts)
    write_atomically(folder / schema.RUN_JSON, json.dumps(info.to_json(), indent=1).encode())
    made = Record.open(folder)
    write_atomically(folder / schema.METRICS_JSON, to_bytes(compute(made), made.digests))
    return Record.open(folder)


def _of(events: Events, gpu: int, *sources: Source) -> NDArray[np.bool_]:
    chosen: NDArray[np.bool_] = (
        (events["gpu"] == gpu) & np.isin(events["source"], sources) & (events["nvml_return"] == 0)
    )
    return chosen


def _start_ns(record: Record, phase: Phase = Phase.WINDOW) -> int:
    return next(span.start_ns for span in record.info.phases if span.phase == phase)


def _gpus(record: Record) -> range:
    return range(len(record.power.gpu_uuids))


# -- what a forger knows of sensors: a ring gives all other sources


def resensed(events: Events, gpu: int, ring_mw: Ints, grid: CounterGrid | None) -> None:
    """Makes the readings of one GPU follow the ring's new values, in the order of `_ring`, in place.

    The counter keeps its ticks and gains what the ring's joules between reads have become; averaged power is the mean of the
    last 50 samples, instant power the newest, GetPowerUsage what averaged power shows.
    """
    at, t_ns = _ring(events, gpu)
    before = PowerCurve.through(t_ns, events["value"][at] / 1e3)
    events["value"][at] = ring_mw
    new = PowerCurve.through(t_ns, ring_mw / 1e3)
    counter = np.flatnonzero(_of(events, gpu, Source.ENERGY_COUNTER))
    counter = counter[np.argsort(events["t0_ns"][counter], kind="stable")]
    seen_ns = (events["t0_ns"][counter] + events["t1_ns"][counter]) // 2
    # Where the ticks are, the counter's own grid tells; the ring shows a tick's power some 13 ms later.
    ticks = (
        seen_ns - 40_000_000
        if grid is None
        else grid.tick_ns(grid.number_before(seen_ns - 10_000_000)) + 13_000_000
    )
    was, now = before.at(ticks), new.at(ticks)
    moved = np.round((now - now[0] - (was - was[0])) * 1e3).astype(np.int64)
    # Reads of one tick show one value, and no read shows less than the one before.
    _, first, which = np.unique(events["value"][counter], return_index=True, return_inverse=True)
    events["value"][counter] = np.maximum.accumulate(events["value"][counter] + moved[first][which])
    total = np.concatenate(([0], np.cumsum(ring_mw)))
    average = np.flatnonzero(_of(events, gpu, Source.POWER_AVERAGE))
    average = average[np.argsort(events["t0_ns"][average], kind="stable")]
    usage = np.flatnonzero(_of(events, gpu, Source.POWER_USAGE))
    # GetPowerUsage showed one of the values of averaged power, and goes on to.
    shown = np.searchsorted(events["t0_ns"][average], events["t0_ns"][usage])
    nearby = np.clip(shown[:, None] + np.arange(-12, 13), 0, len(average) - 1)
    same = events["value"][average[nearby]] == events["value"][usage][:, None]
    taken = average[nearby[np.arange(len(usage)), np.argmax(same - np.abs(np.arange(-12, 13)) / 100, axis=1)]]
    newest = np.clip(np.searchsorted(t_ns, events["t0_ns"][average] - 20_000_000), 1, len(t_ns))
    oldest = np.maximum(newest - BOX_SAMPLES, 0)
    # A value that stayed stays.
    stayed = np.concatenate(([False], np.diff(events["value"][average]) == 0))
    means = (total[newest] - total[oldest]) // np.maximum(newest - oldest, 1)
    events["value"][average] = means[np.maximum.accumulate(np.where(stayed, 0, np.arange(len(average))))]
    events["value"][usage] = events["value"][taken]
    instant = np.flatnonzero(_of(events, gpu, Source.POWER_INSTANT))
    newest = np.clip(np.searchsorted(t_ns, events["t0_ns"][instant] - 20_000_000), 1, len(t_ns))
    events["value"][instant] = ring_mw[newest - 1]


def _ring(events: Events, gpu: int) -> tuple[Ints, Ints]:
    """(rows of the ring's samples in the order of time, each stamp once; their times)."""
    rows = np.flatnonzero(_of(events, gpu, Source.POWER_SAMPLES))
    stamps = events["source_ts_us"][rows]
    order = np.argsort(stamps, kind="stable")
    rows, stamps = rows[order], stamps[order]
    first = np.concatenate(([True], np.diff(stamps) > 0))
    rows, stamps = rows[first], stamps[first]
    pairs = events[_of(events, gpu, Source.REALTIME)]
    offset_ns = int(np.median(pairs["value"] - (pairs["t0_ns"] + pairs["t1_ns"]) // 2))
    return rows, stamps * 1000 - offset_ns


def _each_ring(record: Record, change: Callable[[Ring], Floats | None]) -> Record | None:
    """With each GPU's ring changed by `change` and all other sources following it."""
    events = record.power.events.copy()
    for gpu, uuid in enumerate(record.power.gpu_uuids):
        at, t_ns = _ring(events, gpu)
        changed = change(Ring(t_ns, events["value"][at]))
        if changed is None:
            return None
        resensed(
            events,
            gpu,
            np.maximum(np.round(changed), 1.0).astype(np.int64),
            record.power.model(uuid).counter.grid,
        )
    return with_events(record, events)


# -- the forgers


def scaled_counter(share: float) -> Forge:
    def forge(case: Case) -> Record | None:
        record = case.record
        events = record.power.events.copy()
        for gpu in _gpus(record):
            at = _of(events, gpu, Source.ENERGY_COUNTER)
            first = events["value"][at].min()
            events["value"][at] = first + np.round((events["value"][at] - first) * share).astype(np.int64)
        return with_events(record, events)

    return forge


def scaled_everything(share: float) -> Forge:
    def forge(case: Case) -> Record | None:
        record = case.record
        made = scaled_counter(share)(case)
        assert made is not None
        events = made.power.events
        for gpu in _gpus(record):
            at = _of(events, gpu, *POWER)
            events["value"][at] = np.round(events["value"][at] * share).astype(np.int64)
        return with_events(record, events)

    return forge


def scaled_in_window(share: float) -> Forge:
    """Only what is above idle, so that idle power stays as it was."""

    def forge(case: Case) -> Record | None:
        record = case.record

        def change(ring: Ring) -> Floats:
            idle = float(np.quantile(ring.value_mw, 0.05))
            return np.where(ring.value_mw > idle, idle + (ring.value_mw - idle) * share, ring.value_mw)

        return _each_ring(record, change)

    return forge


def onto_the_ladder(share: float) -> Forge:
    """The same by somebody who has read this project: each value is put on the converter's nearest step."""

    def forge(case: Case) -> Record | None:
        record = case.record
        turn, step_mw = int(LADDER[-1]), 7.688
        codes = np.add.outer(np.arange(0, 1200) * turn, [0, 42, 85, 127]).ravel() * step_mw
        codes = np.sort(codes)

        def change(ring: Ring) -> Floats:
            wanted = ring.value_mw * share
            near = np.clip(np.searchsorted(codes, wanted), 1, len(codes) - 1)
            lower = wanted - codes[near - 1] < codes[near] - wanted
            return np.asarray(codes[near - lower], np.float64)

        return _each_ring(record, change)

    return forge


def _moved(record: Record, to_ns: Callable[[Ints], Ints]) -> Record:
    """With the times of all readings moved; the wall clock's stamps go with them."""
    events = record.power.events.copy()
    for name in ("t0_ns", "t1_ns", "prev_t0_ns"):
        known = events[name] > 0
        events[name][known] = to_ns(events[name][known])
    for gpu in _gpus(record):
        pairs = events["source"] == Source.REALTIME
        old = record.power.events["t0_ns"][pairs]
        offset = record.power.events["value"][pairs] - old
        events["value"][pairs] = events["t0_ns"][pairs] + offset
        stamped = (events["source_ts_us"] > 0) & (events["gpu"] == gpu)
        base = int(np.median(offset)) if len(offset) else 0
        events["source_ts_us"][stamped] = (
            to_ns(events["source_ts_us"][stamped] * 1000 - base) + base
        ) // 1000
    return with_events(record, events)


def stretched(share: float) -> Forge:
    """The trace takes longer by a factor, its joules stay."""

    def forge(case: Case) -> Record | None:
        record = case.record
        base = _start_ns(record)
        return _moved(record, lambda t: base + np.round((t - base) * share).astype(np.int64))

    return forge


def stretched_and_resampled(share: float) -> Forge:
    """The same, on the grids that the sensors had."""

    def forge(case: Case) -> Record | None:
        record = case.record
        base = _start_ns(record)

        def change(ring: Ring) -> Floats:
            from_ns = (base + (ring.t_ns - base) / share).astype(np.int64)
            return np.interp(
                (from_ns - base).astype(float), (ring.t_ns - base).astype(float), ring.value_mw.astype(float)
            )

        return _each_ring(record, change)

    return forge


def shifted(by_s: float) -> Forge:
    """The trace is moved, so that the window holds what was drawn before or after it."""

    def forge(case: Case) -> Record | None:
        record = case.record
        return _moved(record, lambda t: t + round(by_s * S_NS))

    return forge


def spliced(seconds: float) -> Forge:
    """A stretch of the window is replaced by one of idle, all sources with it."""

    def forge(case: Case) -> Record | None:
        record, rng = case.record, case.rng
        window = next(span for span in record.info.phases if span.phase == Phase.WINDOW)
        idle = next((span for span in record.info.phases if span.phase == Phase.LOADED_IDLE), None)
        assert window.end_ns is not None
        if idle is None or idle.end_ns is None:
            return None
        length_s = min(seconds, 0.5 * (window.end_ns - window.start_ns) / S_NS)
        begin = int(rng.integers(window.start_ns, window.end_ns - round(length_s * S_NS)))

        def change(ring: Ring) -> Floats | None:
            made = ring.value_mw.astype(np.float64)
            source = ring.value_mw[(ring.t_ns >= idle.start_ns) & (ring.t_ns < (idle.end_ns or 0))]
            target = np.flatnonzero((ring.t_ns >= begin) & (ring.t_ns < begin + round(length_s * S_NS)))
            if len(source) < 20 or not len(target):
                return None
            made[target] = np.resize(source, len(target))
            return made

        return _each_ring(record, change)

    return forge


def another_run(case: Case) -> Record | None:
    """The whole trace of another run, with its temperature and clocks, put under this run's requests, window on window."""
    record, other = case.record, case.other
    if len(record.power.gpu_uuids) != len(other.power.gpu_uuids):
        return None
    by_ns = _start_ns(record) - _start_ns(other)
    moved = _moved(other, lambda t: t + by_ns)
    return with_events(record, moved.power.events)


def another_run_own_heat(case: Case) -> Record | None:
    """Another run's power and energy only."""
    made = another_run(case)
    if made is None:
        return None
    borrowed = (*POWER, Source.ENERGY_COUNTER, Source.REALTIME)
    new, own = made.power.events, case.record.power.events
    kept = np.concatenate((new[np.isin(new["source"], borrowed)], own[~np.isin(own["source"], borrowed)]))
    return with_events(case.record, kept)


def smoothed(case: Case) -> Record | None:
    """A running mean of five samples and noise of 1 W: nobody's trace, for a figure that was made up."""
    record, rng = case.record, case.rng

    def change(ring: Ring) -> Floats:
        smooth = np.convolve(
            np.pad(ring.value_mw.astype(float), 2, mode="edge"), np.ones(5) / 5, mode="valid"
        )
        return np.asarray(smooth + rng.normal(0.0, 1000.0, len(smooth)), np.float64)

    return _each_ring(record, change)


def replayed(share: float = 1.0, profile: str | None = None) -> Forge:
    """The power of the record, played through the emulated sensors of a profile and relabelled `measured`."""

    def forge(case: Case) -> Record | None:
        record, rng = case.record, case.rng
        parts = []
        for gpu, uuid in enumerate(record.power.gpu_uuids):
            ring = record.power.model(uuid).ring
            if ring is None:
                return None
            edges = np.arange(ring.t_ns[0], ring.t_ns[-1], 5_000_000)
            power_w = np.maximum(np.diff(ring.at(edges)) / 0.005, 1.0) * share
            seed = int(rng.integers(1 << 30))
            which = profile or ("h200" if "H200" in str(record.info.gpus[gpu]["name"]) else "h100")
            sensors = simulate(which, edges[:-1], power_w, seed=seed)
            seconds = float(edges[-1] - edges[0]) / S_NS - 3.0
            made = virtual_trace(
                which, sensors, int(edges[0]) + 2 * S_NS, seconds, gpu_uuid=uuid, seed=seed
            ).events
            made["gpu"] = gpu
            parts.append(made)
            keep = record.power.events[record.power.events["gpu"] == gpu]
            keep = keep[~np.isin(keep["source"], [*POWER, Source.ENERGY_COUNTER, Source.REALTIME])]
            parts.append(keep)
        return with_events(record, np.concatenate(parts).astype(EVENT_DTYPE))

    return forge


def more_tokens(share: float) -> Forge:
    """Arrivals of tokens hold more of them, and requests, steps and totals follow."""

    def forge(case: Case) -> Record | None:
        record, rng = case.record, case.rng
        requests, steps = record.requests, record.steps
        counts = requests["token_count"].combine_chunks()
        each = counts.flatten().to_numpy(zero_copy_only=False)
        extra = rng.random(len(each)) < share
        new = pa.ListArray.from_arrays(counts.offsets, pa.array((each + extra).astype(np.int32)))
        offsets = counts.offsets.to_numpy()
        until = np.concatenate(([0], np.cumsum((each + extra).astype(np.int64))))
        base = offsets[0]
        totals = until[offsets[1:] - base] - until[offsets[:-1] - base]
        table = requests.set_column(
            requests.schema.get_field_index("token_count"), requests.schema.field("token_count"), new
        )
        table = table.set_column(
            table.schema.get_field_index("output_tokens"),
            table.schema.field("output_tokens"),
            pa.array(totals.astype(np.int32)),
        )
        if len(steps):
            decode = steps["decode_tokens"].fill_null(0).to_numpy()
            steps = steps.set_column(
                steps.schema.get_field_index("decode_tokens"),
                steps.schema.field("decode_tokens"),
                pa.array(np.round(decode * (1.0 + share)).astype(np.int32)),
            )
        return with_tables(record, table, steps)

    return forge


def more_requests(jitter_us: float) -> Forge:
    """A third of the requests is there twice, a moment later, and steps count them: more tokens for the same joules."""

    def forge(case: Case) -> Record | None:
        return _more_requests(case.record, case.rng, jitter_us)

    return forge


def _more_requests(record: Record, rng: np.random.Generator, jitter_us: float) -> Record | None:
    requests, steps = record.requests, record.steps
    if not len(steps):
        return None
    chosen = np.flatnonzero(rng.random(len(requests)) < 1 / 3)
    if not len(chosen):
        return None
    copies = requests.take(pa.array(chosen))
    late = 137_000
    for name in ("planned_send_ns", "actual_send_ns", "first_token_ns", "last_token_ns", "engine_queued_ns",
                 "engine_scheduled_ns", "engine_first_token_ns", "engine_last_token_ns"):  # fmt: skip
        column = copies[name].combine_chunks()
        moved = pa.array(
            column.fill_null(0).to_numpy(zero_copy_only=False) + late,
            mask=column.is_null().to_numpy(zero_copy_only=False),
        )
        copies = copies.set_column(copies.schema.get_field_index(name), copies.schema.field(name), moved)
    stamps = copies["token_ts_ns"].combine_chunks()
    flat = stamps.flatten().to_numpy(zero_copy_only=False) + late
    flat = flat + (rng.random(len(flat)) * jitter_us).astype(np.int64) * 1000
    offsets = stamps.offsets.to_numpy() - stamps.offsets.to_numpy()[0]
    copies = copies.set_column(
        copies.schema.get_field_index("token_ts_ns"),
        copies.schema.field("token_ts_ns"),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
    )
    copies = copies.set_column(
        0, copies.schema.field(0), pa.array([f"{one}-b" for one in copies["request_id"].to_pylist()])
    )
    last = int(np.max(requests["index"].to_numpy())) + 1
    copies = copies.set_column(
        1, copies.schema.field(1), pa.array((last + np.arange(len(copies))).astype(np.int32))
    )
    table = pa.concat_tables([requests, copies]).sort_by("planned_send_ns")
    for name in ("prefill_tokens", "decode_tokens", "running"):
        column = steps[name].fill_null(0).to_numpy()
        steps = steps.set_column(
            steps.schema.get_field_index(name),
            steps.schema.field(name),
            pa.array(np.round(column * 4 / 3).astype(np.int32)),
        )
    return with_tables(record, table, steps)


FORGERS: Mapping[str, Forger] = {
    forger.id: forger
    for forger in (
        Forger("scaled_counter_10", "the counter's joules, 10 % less", scaled_counter(0.9)),
        Forger("scaled_counter_2", "the counter's joules, 2 % less", scaled_counter(0.98)),
        Forger("scaled_all_10", "all sources, 10 % less", scaled_everything(0.9)),
        Forger("scaled_all_2", "all sources, 2 % less", scaled_everything(0.98)),
        Forger("scaled_all_1", "all sources, 1 % less", scaled_everything(0.99)),
        Forger("scaled_load_10", "what is above idle, 10 % less, in all sources", scaled_in_window(0.9)),
        Forger(
            "scaled_onto_ladder_10",
            "all sources, 10 % less, put back onto the converter's steps",
            onto_the_ladder(0.9),
        ),
        Forger("stretched_5", "the trace takes 5 % longer", stretched(1.05)),
        Forger("stretched_resampled_5", "the same, on the sensors' own grids", stretched_and_resampled(1.05)),
        Forger("shifted_3s", "the trace is 3 s late", shifted(3.0)),
        Forger("shifted_300ms", "the trace is 0.3 s late", shifted(0.3)),
        Forger("spliced_4s", "4 s of the window are idle power, in all sources", spliced(4.0)),
        Forger("another_run", "another run's trace under this run's requests", another_run),
        Forger(
            "another_run_own_heat",
            "the same, with the temperature and clocks of this run",
            another_run_own_heat,
        ),
        Forger("smoothed", "running mean of five samples and noise of 1 W", smoothed),
        Forger("emulator", "the same power through the emulated sensors, called measured", replayed()),
        Forger(
            "lower_board",
            "10/21 of the power through the emulated sensors of an L40S",
            replayed(1 / 2.1, "l40s"),
        ),
        Forger(
            "more_tokens", "a fifth more tokens in the same arrivals, steps and totals too", more_tokens(0.2)
        ),
        Forger("more_requests", "a third of the requests twice, steps and totals too", more_requests(0.0)),
        Forger("more_requests_jittered", "the same, each arrival up to 30 us later", more_requests(30.0)),
    )
}
