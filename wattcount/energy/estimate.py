"""The energy of an interval, from whatever sources a GPU has, and how sure it is.

Preferred: the energy counter gives the joules, the finest power source their shape between two ticks of it::

    counter   E0 ............................. E1        some once a second, each placed at its tick
    samples   .:.::...::::.:..::.:::.:..:.::..           every 20 ms, less their lag
    estimate  E0 + (E1 - E0) (w samples + (1 - w) straight line)

w is how far the samples can be trusted with the shape: 1 on most loads, less where the load repeats faster than they
come and they alias. It is chosen by how well ticks that are left out are predicted from their neighbours, and the
errors of these predictions are what the uncertainty of the estimate rests on (`energy.uncertainty`).

Fallbacks, in this order: counter alone (straight lines), the samples ring alone, instant power held between its
changes, averaged power. An interval that cannot be told gets no value and a reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wattcount.energy import plausible
from wattcount.energy.anchored import HELD_STEEPNESS, RING_LOWPASS_S, Anchored
from wattcount.energy.counter import CounterGrid, read_counter
from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve, overlaps
from wattcount.energy.events import Source
from wattcount.energy.plausible import DISAGREE, Disagreement, disagreement
from wattcount.energy.uncertainty import (
    COVERAGE_95,
    PRIOR_FLOOR_J2_PER_S,
    PRIOR_STEEPNESS,
    EnergyEstimate,
    estimated,
)

Events = NDArray[np.void]

BOX_NS = 1_000_000_000
"""Length of the box that averaged power (field 185) is the mean of [ns]. Measured: on an H200, and found on other GPUs of
its kind (docs/sensors.md)."""
CLOCK_STEP_NS = 50_000_000
"""Change of the wall clock against the monotonic one, from one pair to the next, above which it was stepped [ns]. Chosen:
NTP slews by 0.5 ms a second at most, and pairs come once a second."""
DRAINED_LATE_NS = 2 * S_NS
"""Longest time by which a sample may be older than the drain before the one that it came with [ns]. Chosen: a hundred times
the 20 ms by which an H200 stamps its samples late."""
LATE_STAMP_NS = 60 * S_NS
"""Age of a sample, when it is drained, above which its stamp is not believed [ns]. Chosen: a ring holds some seconds; a
minute is far beyond any."""
LONGEST_GAP_NS = S_NS // 2
"""Longest stretch without a reading across which power alone has an energy [ns]. Chosen: half a second, since in longer ones
a load may begin and end unseen."""
LONGEST_HOLD_NS = 3 * S_NS
"""Longest time that a polled value holds without being read again [ns]. Derived: three heartbeats of the sampler, which come
once a second."""
MAX_EXTRAPOLATION_NS = 3 * S_NS
"""Longest stretch beyond the first and last tick over which the scale of the counter is carried along the samples [ns].
Chosen: three reads of the counter."""
COUNTER_TICK_S = 0.1
"""Update period of the slowest counters, as far as a tick may be misplaced where it is only compared [s]. Measured: 100 ms
on an H200 (docs/h200.md)."""
POWER_LAG_SD_S = 0.03
"""Standard deviation of how late power alone is shown, half an update at least [s]. Measured: the 20 ms samples of an H200
trail by 12 to 20 ms, and a value that is held is half an update old on average."""
USAGE_LAG_SD_S = 0.5
"""Standard deviation of how late GetPowerUsage is shown [s]. Measured: on an H200 it is the mean of the last second, half a
second late."""


class EnergyModel:
    """The sources of one GPU, prepared once, asked often.

    sources         EVENT_DTYPE events of each source in the order of time
    clock_bound_ns  see `PowerTrace`
    """

    def __init__(self, sources: Mapping[Source, Events], clock_bound_ns: float = 0) -> None:
        self._clock_bound_ns = clock_bound_ns
        self.limit_w = plausible.board_limit_w(sources[Source.POWER_LIMIT])
        self._most_w = plausible.most_reading_w(self.limit_w)
        self._faults: dict[str, list[Ints]] = {}
        """Stretches [m, 2] ns by reason code: what was wrong, and where."""
        self._answers: dict[tuple[int, int], EnergyEstimate] = {}
        self._bests: dict[tuple[int, int], EnergyEstimate] = {}
        self._alone: dict[tuple[str, int, int], EnergyEstimate] = {}
        self._compared: dict[tuple[int, int], Disagreement | None] = {}
        self._error_spans(sources)
        self.ring = self._ring(sources[Source.POWER_SAMPLES], sources[Source.REALTIME])
        self.instant = self._held(sources[Source.POWER_INSTANT])
        self.usage = self._held(sources[Source.POWER_USAGE])
        self._average = self._moving(sources[Source.POWER_AVERAGE])
        shape = self.ring or self.instant
        self._shape_name = "power_samples" if self.ring is not None else "power_instant"
        others = [curve for curve in (self.instant, self.usage) if curve is not None and curve is not shape]
        self.counter = read_counter(sources[Source.ENERGY_COUNTER], shape, others, self._most_w)
        self.shape = None if shape is None else self._true_power(shape)
        self._others = [curve.shifted(-round(self.counter.shape_lag_ns)) for curve in others]
        self.scaled: Anchored | None = None
        self.scaled = self._anchored(self.shape)
        self.straight = self._anchored(None)

    @property
    def grid(self) -> CounterGrid | None:
        return self.counter.grid

    def energy(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        """See `PowerTrace.energy`."""
        _check(start_ns, end_ns)
        asked = start_ns, end_ns
        if asked not in self._answers:
            best = self._best(start_ns, end_ns)
            found = self.disagreement(start_ns, end_ns)
            told = (DISAGREE,) if found is not None and found.told else ()
            best = self._with_clock(best, start_ns, end_ns)
            self._answers[asked] = _with(best, (*told, *self._window_notes(start_ns, end_ns)))
        return self._answers[asked]

    def prepare(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Finds out about intervals that will be asked for, all at once: that takes hardly longer than one."""
        if self.scaled is not None and self.shape is not None:
            self.scaled.prepare([one for one in intervals if self.shape.covers(*one)])

    def _best(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        asked = start_ns, end_ns
        if asked not in self._bests:
            self._bests[asked] = self._find_best(start_ns, end_ns)
        return self._bests[asked]

    def _find_best(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        counter = self._by_counter(start_ns, end_ns)
        if counter is not None and counter.value_j is not None:
            return counter
        why = counter.reasons if counter is not None else ("no_energy_counter",)
        for name, estimate in self._by_source(start_ns, end_ns).items():
            if name != "energy_counter" and estimate.value_j is not None:
                return _with(estimate, why)
        return EnergyEstimate(None, None, None, ("no_power_data", *why))

    def energy_by_source(self, start_ns: int, end_ns: int) -> dict[str, EnergyEstimate]:
        """See `PowerTrace.energy_by_source`. Best first."""
        found = self._by_source(start_ns, end_ns)
        return {name: self._with_clock(one, start_ns, end_ns) for name, one in found.items()}

    def _by_source(self, start_ns: int, end_ns: int) -> dict[str, EnergyEstimate]:
        _check(start_ns, end_ns)
        found: dict[str, EnergyEstimate] = {}
        if len(self.counter.ticks_ns):
            found["energy_counter"] = self._counter_alone(start_ns, end_ns)
        for name, curve in (("power_samples", self.ring), ("power_instant", self.instant)):
            if curve is not None:
                found[name] = self._by_power(curve, start_ns, end_ns, name)
        if len(self._average):
            found["power_average"] = self._by_average(start_ns, end_ns)
        if self.usage is not None:
            found["power_usage"] = _integral(self.usage, start_ns, end_ns, "power_usage", USAGE_LAG_SD_S)
        return found

    def _with_clock(self, estimate: EnergyEstimate, start_ns: int, end_ns: int) -> EnergyEstimate:
        """The estimate with what the difference of two clocks adds, where the trace is another machine's.

        All of it may be early or late alike, by any time within the bound: a window then gains at one end what the power is there
        and loses at the other. Where power changes within a sampling step, either of its values may be the one.
        """
        if not self._clock_bound_ns or estimate.u95_method_j is None or estimate.u95_sensor_j is None:
            return estimate
        (low_start_w, high_start_w), (low_end_w, high_end_w) = (
            self._power_around_w(t_ns) for t_ns in (start_ns, end_ns)
        )
        apart_w = max(abs(high_end_w - low_start_w), abs(high_start_w - low_end_w))
        clock_j = COVERAGE_95 * self._clock_bound_ns / S_NS / 3**0.5 * apart_w
        method_j = math.hypot(estimate.u95_method_j, clock_j)
        return replace(
            estimate,
            u95_method_j=method_j,
            u95_j=math.hypot(method_j, estimate.u95_sensor_j),
            budget_j={**estimate.budget_j, "clock": clock_j},
        )

    def _power_around_w(self, t_ns: int) -> tuple[float, float]:
        """(least, most) power around a moment: within the clock's bound and two sampling steps, for a sample may be one step late.
        Where there are only ticks or averages: of the whole trace."""
        curve = self.shape or self.usage
        if curve is not None:
            reach_ns = 2 * int(curve.step_around_ns(np.array([t_ns]))[0]) + round(self._clock_bound_ns)
            found = curve.power_at(t_ns + np.linspace(-reach_ns, reach_ns, 9).astype(np.int64))
        elif len(ticks_ns := self.counter.ticks_ns) > 1:
            found = np.diff(self.counter.energy_j) / (np.diff(ticks_ns) / S_NS)
        else:
            found = self._average["value"] / 1e3
        return float(found.min()), float(found.max())

    def counter_breaks(self, start_ns: int, end_ns: int) -> int:
        """How often the energy counter lost its count in an interval, or at its ends."""
        breaks = self.counter.breaks_ns
        return int(((breaks[:, 0] < end_ns) & (breaks[:, 1] > start_ns)).sum())

    def disagreement(self, start_ns: int, end_ns: int) -> Disagreement | None:
        """The source that differs most from the best estimate over an interval; None where there is nothing to compare."""
        asked = start_ns, end_ns
        if asked not in self._compared:
            self._compared[asked] = self._disagreement(self._best(start_ns, end_ns), start_ns, end_ns)
        return self._compared[asked]

    def _disagreement(self, best: EnergyEstimate, start_ns: int, end_ns: int) -> Disagreement | None:
        if best.value_j is None or best.u95_method_j is None or best.basis is None:
            return None
        found: dict[str, EnergyEstimate] = {}
        if self.ring is not None:
            found["power_samples"] = self._by_power(self.ring, start_ns, end_ns, "power_samples")
        if len(self._average):
            found["power_average"] = self._by_average(start_ns, end_ns)
        known = {
            name: (one.value_j, one.u95_method_j)
            for name, one in found.items()
            if one.value_j is not None and one.u95_method_j is not None
        }
        known[best.basis] = best.value_j, best.u95_method_j
        if not best.basis.startswith("energy_counter") and (counted := self._counted(start_ns, end_ns, best)):
            known["energy_counter"] = counted
        return disagreement(best.basis, known, (end_ns - start_ns) / S_NS)

    def _counted(self, start_ns: int, end_ns: int, best: EnergyEstimate) -> tuple[float, float] | None:
        """(J, 95 % interval) by the counter of an interval that it covers in part; the rest is `best`'s mean power."""
        assert best.value_j is not None
        ticks_ns = self.counter.ticks_ns
        inside = np.flatnonzero((ticks_ns >= start_ns) & (ticks_ns <= end_ns))
        if len(inside) < 2 or self.counter_breaks(start_ns, end_ns):
            return None
        first, last = inside[0], inside[-1]
        share = float(ticks_ns[last] - ticks_ns[first]) / (end_ns - start_ns)
        counted_j = float(self.counter.energy_j[last] - self.counter.energy_j[first])
        rest_j = (1 - share) * best.value_j
        # Power in the rest may differ from the mean by as much as it is.
        return counted_j + rest_j, float(
            np.hypot(rest_j, COVERAGE_95 * COUNTER_TICK_S * 2 * best.value_j / ((end_ns - start_ns) / S_NS))
        )

    def cumulative_j(self, t_ns: Ints) -> Floats | None:
        """See `PowerTrace.cumulative_j`."""
        return None if self._drawn is None else self._drawn.at(t_ns)

    @property
    def bounds_ns(self) -> tuple[int, int] | None:
        """See `PowerTrace.bounds_ns`."""
        return None if self._drawn is None else self._drawn.bounds_ns

    @property
    def _drawn(self) -> Anchored | PowerCurve | None:
        """The best curve of the energy."""
        return self.scaled or self.straight or self.ring or self.instant or self.usage

    def curve(self, max_points: int) -> tuple[Ints, Floats]:
        """See `PowerTrace.curve`."""
        best = self.scaled or self.ring or self.instant or self.usage
        if best is None or max_points < 1:
            return np.empty(0, np.int64), np.empty(0)
        first, last = best.bounds_ns
        points = min(max_points, best.points)
        edges = np.linspace(0, float(last - first), points + 1).astype(np.int64) + first
        power_w = np.diff(best.at(edges)) / (np.diff(edges) / S_NS)
        return ((edges[1:] + edges[:-1]) // 2), power_w

    # -- preparing the sources ------------------------------------------------------------------

    def _fault(self, code: str, spans_ns: Ints) -> None:
        if len(spans_ns):
            self._faults.setdefault(code, []).append(spans_ns)

    def _valid(self, events: Events) -> Events:
        """The events without errors, and without readings that no board gives."""
        t_ns = (events["t0_ns"] + events["t1_ns"]) // 2
        worked = events["nvml_return"] == 0
        events, t_ns = events[worked], t_ns[worked]
        bad = np.zeros(len(events), bool)
        for code, wrong in plausible.faults_of_power(events["value"], self._most_w).items():
            self._fault(code, plausible.around(t_ns, wrong))
            bad |= wrong
        good: Events = events[~bad]
        return good

    def _ring(self, samples: Events, pairs: Events) -> PowerCurve | None:
        samples = samples[(samples["source_ts_us"] > 0) & (samples["nvml_return"] == 0)]
        pairs = pairs[pairs["nvml_return"] == 0]
        if len(samples) < 3 or not len(pairs):
            return None
        # Wall clock to monotonic through the pairs: the wall clock may be slewed or stepped meanwhile.
        monotonic_ns = (pairs["t0_ns"] + pairs["t1_ns"]) // 2
        offset_ns = pairs["value"] - monotonic_ns
        stamps_utc_ns = samples["source_ts_us"] * 1000
        base = int(offset_ns[0])
        stepped = np.abs(np.diff(offset_ns)) > CLOCK_STEP_NS
        if stepped.any():
            at = np.flatnonzero(stepped)
            self._fault(plausible.CLOCK_STEPPED, np.stack((monotonic_ns[at], monotonic_ns[at + 1]), axis=1))
            t_ns = _across_steps(samples, pairs["t0_ns"], offset_ns)
        else:
            offsets = np.interp(
                (stamps_utc_ns - base - monotonic_ns[0]).astype(float),
                (monotonic_ns - monotonic_ns[0]).astype(float),
                (offset_ns - base).astype(float),
            )
            t_ns = stamps_utc_ns - base - np.round(offsets).astype(np.int64)
        # A sample was taken before it was drained, and not long before.
        taken = (t_ns <= samples["t1_ns"] + CLOCK_STEP_NS) & (t_ns >= samples["t0_ns"] - LATE_STAMP_NS)
        # What was taken well before the drain before had been drained then.
        before = np.searchsorted(pairs["t0_ns"], samples["t0_ns"], side="right") - 2
        drained_ns = pairs["t0_ns"][np.maximum(before, 0)] - DRAINED_LATE_NS
        taken &= (before < 0) | (t_ns >= drained_ns)
        t_ns, keep = np.unique(t_ns[taken], return_index=True)
        samples = samples[taken][keep]
        samples["t0_ns"] = samples["t1_ns"] = t_ns
        samples = self._valid(samples)
        t_ns, value = samples["t0_ns"], samples["value"]
        frozen = plausible.same_for_long(value)
        self._fault(plausible.FROZEN, plausible.around(t_ns, frozen))
        t_ns, value = t_ns[~frozen], value[~frozen]
        if len(t_ns) < 3:
            return None
        return PowerCurve.through(t_ns, value / 1e3)

    def _moving(self, events: Events) -> Events:
        """Believed readings of polled power, less those of a sensor that stood still."""
        events = self._valid(events)
        t_ns = (events["t0_ns"] + events["t1_ns"]) // 2
        frozen = plausible.held_for_long(events["value"], t_ns)
        self._fault(plausible.POLLED_FROZEN, plausible.around(t_ns, frozen))
        moving: Events = events[~frozen]
        return moving

    def _held(self, events: Events) -> PowerCurve | None:
        """Polled power, each value held from when it was first seen until the next one was."""
        events = self._moving(events)
        if len(events) < 2:
            return None
        t_ns, keep = np.unique((events["t0_ns"] + events["t1_ns"]) // 2, return_index=True)
        if len(t_ns) < 2:
            return None
        return PowerCurve.holding(t_ns, events["value"][keep] / 1e3, _hold_ns(np.diff(t_ns)))

    def _true_power(self, shape: PowerCurve) -> PowerCurve:
        """The power source in true time: its lag taken off and, for the ring, its low-pass undone.

        The lag that was fitted is that of the low-pass and a delay together.
        """
        lag_ns = round(self.counter.shape_lag_ns)
        if shape is not self.ring:
            return shape.shifted(-lag_ns)
        return shape.sharpened(RING_LOWPASS_S).shifted(round(RING_LOWPASS_S * S_NS) - lag_ns)

    def _anchored(self, shape: PowerCurve | None) -> Anchored | None:
        """The counter's ticks with the shape between them; None where there are too few, or it does not fit."""
        ticks_ns, energy_j = self.counter.ticks_ns, self.counter.energy_j
        if shape is not None:
            inside = (ticks_ns >= shape.t_ns[0]) & (ticks_ns <= shape.t_ns[-1])
            ticks_ns, energy_j = ticks_ns[inside], energy_j[inside]
        if len(ticks_ns) < 2:
            return None
        if shape is not None and (np.diff(shape.at(ticks_ns)) <= 0).any():
            return None
        scaled = self.scaled
        known = None if scaled is None or len(ticks_ns) != len(scaled.ticks_ns) else scaled.steps
        return Anchored(
            shape,
            ticks_ns,
            energy_j,
            self.counter,
            self._witnesses(),
            faulty=self._faulty,
            steps=known,
        )

    @property
    def _faulty(self) -> bool:
        """Whether a source was seen to be wrong anywhere in the trace: then what passes for chance may be wrong too."""
        wrong = set(self._faults) - set(plausible.STANDS_STILL)
        return bool(wrong) or self.counter.left_out > 0 or len(self.counter.breaks_ns) > 0

    def _witnesses(self) -> list[PowerCurve]:
        return ([] if self.shape is None else [self.shape]) + self._others

    # -- asking them ----------------------------------------------------------------------------

    def _by_counter(self, start_ns: int, end_ns: int) -> EnergyEstimate | None:
        ticks_ns = self.counter.ticks_ns
        if len(ticks_ns) < 2:
            return None
        if overlaps(self.counter.breaks_ns, start_ns, end_ns):
            return EnergyEstimate(None, None, None, ("counter_not_continuous",))
        if self.scaled is None or self.shape is None or not self.shape.covers(start_ns, end_ns):
            return self._counter_alone(start_ns, end_ns)
        if start_ns < ticks_ns[0] - MAX_EXTRAPOLATION_NS or end_ns > ticks_ns[-1] + MAX_EXTRAPOLATION_NS:
            return EnergyEstimate(None, None, None, ("counter_does_not_cover",))
        estimate = self.scaled.estimate(start_ns, end_ns, f"energy_counter+{self._shape_name}")
        reasons: list[str] = []
        if self.shape.has_gap(start_ns, end_ns):
            reasons.append("ring_gaps")
        return _with(estimate, tuple(reasons))

    def _counter_alone(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        ticks_ns = self.counter.ticks_ns
        if overlaps(self.counter.breaks_ns, start_ns, end_ns):
            return EnergyEstimate(None, None, None, ("counter_not_continuous",))
        if self.straight is None or start_ns < ticks_ns[0] or end_ns > ticks_ns[-1]:
            return EnergyEstimate(None, None, None, ("counter_does_not_cover",))
        return self.straight.estimate(start_ns, end_ns, "energy_counter")

    def _by_power(self, curve: PowerCurve, start_ns: int, end_ns: int, name: str) -> EnergyEstimate:
        asked = name, start_ns, end_ns
        if asked not in self._alone:
            self._alone[asked] = _integral(curve, start_ns, end_ns, name)
        return self._alone[asked]

    def _by_average(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        asked = "power_average", start_ns, end_ns
        if asked not in self._alone:
            self._alone[asked] = self._box(start_ns, end_ns)
        return self._alone[asked]

    @cached_property
    def _boxes(self) -> tuple[Ints, Ints, float, int]:
        """Readings of averaged power [mW], when [ns], how long one holds, and the usual distance of two [ns]."""
        t_ns = (self._average["t0_ns"] + self._average["t1_ns"]) // 2
        steps_ns = np.diff(t_ns)
        return (
            np.ascontiguousarray(self._average["value"]),
            t_ns,
            _hold_ns(steps_ns),
            int(np.median(steps_ns)),
        )

    def _box(self, start_ns: int, end_ns: int) -> EnergyEstimate:
        """Averaged power: its value at t is the mean of [t - 1 s, t], so boxes laid end to end cover a window.

        Windows that are no whole number of boxes long get the rest, at their start, from the first box that lies in them: the one
        that ends with the rest holds what was drawn before.
        """
        if end_ns - start_ns < BOX_NS:
            return EnergyEstimate(None, None, None, ("shorter_than_averaging_window",))
        if len(self._average) < 2:
            return EnergyEstimate(None, None, None, ("outside_trace",))
        value_mw, t_ns, hold_ns, update_ns = self._boxes
        if start_ns < t_ns[0] or end_ns > t_ns[-1] + BOX_NS:
            return EnergyEstimate(None, None, None, ("outside_trace",))
        boxes = (end_ns - start_ns) // BOX_NS
        rest_ns = (end_ns - start_ns) - boxes * BOX_NS
        reads = np.append(end_ns - BOX_NS * np.arange(boxes), start_ns + BOX_NS)
        found = np.maximum(t_ns.searchsorted(reads, side="right") - 1, 0)
        if (reads - t_ns[found] > hold_ns).any():
            return EnergyEstimate(None, None, None, ("power_not_seen",))

        def told_j(late_ns: int) -> float:
            at = np.maximum(t_ns.searchsorted(reads + late_ns, side="right") - 1, 0)
            power_w = value_mw[at] / 1e3
            return float(power_w[:-1].sum() * (BOX_NS / S_NS) + power_w[-1] * rest_ns / S_NS)

        energy_j = told_j(0)
        # Each box is up to an update older than meant; that matters as far as power differs there. The mean moves by
        # (power now - power a second ago) x update / second from one update to the next: so much does power swing.
        update_s = update_ns / S_NS
        inside = (t_ns >= start_ns) & (t_ns <= end_ns)
        moves_w = np.diff(value_mw[inside] / 1e3)
        swing_w = (
            float(np.sqrt(np.mean(moves_w**2) / 2)) * (BOX_NS / S_NS / update_s) if len(moves_w) else 0.0
        )
        stale_j = update_s / 12**0.5 * swing_w * float(np.sqrt(2 * (boxes + 1)))
        # The first box says of the rest what it says of all it covers. How unlike the two are, the box a rest later tells.
        later = max(int(t_ns.searchsorted(reads[-1] + rest_ns, side="right")) - 1, 0)
        unlike_w = float(abs(value_mw[later] - value_mw[found[-1]])) / 1e3
        rest_j = (1 - rest_ns / BOX_NS) * unlike_w * BOX_NS / S_NS
        # All boxes may be an update early or late alike: a window that begins and ends with the load loses by it.
        parts = {
            "edges": float(np.hypot(stale_j, rest_j)),
            "alignment": max(abs(told_j(way) - energy_j) for way in (-update_ns, update_ns)),
        }
        return estimated(energy_j, end_ns - start_ns, "power_average", parts)

    def _window_notes(self, start_ns: int, end_ns: int) -> tuple[str, ...]:
        return tuple(
            code
            for code, spans in self._faults.items()
            if any(overlaps(one, start_ns, end_ns) for one in spans)
        )

    def _error_spans(self, sources: Mapping[Source, Events]) -> None:
        """Stretches in which a source of power or energy returned an error.

        A source that never worked is absent, not failing.
        """
        for source in (Source.ENERGY_COUNTER, Source.POWER_SAMPLES, Source.POWER_INSTANT, Source.POWER_USAGE):
            events = sources[source]
            bad = events["nvml_return"] != 0
            if not bad.any() or bad.all():
                continue
            starts = events["t0_ns"][bad]
            following = np.append(events["t0_ns"][1:], events["t1_ns"][-1])[bad]
            spans = np.stack((starts, np.maximum(following, starts + 1)), axis=1)
            self._fault(f"{source.name.lower()}_errors", spans)


def _check(start_ns: int, end_ns: int) -> None:
    if end_ns <= start_ns:
        raise ValueError(f"the interval must end after it starts, got [{start_ns}, {end_ns}]")


def _with(estimate: EnergyEstimate, reasons: tuple[str, ...]) -> EnergyEstimate:
    return replace(estimate, reasons=tuple(dict.fromkeys((*estimate.reasons, *reasons))))


def _hold_ns(steps_ns: Ints) -> float:
    """How long a polled value holds; heartbeats may have been set further apart than usual."""
    return max(float(LONGEST_HOLD_NS), 1.5 * float(np.quantile(steps_ns, 0.99)))


def _integral(
    curve: PowerCurve, start_ns: int, end_ns: int, name: str, lag_sd_s: float = POWER_LAG_SD_S
) -> EnergyEstimate:
    """Power alone: nothing ties the curve down, so its errors add up over the whole interval."""
    if not curve.covers(start_ns, end_ns):
        return EnergyEstimate(None, None, None, ("outside_trace",))
    if curve.longest_gap_ns(start_ns, end_ns) > LONGEST_GAP_NS:
        return EnergyEstimate(None, None, None, ("power_not_seen",))
    reasons = ("ring_gaps",) if curve.has_gap(start_ns, end_ns) else ()
    by_ns = round(max(lag_sd_s, curve.usual_s / 2) * S_NS)
    ways = np.array([0, -by_ns, by_ns], np.int64)
    low_j, high_j = curve.at(np.stack((start_ns + ways, end_ns + ways)))
    value_j, *moved_j = (high_j - low_j).tolist()
    inside = (curve.t_ns[1:] > start_ns) & (curve.t_ns[:-1] < end_ns)
    h = curve.lengths_s[inside]
    steep = float(np.sum((h * curve.change_w[inside]) ** 2))
    seconds = (end_ns - start_ns) / S_NS
    steepness = HELD_STEEPNESS if curve.held else PRIOR_STEEPNESS
    parts = {
        "shape": float(np.sqrt(steepness * steep + PRIOR_FLOOR_J2_PER_S * seconds)),
        "alignment": max(abs(moved - value_j) for moved in moved_j),
    }
    return _with(estimated(value_j, end_ns - start_ns, name, parts), reasons)


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
