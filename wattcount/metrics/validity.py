"""What a record itself says against being believed: all findings about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wattcount.metrics import (
    attribution_findings,
    board_findings,
    energy_findings,
    load_findings,
    sensor_findings,
)
from wattcount.metrics.drift import Drifts
from wattcount.metrics.findings import Finding
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record


def check(
    record: Record,
    window: Window | None,
    drifts: Drifts | None = None,
    steady: Window | None = None,
    *,
    attributed: bool = False,
) -> list[Finding]:
    """Findings about a record, most serious first; `window` None: the run never reached it.

    drifts      trends within the window, where they were computed
    steady      the steady part of a batch's window, where there is one
    attributed  whether the window's energy was divided between prefill and decode
    """
    spans = energy_findings.energy_spans(record, window, steady)
    found = [
        *sensor_findings.gpu_lost(record),
        *board_findings.foreign_process(record, window),
        *board_findings.power_shared(record),
        *energy_findings.implausible(record, spans),
        *energy_findings.counter_broke(record, spans),
        *energy_findings.sources(record, spans),
        *sensor_findings.read_gaps(record, spans),
        *sensor_findings.sampler_losses(record),
    ]
    if window is not None:
        found += [
            *energy_findings.unknown(record, window),
            *sensor_findings.short_window(record, window),
            *sensor_findings.locked(record, window),
            *load_findings.generator_and_requests(record, window),
            *load_findings.stalled(record, window),
            *board_findings.throttles(record, window),
            *board_findings.settings_changed(record, window),
            *board_findings.asked_of_gpu(record, window),
            *board_findings.temperature(record, window),
            *load_findings.lengths_changed(record),
            *load_findings.warmup(record),
            *load_findings.overloaded(record, window),
            *(attribution_findings.slowed(record, window) if attributed else ()),
        ]
    if drifts is not None:
        found += load_findings.not_settled(record, drifts)
    return sorted(found, key=lambda finding: not finding.invalidates)
