"""Which stretches of a run its numbers speak of: the window, its steady part, and the idle phases.

The steady window of a batch lies where the engine is as full as it can be::

    running   ___/------------------------\\____      B = what the engine runs at once at most
    waiting   \\_________________________            N = requests of the batch
              |  |                      |     |
           first B running     nothing waits  last token
           send  |<---- steady ------->|

A batch of more requests than the engine runs at once fills it up, keeps it full for as long as something
waits to take the place of what ends, and then runs empty. Filling up and running empty cost energy that
depends on N; between them the engine does what it would do for ever. At both ends of the steady window B
requests are running, so as many are begun in it as completed.

The ML.ENERGY Benchmark (arXiv 2505.06371) cuts by first tokens alone, from the B-th to the (N - B)-th, with
the same intention; its window ends one engine filling earlier, when B requests are still waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from wattcount.config.schema import ArrivalKind, ScenarioConfig, ScenarioKind, ServerConfig
from wattcount.energy.events import Source
from wattcount.metrics.observations import (
    MISSING,
    Bools,
    Requests,
    Window,
    ends_in,
    gpu_uuids,
    held,
    int_column,
    phase_window,
    requests_of,
    stretches,
)
from wattcount.metrics.sheet import NO_PHASE, NO_WINDOW, NOT_A_BATCH
from wattcount.records.schema import Phase

if TYPE_CHECKING:
    from wattcount.records import Record

Made = TypeVar("Made")

MIN_STEADY_S = 1.0
"""Shortest steady window [s]: one update of the slowest sensor, the 1 s average, must fit in."""
RAISED_CLOCK = 1.2
"""SM clock / that of bare idle before the engine, above which the clock is not down yet."""
MIN_BARE_AFTER_S = 1.0
"""Shortest bare idle after the engine [s] whose mean power is given: one update of the slowest sensor."""

NEVER_SATURATED = "never_saturated"
"""Reason for null: the engine had room for more requests all the time."""
TOO_SHORT = "steady_too_short"
"""Reason for null: the steady window is shorter than MIN_STEADY_S."""
BROKE_OFF = "window_broke_off"
"""Reason for null: the steady window has no end."""
CAPACITY_UNKNOWN = "capacity_unknown"
"""Reason for null: how many requests fill the engine is not known."""
CLOCKS_UP = "clocks_still_up"
"""Reason for null: the clocks did not fall early enough for a bare idle power after the engine."""

NULL_REASONS = {
    NEVER_SATURATED: "the engine was never full while requests waited: the batch is too small for it, or its requests last a single step",
    TOO_SHORT: f"the engine was full for less than {MIN_STEADY_S:g} s",
    BROKE_OFF: "the run broke off before the engine ran empty",
    CAPACITY_UNKNOWN: "neither the engine's steps nor its `max_num_seqs` tell when it is full",
    CLOCKS_UP: f"the driver kept the clocks up until less than {MIN_BARE_AFTER_S:g} s before the end of `bare_idle_after`",
}
"""What each of this module's reasons for null means, in words."""

IDLE_PHASES = {
    "bare": Phase.BARE_IDLE,
    "loaded": Phase.LOADED_IDLE,
    "loaded_after": Phase.IDLE_AFTER,
    "bare_after": Phase.BARE_IDLE_AFTER,
}
"""Idle phases, by the name in `power/idle_NAME_w`."""
IDLE_NAMES = {
    "bare": "bare idle",
    "loaded": "loaded idle",
    "loaded_after": "loaded idle after the load",
    "bare_after": "bare idle after the engine",
}
"""Words for the idle phases, by their names in `IDLE_PHASES`."""
WINDOW = "the window"
"""Words for the window, in messages."""
STEADY = "the steady window"
"""Words for its steady part, in messages."""


class Observed:
    """A record as its metrics see it. Everything is read or found once, when it is first asked for."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._made: dict[Callable[[Observed], Any], Any] = {}

    def once(self, make: Callable[[Observed], Made]) -> Made:
        """What `make` finds in this record."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast(Made, self._made[make])

    @cached_property
    def last_ns(self) -> int | None:
        return last_energy_ns(self.record)

    @cached_property
    def window(self) -> Window | None:
        """The window; None where the run never reached it."""
        return phase_window(self.record.info.phases, Phase.WINDOW, self.last_ns)

    @cached_property
    def requests(self) -> Requests:
        return requests_of(self.record)

    @cached_property
    def steady(self) -> Steady:
        if self.window is None:
            return Steady(None, NO_WINDOW)
        return steady_window(self.record, self.requests, self.window)

    @cached_property
    def idle(self) -> dict[str, tuple[Window | None, str | None]]:
        """`idle_spans` of the record."""
        return idle_spans(self.record, self.last_ns)

    @property
    def spans(self) -> dict[str, Window]:
        """Every stretch whose energy is reported, by its name for people."""
        spans = {WINDOW: self.window, STEADY: self.steady.window}
        spans |= {IDLE_NAMES[name]: span for name, (span, _) in self.idle.items()}
        return {name: span for name, span in spans.items() if span is not None}

    @property
    def scenario(self) -> ScenarioConfig:
        scenario: ScenarioConfig = self.record.info.resolved.scenario
        return scenario

    @property
    def is_batch(self) -> bool:
        return self.scenario.kind is ScenarioKind.batch

    @property
    def is_closed(self) -> bool:
        """Whether it was a closed loop: nothing is offered, and requests come as fast as they are answered."""
        return self.scenario.kind is ScenarioKind.concurrency

    @property
    def replays_a_trace(self) -> bool:
        """Whether its arrivals are those of recorded traffic, which rises and falls by itself."""
        return isinstance(self.scenario, ServerConfig) and self.scenario.arrivals.kind is ArrivalKind.trace


def on(seen: Observed, uuid: str) -> str:
    """Words for a message: which GPU it is about, where there are several."""
    return f" of {uuid}" if len(seen.record.power.gpu_uuids) > 1 else ""


def last_energy_ns(record: Record) -> int | None:
    """Time up to which every GPU's energy is known [ns]: a window that broke off is cut there; None: it is known nowhere."""
    ends = []
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return None
        for source, lag_ns in _KNOWN_UP_TO:
            events = record.power.of(uuid, source)
            events = events[events["nvml_return"] == 0]
            if len(events):
                ends.append(int(events["t0_ns"].max()) - lag_ns)
                break
        else:
            return None
    return min(ends, default=None)


_KNOWN_UP_TO = (
    # A read of the counter returns the energy at its last tick, up to 100 ms before.
    (Source.ENERGY_COUNTER, 100_000_000),
    (Source.POWER_INSTANT, 0),
    (Source.POWER_USAGE, 0),
    (Source.POWER_AVERAGE, 0),
)
"""How far behind its read a source's energy may end [ns], the best source first: what comes after that end is not known."""


@dataclass(frozen=True)
class Steady:
    """The steady window of a run, or why it has none."""

    window: Window | None
    reason: str | None = None


def steady_window(record: Record, requests: Requests, window: Window) -> Steady:
    """The part of a batch's `window` in which the engine is saturated. A pure function of the record.

    By the engine's steps where they tell `running` and `waiting`: from the first step that left requests
    waiting although `running` had reached max_num_seqs, or although nothing was prefilled (the KV cache was
    full), to the first step after which nothing waits any more.
    By the requests' stamps where there are no such steps, with B = max_num_seqs: from the B-th first token
    to the N-th, which is when the last one has got its place.
    """
    if record.info.resolved.scenario.kind is not ScenarioKind.batch:
        return Steady(None, NOT_A_BATCH)
    capacity = max_num_seqs(record)
    found = _by_steps(record, window, capacity) or _by_stamps(requests, window, capacity)
    steady = found.window
    if steady is not None and steady.duration_s < MIN_STEADY_S:
        return Steady(None, TOO_SHORT)
    return found


def max_num_seqs(record: Record) -> int | None:
    """Requests that the engine runs at once at most: what it said of itself, else what it was told."""
    details: dict[str, Any] = record.info.engine.get("details") or {}
    value = details.get("max_num_seqs") or record.info.resolved.engine.max_num_seqs
    return int(value) if value else None


def _by_steps(record: Record, window: Window, capacity: int | None) -> Steady | None:
    """None: the steps do not tell."""
    steps = record.steps
    logged = int_column(steps, "logged_ns")
    running, waiting = int_column(steps, "running"), int_column(steps, "waiting")
    chosen = ends_in(logged, window) & (running != MISSING) & (waiting != MISSING)
    if not chosen.any():
        return None
    order = np.flatnonzero(chosen)[np.argsort(logged[chosen], kind="stable")]
    logged, running, waiting = logged[order], running[order], waiting[order]
    prefill = int_column(steps, "prefill_tokens")[order]
    full: Bools = (prefill == 0) & (running > 0)
    if capacity is not None:
        full |= running >= capacity
    at = np.flatnonzero((waiting > 0) & full)
    if not len(at):
        return Steady(None, NEVER_SATURATED)
    last_waiting = int(np.flatnonzero(waiting > 0)[-1])
    if last_waiting + 1 >= len(logged):
        return Steady(None, BROKE_OFF)
    return _between(int(logged[at[0]]), int(logged[last_waiting + 1]))


def _by_stamps(requests: Requests, window: Window, capacity: int | None) -> Steady:
    if capacity is None:
        return Steady(None, CAPACITY_UNKNOWN)
    batch = requests.for_window
    first = np.sort(requests.first_token_ns[batch & ends_in(requests.first_token_ns, window)])
    if int(batch.sum()) <= capacity:
        return Steady(None, NEVER_SATURATED)
    # One that failed before its first token gives its place away without one.
    expected = int((batch & ~(requests.failed & (requests.first_token_ns == MISSING))).sum())
    if len(first) < expected or not window.complete:
        return Steady(None, BROKE_OFF)
    if len(first) <= capacity:
        return Steady(None, NEVER_SATURATED)
    return _between(int(first[capacity - 1]), int(first[-1]))


def _between(start_ns: int, end_ns: int) -> Steady:
    return Steady(Window(start_ns, end_ns)) if end_ns > start_ns else Steady(None, TOO_SHORT)


def idle_spans(record: Record, last_ns: int | None) -> dict[str, tuple[Window | None, str | None]]:
    """Stretches that idle powers are the means of, by the names in `IDLE_PHASES`, or why there is none.

    The driver keeps the clocks up for a while after the last context has gone (an H200 for 2 s, at 124 instead of 77 W);
    bare idle after the engine begins when they are down.
    """
    spans: dict[str, tuple[Window | None, str | None]] = {}
    for name, phase in IDLE_PHASES.items():
        span = phase_window(record.info.phases, phase, last_ns)
        if span is None:
            spans[name] = (None, NO_PHASE)
            continue
        if phase is Phase.BARE_IDLE_AFTER:
            span = _with_clocks_down(record, span)
            if span.duration_s < MIN_BARE_AFTER_S:
                spans[name] = (None, CLOCKS_UP)
                continue
        spans[name] = (span, None)
    return spans


def _with_clocks_down(record: Record, after: Window) -> Window:
    """The rest of `after` once every GPU's SM clock is as it was before the engine; all of it where none is known."""
    start_ns = after.start_ns
    before = phase_window(record.info.phases, Phase.BARE_IDLE)
    told = bare_idle_of_session(record, "sm_clock_mhz")
    for index in range(len(record.power.gpu_uuids)):
        if before is not None:
            clock, lengths = held(record.power, index, Source.CLOCK_SM, before)
            if not len(clock):
                continue
            idle = float((clock * lengths).sum() / lengths.sum())
        elif told is not None:
            idle = told[index]
        else:
            break
        clock, _, until_ns = stretches(record.power, index, Source.CLOCK_SM, after)
        start_ns = max([start_ns, *until_ns[clock > RAISED_CLOCK * idle].tolist()])
    return Window(start_ns, after.end_ns)


# -- what the first run of a session (`sweep.share_engine`) measures for all of them: the bare GPU, and the start of the engine.
# Each later record has a copy of these figures, with where they come from, so that it needs no other record.


def measured_once(record: Record) -> dict[str, Any]:
    """`bare_idle` and `engine_start` for `RunInfo.session` of the runs that follow; empty where `record` has no whole start.

    By GPU: mean power and its 95 % uncertainty [W], mean temperature [C] and SM clock [MHz] of bare idle; energy of the start with
    its uncertainty [J]. None: not known.
    """
    phases, info = record.info.phases, record.info
    start = phase_window(phases, Phase.ENGINE_START)
    if start is None or not start.complete:
        return {}
    told = {"run_id": info.run_id, "started_utc": info.started_utc}
    found: dict[str, Any] = {}
    energies: dict[str, Any] = {}
    for uuid in gpu_uuids(record):
        estimate = record.power.energy(start.start_ns, start.end_ns, uuid)
        energies[uuid] = {"energy_j": estimate.value_j, "u95_j": estimate.u95_j}
    found["engine_start"] = {**told, "seconds": start.duration_s, "gpus": energies}
    bare = phase_window(phases, Phase.BARE_IDLE)
    if bare is None:
        return found
    powers: dict[str, Any] = {}
    for index, uuid in enumerate(record.power.gpu_uuids):
        estimate = record.power.energy(bare.start_ns, bare.end_ns, uuid)

        def mean(source: Source, gpu: int = index) -> float | None:
            values, lengths = held(record.power, gpu, source, bare)
            return float((values * lengths).sum() / lengths.sum()) if len(values) else None

        powers[uuid] = {
            "mean_w": None if estimate.value_j is None else estimate.value_j / bare.duration_s,
            "u95_w": None if estimate.u95_j is None else estimate.u95_j / bare.duration_s,
            "temperature_c": mean(Source.TEMPERATURE_GPU),
            "sm_clock_mhz": mean(Source.CLOCK_SM),
        }
    found["bare_idle"] = {**told, "seconds": bare.duration_s, "gpus": powers}
    return found


def bare_idle_of_session(record: Record, name: str) -> list[float] | None:
    """A figure of bare idle (`mean_w`, ...) that an earlier run of the session has measured, one a GPU; None: not all are known."""
    told = record.info.session.get("bare_idle", {}).get("gpus", {})
    values = [told.get(uuid, {}).get(name) for uuid in gpu_uuids(record)]
    return None if not values or None in values else [float(value) for value in values]
