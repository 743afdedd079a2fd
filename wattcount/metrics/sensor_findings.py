"""What speaks against the reading of the sensors: reads that are missing, a load that locks to the sensor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from wattcount.energy.events import Source, lost_line, says_lost
from wattcount.metrics.findings import Finding, on
from wattcount.metrics.locking import locking_of
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record

READ_GAP_PERIODS = 4.0
"""Length above which a stretch without reads is a gap [polling periods]. Chosen: three lost reads."""
READ_GAP_SHARE = 0.1
"""Part of a phase that a gap which began before it, or ends after it, may take [share]. Chosen: a gap over the end of a phase hides
when power changed there."""
LOCKED_ERROR_SHARE = 0.01
"""Of the energy, that a load which keeps step with the sensor may be off by."""
MISSED_SHARE = 0.01
"""Share of the sampler's reads that may fall out."""
MIN_COUNTER_READS = 5
"""Reads of the counter in a window, for its energy to rest on more than the two at its ends."""


def gpu_lost(record: Record) -> Iterator[Finding]:
    events = record.power.events
    for index, uuid in enumerate(record.power.gpu_uuids):
        lost = int((says_lost(events) & (events["gpu"] == index)).sum())
        if lost:
            yield Finding("gpu_lost", lost, 0, "reads", lost_line(uuid), True)


def read_gaps(record: Record, spans: Mapping[str, Window]) -> Iterator[Finding]:
    """The longest part of each stretch, by its name, in which a GPU's energy was not read."""
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
            reads = np.sort(
                np.concatenate([chosen["t1_ns"], chosen["prev_t0_ns"][chosen["prev_t0_ns"] >= 0]])
            )
            limit = READ_GAP_PERIODS * max(period_ms, heartbeat_ms)
            for name, span in spans.items():
                known = np.concatenate([[min(span.start_ns, reads[0])], reads, [max(span.end_ns, reads[-1])]])
                inside_ns = np.minimum(known[1:], span.end_ns) - np.maximum(known[:-1], span.start_ns)
                longest = int(np.argmax(inside_ns))
                gap_ms, inside_ms = (
                    float(known[longest + 1] - known[longest]) / 1e6,
                    float(inside_ns[longest]) / 1e6,
                )
                if gap_ms > limit and inside_ms > min(limit, READ_GAP_SHARE * span.duration_s * 1e3):
                    yield Finding(
                        "power_gap",
                        gap_ms,
                        limit,
                        "ms",
                        f"{source.name.lower()} of {uuid} was not read for {gap_ms / 1e3:.1f} s, "
                        f"{inside_ms / 1e3:.1f} s of them in {name}",
                        True,
                    )
            break


def short_window(record: Record, window: Window) -> Iterator[Finding]:
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
                f"the energy counter{on(record, uuid)} was read {inside} times in a window of {window.duration_s:.2g} s",
                False,
            )


def locked(record: Record, window: Window) -> Iterator[Finding]:
    """Steps that keep step with the sensor's samples."""
    for uuid in record.power.gpu_uuids:
        found = locking_of(record, window, uuid)
        if found is not None and found.error_share > LOCKED_ERROR_SHARE:
            yield Finding(
                "load_locks_to_sensor",
                found.error_share,
                LOCKED_ERROR_SHARE,
                "1",
                f"engine steps of {found.step_ns / 1e6:.1f} ms keep step with the power samples{on(record, uuid)} "
                f"(coherence {found.coherence:.2f}): the energy may be off by up to {found.error_share:.0%}",
                False,
            )


def sampler_losses(record: Record) -> Iterator[Finding]:
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
