"""What a record itself says against being believed: each finding with its figure and its limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wattcount.metrics.observations import MISSING, Requests, held, int_column, starts_in
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
SEND_LAG_MS = 10.0
SEND_LAG_SHARE = 0.05
"""The generator lags where its p99 send lag exceeds both 10 ms and 5 % of the mean gap between arrivals."""
UNFINISHED_SHARE = 0.01


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


def check(record: Record, window: Window | None) -> list[Finding]:
    """Findings about a record, most serious first; `window` None: the run never reached it."""
    found = list(_gpu_lost(record)) + list(_foreign_process(record, window))
    if window is not None:
        found += [*_read_gaps(record, window), *_sources(record, window), *_requests(record, window)]
    return sorted(found, key=lambda finding: not finding.invalidates)


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
            (Source.ENERGY_COUNTER, float(settings.get("energy_counter_period_ms", 1000.0))),
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
    for uuid in record.power.gpu_uuids:
        known = record.power.energy_by_source(window.start_ns, window.end_ns, uuid)
        counter = known["energy_counter"].value_j if "energy_counter" in known else None
        ring = known["power_samples"].value_j if "power_samples" in known else None
        if not counter or ring is None:
            continue
        share = abs(ring - counter) / counter
        if share > SOURCE_DISAGREEMENT:
            yield Finding(
                "sources_disagree",
                share,
                SOURCE_DISAGREEMENT,
                "1",
                f"the samples ring of {uuid} gives {ring / counter - 1:+.1%} of the counter's energy",
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
