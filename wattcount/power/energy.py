"""The energy of an interval, from whatever sources a GPU has.

Preferred: the energy counter gives the joules, the finest power source their shape between two readings
of it::

    counter   E0 ............................. E1        read some once a second
    tick      |<-- the value belongs to a tick of the counter's own grid, up to a grid step before the read
    ring      .:.::...::::.:..::.:::.:..:.::..           20 ms samples, scaled so that they sum to E1 - E0

Fallbacks, in this order: counter alone (straight lines), the samples ring alone, instant power held
between its changes, averaged power. An interval that cannot be told gets no value and a reason.

The counter's grid is found from the reads themselves. A read at t returns the energy at the last tick
before t, so with the right phase the ring's joules between two ticks agree with the counter's difference,
and with a wrong one they are off by a whole grid step whenever a tick falls on the other side of a read.
The phase (and the small deviation of the period: clocks drift) with the least misfit is taken. With the ticks
known, the lag of the power source behind them is what makes its joules between ticks agree best: some 20 ms
for the ring of an H200 (five runs: 18 to 22 ms), of which half is the counter's own delay in showing a tick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.power.events import Source

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Events = NDArray[np.void]

S_NS = 1_000_000_000
GRID_PERIODS_NS = (100_000_000, 50_000_000, 20_000_000)
"""Update periods of the counter that are looked for."""
MIN_READS_FOR_GRID = 6
BOX_NS = 1_000_000_000
"""Length of the box that averaged power (field 185) is the mean of, on the GPUs where it was measured."""
MAX_DRIFT = 1e-4
"""Of the counter's clock against this one."""
MIN_CONTRAST = 1.3
"""How much worse than the best the median phase must fit, for the grid to be believed."""
PUBLISH_DELAY_NS = 10_000_000
PUBLISH_MARGIN_NS = 12_000_000
"""A new value shows 0 to 20 ms after its tick on an H200; the fitted phase lies in the middle of that."""
STUCK_NS = S_NS // 2
STUCK_J = 5.0
"""A counter that stays for so long, while the finest power source saw more than this, is not counting."""
CLOCK_STEP_NS = 50_000_000
"""The wall clock is slewed by less than this between two pairs; a larger change is a step."""
LONGEST_GAP_NS = S_NS // 2
"""What of power alone was not seen for longer has no energy."""
LONGEST_HOLD_NS = 3 * S_NS
"""Polled power is repeated as a heartbeat; one that was not for longer is not held on."""
GRID_CHUNK_READS = 64
"""Few enough that no drift between the GPU's clock and this one blurs their phase."""
DISAGREE_SHARE = 0.1
"""Counter and ring further apart than this, over a window of at least a second, is reported."""
MAX_EXTRAPOLATION_NS = 3 * S_NS
"""How far beyond its first and last tick the counter's scale is carried along the ring."""


@dataclass(frozen=True)
class EnergyEstimate:
    """Energy of an interval and what it rests on."""

    value_j: float | None
    u95_j: float | None
    """95 % uncertainty; None: not computed."""
    basis: str | None
    """`energy_counter+power_samples`, `energy_counter`, `power_samples`, `power_instant`, `power_average`, ..."""
    reasons: tuple[str, ...] = ()
    """Stable codes of what is wrong or worth knowing, e.g. `ring_gaps`, `counter_reset`, `outside_trace`."""


@dataclass(frozen=True)
class Cumulative:
    """Energy since some moment as a piecewise-linear function of time.

    t_ns    int64[n], increasing
    energy_j float64[n]
    gaps    int64[m, 2]: stretches that were bridged, not seen
    """

    t_ns: Ints
    energy_j: Floats
    gaps: Ints

    def at(self, t_ns: Ints | Floats) -> Floats:
        # Differences from the first point: float64 has no room for nanoseconds since boot.
        since_ns = np.asarray(t_ns - self.t_ns[0], float)
        joules: Floats = np.interp(since_ns, (self.t_ns - self.t_ns[0]).astype(float), self.energy_j)
        return joules

    def shifted(self, by_ns: int) -> Cumulative:
        return Cumulative(self.t_ns + by_ns, self.energy_j, self.gaps + by_ns)

    def between(self, start_ns: int, end_ns: int) -> float:
        low, high = self.at(np.array([start_ns, end_ns], np.int64))
        return float(high - low)

    def covers(self, start_ns: int, end_ns: int) -> bool:
        return bool(self.t_ns[0] <= start_ns and end_ns <= self.t_ns[-1])

    def has_gap(self, start_ns: int, end_ns: int) -> bool:
        return _overlap(self.gaps, start_ns, end_ns)

    def longest_gap_ns(self, start_ns: int, end_ns: int) -> int:
        """Of the parts of gaps that lie in the interval."""
        inside = np.minimum(self.gaps[:, 1], end_ns) - np.maximum(self.gaps[:, 0], start_ns)
        return int(inside.max(initial=0))


@dataclass(frozen=True)
class CounterGrid:
    """When the counter ticks: `phase_ns + k * period_ns`."""

    period_ns: float
    phase_ns: int
    lag_ns: float
    """The shape shows the power of a moment so much after it, by the time at which a tick is seen."""
    error_j: float
    """Mean absolute difference between the counter's steps and the shape's, at this phase and lag."""

    def certain(self, t_ns: Ints) -> NDArray[np.bool_]:
        """Whether a read at `t_ns` is far enough from a tick to say which one it saw."""
        since_ns = (t_ns - self.phase_ns) % self.period_ns
        margin_ns = min(PUBLISH_MARGIN_NS, self.period_ns / 4)
        far: NDArray[np.bool_] = (since_ns > margin_ns) & (since_ns < self.period_ns - margin_ns)
        return far

    def tick_before(self, t_ns: Ints) -> Ints:
        steps = np.floor((t_ns - self.phase_ns) / self.period_ns)
        return (self.phase_ns + np.round(steps * self.period_ns)).astype(np.int64)


class EnergyModel:
    """The sources of one GPU, prepared once, asked often.

    `sources`: EVENT_DTYPE events of each source in the order of time.
    """

    def __init__(self, sources: Mapping[Source, Events]) -> None:
        self._notes: list[str] = []
        self.ring = self._ring(sources[Source.POWER_SAMPLES], sources[Source.REALTIME])
        self.instant = self._held(sources[Source.POWER_INSTANT])
        self.usage = self._held(sources[Source.POWER_USAGE])
        self._average = self._valid(sources[Source.POWER_AVERAGE])
        self._errors = _error_spans(sources)
        shape = self.ring or self.instant
        self.ticks_ns, self.counter_j, self.counter_breaks, self.grid = self._counter(
            sources[Source.ENERGY_COUNTER], shape
        )
        if shape is not None and self.grid is not None:
            # From here on a tick is placed at its own time, and so is the power that the shape shows.
            self.ticks_ns = self.ticks_ns - PUBLISH_DELAY_NS
            shape = shape.shifted(-PUBLISH_DELAY_NS - round(self.grid.lag_ns))
        self._shape = shape
        self._segments = self._scaled(shape)

    def energy(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        """See `PowerTrace.energy`."""
        _check(start_ns, end_ns)
        notes = self._window_notes(start_ns, end_ns)
        counter = self._by_counter(start_ns, end_ns)
        if counter is not None and counter.value_j is not None:
            return _with(counter, notes)
        why = counter.reasons if counter is not None else ("no_energy_counter",)
        for name, estimate in self.energy_by_source(start_ns, end_ns).items():
            if name != "energy_counter" and estimate.value_j is not None:
                return _with(estimate, (*notes, *why))
        nothing = EnergyEstimate(None, None, None, ("no_power_data",))
        return _with(nothing, (*notes, *why))

    def energy_by_source(self, start_ns: int, end_ns: int) -> dict[str, EnergyEstimate]:
        """See `PowerTrace.energy_by_source`. Best first."""
        _check(start_ns, end_ns)
        found: dict[str, EnergyEstimate] = {}
        if len(self.ticks_ns):
            found["energy_counter"] = self._counter_alone(start_ns, end_ns)
        for name, curve in (("power_samples", self.ring), ("power_instant", self.instant)):
            if curve is not None:
                found[name] = _integral(curve, start_ns, end_ns, name)
        if len(self._average):
            found["power_average"] = self._box(start_ns, end_ns)
        if self.usage is not None:
            found["power_usage"] = _integral(self.usage, start_ns, end_ns, "power_usage")
        return found

    def curve(self, max_points: int) -> tuple[Ints, Floats]:
        """See `PowerTrace.curve`."""
        best = self._segments or self.ring or self.instant or self.usage
        if best is None or max_points < 1 or len(best.t_ns) < 2:
            return np.empty(0, np.int64), np.empty(0)
        points = min(max_points, len(best.t_ns) - 1)
        edges = (
            np.linspace(0, float(best.t_ns[-1] - best.t_ns[0]), points + 1).astype(np.int64) + best.t_ns[0]
        )
        power_w = np.diff(best.at(edges)) / (np.diff(edges) / S_NS)
        return ((edges[1:] + edges[:-1]) // 2), power_w

    # -- preparing the sources ------------------------------------------------------------------

    def _valid(self, events: Events) -> Events:
        """Without errors, and without zeros: a powered GPU never draws nothing."""
        good: Events = events[events["nvml_return"] == 0]
        zero = good["value"] <= 0
        if zero.any():
            self._notes.append("zero_power_readings")
            good = good[~zero]
        return good

    def _ring(self, samples: Events, pairs: Events) -> Cumulative | None:
        samples = self._valid(samples)
        samples = samples[samples["source_ts_us"] > 0]
        pairs = pairs[pairs["nvml_return"] == 0]
        if len(samples) < 3 or not len(pairs):
            return None
        # Wall clock to monotonic through the pairs: the wall clock may be slewed or stepped meanwhile.
        monotonic_ns = (pairs["t0_ns"] + pairs["t1_ns"]) // 2
        offset_ns = pairs["value"] - monotonic_ns
        stamps_utc_ns = samples["source_ts_us"] * 1000
        base = int(offset_ns[0])
        if (np.abs(np.diff(offset_ns)) > CLOCK_STEP_NS).any():
            self._notes.append("wall_clock_stepped")
            t_ns = _across_steps(samples, pairs["t0_ns"], offset_ns)
        else:
            offsets = np.interp(
                (stamps_utc_ns - base - monotonic_ns[0]).astype(float),
                (monotonic_ns - monotonic_ns[0]).astype(float),
                (offset_ns - base).astype(float),
            )
            t_ns = stamps_utc_ns - base - np.round(offsets).astype(np.int64)
        t_ns, keep = np.unique(t_ns, return_index=True)
        power_w = samples["value"][keep] / 1e3
        if len(t_ns) < 3:
            return None
        return _trapezoid(t_ns, power_w)

    def _held(self, events: Events) -> Cumulative | None:
        """Polled power, each value held from when it was first seen until the next one was."""
        events = self._valid(events)
        if len(events) < 2:
            return None
        t_ns, keep = np.unique((events["t0_ns"] + events["t1_ns"]) // 2, return_index=True)
        power_w = events["value"][keep] / 1e3
        steps_ns = np.diff(t_ns)
        energy_j = np.concatenate(([0.0], np.cumsum(power_w[:-1] * steps_ns / S_NS)))
        unseen = np.flatnonzero(steps_ns > _hold_ns(steps_ns))
        return Cumulative(t_ns, energy_j, np.stack((t_ns[unseen], t_ns[unseen + 1]), axis=1))

    def _counter(
        self, reads: Events, shape: Cumulative | None
    ) -> tuple[Ints, Floats, Ints, CounterGrid | None]:
        """Ticks that were read (ns, joule), stretches [m, 2] ns the counter did not count through, its grid.

        Through these stretches the joules are the shape's, so that what lies between them stays in one piece.
        """
        reads = reads[reads["nvml_return"] == 0]
        if not len(reads):
            return np.empty(0, np.int64), np.empty(0), _no_gaps(), None
        seen_ns = (reads["t0_ns"] + reads["t1_ns"]) // 2
        moved_j = np.diff(reads["value"] / 1e3)
        broken = moved_j < 0
        # One value may be read several times between two ticks, but not for long.
        number = np.arange(len(seen_ns))
        first = np.maximum.accumulate(np.where(np.concatenate(([True], moved_j != 0)), number, 0))
        stood = seen_ns - seen_ns[first] > STUCK_NS
        drawn_j = np.zeros(len(moved_j))
        if shape is not None:
            drawn = shape.at(np.clip(seen_ns, shape.t_ns[0], shape.t_ns[-1]))
            stood &= drawn - drawn[first] > STUCK_J
            drawn_j = np.diff(drawn)
        stuck = np.isin(first, first[stood])
        # From the first read of a value that stood to the read after its last: when it stopped is not known.
        broken |= stuck[:-1]
        energy_j = reads["value"][0] / 1e3 + np.concatenate(
            ([0.0], np.cumsum(np.where(broken, drawn_j, moved_j)))
        )
        at = np.flatnonzero(broken)
        breaks = np.stack((seen_ns[at] - GRID_PERIODS_NS[0], seen_ns[at + 1]), axis=1)
        grid = None if shape is None else _GridFit(seen_ns, energy_j, shape).best()
        if grid is not None:
            # A read close to a tick may have met it or not: the others say enough.
            certain = grid.certain(seen_ns)
            if certain.sum() >= 2:
                seen_ns, energy_j = seen_ns[certain], energy_j[certain]
            ticks_ns = grid.tick_before(seen_ns)
        else:
            # On average a value is half a grid step old.
            ticks_ns = seen_ns - GRID_PERIODS_NS[0] // 2
        # Several reads of one value: the tick is before the first of them.
        ticks_ns, first = np.unique(ticks_ns, return_index=True)
        energy_j = energy_j[first]
        fresh = np.concatenate(([True], np.diff(energy_j) != 0))
        return ticks_ns[fresh], energy_j[fresh], breaks, grid

    def _scaled(self, shape: Cumulative | None) -> Cumulative | None:
        """The shape scaled to the counter between each two ticks, and carried on beyond the ends."""
        ticks, energy = self.ticks_ns, self.counter_j
        if shape is None or len(ticks) < 2:
            return None
        inside = (ticks >= shape.t_ns[0]) & (ticks <= shape.t_ns[-1])
        ticks, energy = ticks[inside], energy[inside]
        if len(ticks) < 2:
            return None
        t_ns = np.union1d(shape.t_ns, ticks)
        drawn = shape.at(t_ns)
        at_ticks = shape.at(ticks)
        steps = np.diff(at_ticks)
        if (steps <= 0).any():
            return None
        scaled = np.interp(drawn, at_ticks, energy)
        # Beyond the first and last tick the overall scale holds.
        scale = (energy[-1] - energy[0]) / (at_ticks[-1] - at_ticks[0])
        before, after = t_ns < ticks[0], t_ns > ticks[-1]
        scaled[before] = energy[0] - (at_ticks[0] - drawn[before]) * scale
        scaled[after] = energy[-1] + (drawn[after] - at_ticks[-1]) * scale
        return Cumulative(t_ns, scaled - scaled[0], shape.gaps)

    # -- asking them ----------------------------------------------------------------------------

    def _by_counter(self, start_ns: int, end_ns: int) -> EnergyEstimate | None:
        if len(self.ticks_ns) < 2:
            return None
        if _overlap(self.counter_breaks, start_ns, end_ns):
            return EnergyEstimate(None, None, None, ("counter_not_continuous",))
        if self._segments is None:
            return self._counter_alone(start_ns, end_ns)
        if not self._segments.covers(start_ns, end_ns):
            return self._counter_alone(start_ns, end_ns)
        if (
            start_ns < self.ticks_ns[0] - MAX_EXTRAPOLATION_NS
            or end_ns > self.ticks_ns[-1] + MAX_EXTRAPOLATION_NS
        ):
            return EnergyEstimate(None, None, None, ("counter_does_not_cover",))
        value = self._segments.between(start_ns, end_ns)
        reasons: list[str] = []
        assert self._shape is not None
        if self._shape.has_gap(start_ns, end_ns):
            reasons.append("ring_gaps")
        drawn = self._shape.between(start_ns, end_ns)
        if end_ns - start_ns >= S_NS and abs(drawn - value) > DISAGREE_SHARE * max(value, 1e-9):
            reasons.append("sources_disagree")
        basis = "energy_counter+power_samples" if self.ring is not None else "energy_counter+power_instant"
        return EnergyEstimate(value, None, basis, tuple(reasons))

    def _counter_alone(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        ticks, energy = self.ticks_ns, self.counter_j
        if _overlap(self.counter_breaks, start_ns, end_ns):
            return EnergyEstimate(None, None, None, ("counter_not_continuous",))
        if len(ticks) < 2 or start_ns < ticks[0] or end_ns > ticks[-1]:
            return EnergyEstimate(None, None, None, ("counter_does_not_cover",))
        curve = Cumulative(ticks, energy, _no_gaps())
        return EnergyEstimate(curve.between(start_ns, end_ns), None, "energy_counter")

    def _box(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        """Averaged power: its value at t is the mean of [t - 1 s, t], so boxes laid end to end cover a window.

        Windows that are no whole number of boxes long get the rest from the value at their start.
        """
        values = self._average
        t_ns = (values["t0_ns"] + values["t1_ns"]) // 2
        if end_ns - start_ns < BOX_NS:
            return EnergyEstimate(None, None, None, ("shorter_than_averaging_window",))
        if len(t_ns) < 2 or start_ns < t_ns[0] or end_ns > t_ns[-1] + BOX_NS:
            return EnergyEstimate(None, None, None, ("outside_trace",))
        boxes = (end_ns - start_ns) // BOX_NS
        rest_ns = (end_ns - start_ns) - boxes * BOX_NS
        reads = np.append(end_ns - BOX_NS * np.arange(boxes), start_ns + rest_ns)
        found = np.clip(np.searchsorted(t_ns, reads, side="right") - 1, 0, None)
        if (reads - t_ns[found] > _hold_ns(np.diff(t_ns))).any():
            return EnergyEstimate(None, None, None, ("power_not_seen",))
        power_w = values["value"][found] / 1e3
        energy_j = float(power_w[:-1].sum() * (BOX_NS / S_NS) + power_w[-1] * rest_ns / S_NS)
        return EnergyEstimate(energy_j, None, "power_average")

    def _window_notes(self, start_ns: int, end_ns: int) -> tuple[str, ...]:
        notes = list(self._notes)
        for code, spans in self._errors.items():
            if _overlap(spans, start_ns, end_ns):
                notes.append(code)
        return tuple(notes)


def _check(start_ns: int, end_ns: int) -> None:
    if end_ns <= start_ns:
        raise ValueError(f"the interval must end after it starts, got [{start_ns}, {end_ns}]")


def _with(estimate: EnergyEstimate, reasons: tuple[str, ...]) -> EnergyEstimate:
    unique = tuple(dict.fromkeys((*estimate.reasons, *reasons)))
    return EnergyEstimate(estimate.value_j, estimate.u95_j, estimate.basis, unique)


def _overlap(stretches_ns: Ints, start_ns: int, end_ns: int) -> bool:
    return bool(((stretches_ns[:, 0] < end_ns) & (stretches_ns[:, 1] > start_ns)).any())


def _hold_ns(steps_ns: Ints) -> float:
    """How long a polled value holds; heartbeats may have been set further apart than usual."""
    return max(float(LONGEST_HOLD_NS), 1.5 * float(np.quantile(steps_ns, 0.99)))


def _no_gaps() -> Ints:
    return np.empty((0, 2), np.int64)


def _trapezoid(t_ns: Ints, power_w: Floats) -> Cumulative:
    steps_ns = np.diff(t_ns)
    energy_j = np.concatenate(([0.0], np.cumsum((power_w[1:] + power_w[:-1]) / 2 * steps_ns / S_NS)))
    period_ns = float(np.median(steps_ns))
    lost = np.flatnonzero(steps_ns > 1.5 * period_ns)
    gaps = np.stack((t_ns[lost], t_ns[lost + 1]), axis=1) if len(lost) else _no_gaps()
    return Cumulative(t_ns, energy_j, gaps)


def _integral(curve: Cumulative, start_ns: int, end_ns: int, name: str) -> EnergyEstimate:
    if not curve.covers(start_ns, end_ns):
        return EnergyEstimate(None, None, None, ("outside_trace",))
    if curve.longest_gap_ns(start_ns, end_ns) > LONGEST_GAP_NS:
        return EnergyEstimate(None, None, None, ("power_not_seen",))
    reasons = ("ring_gaps",) if curve.has_gap(start_ns, end_ns) else ()
    return EnergyEstimate(curve.between(start_ns, end_ns), None, name, reasons)


def _error_spans(sources: Mapping[Source, Events]) -> dict[str, Ints]:
    """By reason code: stretches in which a source of power or energy returned an error, [m, 2] ns.

    A source that never worked is absent, not failing.
    """
    spans: dict[str, Ints] = {}
    for source in (Source.ENERGY_COUNTER, Source.POWER_SAMPLES, Source.POWER_INSTANT, Source.POWER_USAGE):
        events = sources[source]
        bad = events["nvml_return"] != 0
        if not bad.any() or bad.all():
            continue
        starts = events["t0_ns"][bad]
        following = np.append(events["t0_ns"][1:], events["t1_ns"][-1])[bad]
        spans[f"{source.name.lower()}_errors"] = np.stack((starts, np.maximum(following, starts + 1)), axis=1)
    return spans


def _across_steps(samples: Events, drains_ns: Ints, offsets_ns: Ints) -> Ints:
    """Monotonic times of the ring's samples where the wall clock was stepped, by the drain each came with.

    A sample taken before the step but drained after it fits its drain only with the offset of the one before.

    drains_ns    starts of the drains, increasing, ns
    offsets_ns   CLOCK_REALTIME - CLOCK_MONOTONIC at each
    """
    stamps_ns = samples["source_ts_us"] * 1000
    drain = np.clip(np.searchsorted(drains_ns, samples["t0_ns"], side="right") - 1, 0, None)
    t_ns = stamps_ns - offsets_ns[drain]
    earliest = np.where(drain > 0, drains_ns[drain - 1] - CLOCK_STEP_NS, np.iinfo(np.int64).min)
    fits = (t_ns >= earliest) & (t_ns <= samples["t1_ns"] + CLOCK_STEP_NS)
    placed: Ints = np.where(fits, t_ns, stamps_ns - offsets_ns[np.maximum(drain - 1, 0)])
    return placed


class _GridFit:
    """The search for the counter's grid in its reads: `best()` is None where they do not tell.

    Found from a minute's reads, where no drift blurs the phase; then the stretch is doubled until it holds
    all reads, period and phase following. Misfit is measured by absolute values: a read close to a tick may
    be off by a whole step of the counter, whatever the grid.

    seen_ns   when the counter was read
    energy_j  what it said
    """

    def __init__(self, seen_ns: Ints, energy_j: Floats, shape: Cumulative) -> None:
        inside = (seen_ns - GRID_PERIODS_NS[0] > shape.t_ns[0]) & (seen_ns < shape.t_ns[-1])
        self.seen_ns, self.energy_j = seen_ns[inside], energy_j[inside]
        self.shape = shape

    def best(self) -> CounterGrid | None:
        reads = len(self.seen_ns)
        found = self._chunk()
        if found is None:
            return None
        nominal_ns, phase_ns, low, high = found
        period_ns, lag_ns = nominal_ns, 0.0
        while True:
            before = self._middle(low, high)
            whole = (low, high) == (0, reads)
            if not whole:
                width = high - low
                low, high = max(0, low - width // 2), min(reads, high + width // 2)
            middle = self._middle(low, high)
            # The tick next to the new middle.
            phase_ns += before + round((middle - before - phase_ns) / period_ns) * period_ns - middle
            for step_ns in (2e6, 0.5e6):
                period_ns, phase_ns = self._refine(
                    low, high, nominal_ns, period_ns, phase_ns, lag_ns, step_ns
                )
            if not whole:
                continue
            if lag_ns == 0.0:
                lag_ns = self._lag(period_ns, phase_ns)
                if lag_ns != 0.0:
                    continue
            error_j = self._misfit(0, reads, _just(period_ns), _just(phase_ns), _just(lag_ns))
            return CounterGrid(period_ns, middle + round(phase_ns), lag_ns, float(error_j[0]))

    def _middle(self, low: int, high: int) -> int:
        return int(self.seen_ns[(low + high) // 2])

    def _misfit(self, low: int, high: int, periods_ns: Floats, phases_ns: Floats, lags_ns: Floats) -> Floats:
        """Of each grid, float64[grids], the mean |joule| over reads [low, high).

        phases_ns   of a tick after the middle read
        """
        middle = self._middle(low, high)
        since_ns = (self.seen_ns[low:high] - middle).astype(float)
        steps = np.floor((since_ns[None, :] - phases_ns[:, None]) / periods_ns[:, None])
        ticks_ns = phases_ns[:, None] + steps * periods_ns[:, None] + lags_ns[:, None]
        drawn_j = np.diff(self.shape.at(middle + np.round(ticks_ns).astype(np.int64)), axis=1)
        moved_j = np.diff(self.energy_j[low:high])
        scale = moved_j.sum() / np.maximum(drawn_j.sum(axis=1), 1e-12)
        errors: Floats = np.mean(np.abs(moved_j[None, :] - scale[:, None] * drawn_j), axis=1)
        return errors

    def _chunk(self) -> tuple[float, float, int, int] | None:
        """Nominal period, phase and bounds of the first reads that show a grid: a right phase stands out."""
        contrast, found = MIN_CONTRAST, None
        for start in range(0, len(self.seen_ns), GRID_CHUNK_READS):
            high = min(start + GRID_CHUNK_READS, len(self.seen_ns))
            low = max(0, min(start, high - MIN_READS_FOR_GRID))
            if high - low < MIN_READS_FOR_GRID:
                break
            for nominal in GRID_PERIODS_NS:
                phases_ns = np.asarray(np.arange(0.0, nominal, 1e6), np.float64)
                same = np.ones(len(phases_ns))
                errors = self._misfit(low, high, nominal * same, phases_ns, 0.0 * same)
                stands_out = float(np.median(errors)) / max(float(errors.min()), 1e-3)
                if stands_out > contrast * 1.02:
                    contrast = stands_out
                    found = (float(nominal), float(phases_ns[int(np.argmin(errors))]), low, high)
            if contrast > 3.0:
                break
        return found

    def _refine(
        self,
        low: int,
        high: int,
        nominal_ns: float,
        period_ns: float,
        phase_ns: float,
        lag_ns: float,
        step_ns: float,
    ) -> tuple[float, float]:
        """Period and phase nearby, by how far ticks at the ends and in the middle are moved."""
        middle = self._middle(low, high)
        reach_ns = max(float(self.seen_ns[high - 1] - middle), float(middle - self.seen_ns[low]), period_ns)
        ends, middles = np.meshgrid(np.arange(-12, 13) * step_ns, np.arange(-16, 17) * step_ns / 2)
        ends_ns, middles_ns = ends.ravel(), middles.ravel()
        drift = period_ns / nominal_ns - 1.0 + ends_ns / reach_ns
        allowed = (np.abs(drift) <= MAX_DRIFT) | (ends_ns == 0.0)
        ends_ns, middles_ns = ends_ns[allowed], middles_ns[allowed]
        periods_ns: Floats = period_ns * (1.0 + ends_ns / reach_ns)
        phases_ns: Floats = phase_ns + middles_ns
        errors = self._misfit(low, high, periods_ns, phases_ns, np.full(len(phases_ns), lag_ns))
        low_points = _bottom(errors)
        # The bottom need not be convex: of its points, the one nearest to its middle.
        off = np.hypot(
            ends_ns[low_points] - ends_ns[low_points].mean(),
            middles_ns[low_points] - middles_ns[low_points].mean(),
        )
        at = int(low_points[np.argmin(off)])
        return float(periods_ns[at]), float(phases_ns[at])

    def _lag(self, period_ns: float, phase_ns: float) -> float:
        """By how much the shape trails the ticks; 0 where power does not vary enough to tell."""
        lags_ns = np.asarray(np.arange(-40, 41) * 1e6, np.float64)
        same = np.ones(len(lags_ns))
        errors = self._misfit(0, len(self.seen_ns), period_ns * same, phase_ns * same, lags_ns)
        low_points = _bottom(errors)
        if low_points[0] == 0 or low_points[-1] == len(errors) - 1:
            return 0.0
        return float(lags_ns[low_points].mean())


def _just(value: float) -> Floats:
    return np.array([value])


def _bottom(errors: Floats) -> Ints:
    """The grids that fit as well as the best: where no read falls between two phases, the misfit is flat."""
    found: Ints = np.flatnonzero(errors <= float(errors.min()) * 1.02 + 1e-9)
    return found
