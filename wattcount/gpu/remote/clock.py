"""The difference of two machines' CLOCK_MONOTONIC, and what bounds it.

A ping leaves here at c0, comes there at s1, is answered at s2, and the answer comes here at c3. Whatever the ways take, both take
some time, so the difference D = their clock - our clock lies between

    s2 - c3 <= D <= s1 - c0        (D. L. Mills, RFC 5905, section 8: half the round trip bounds the error)

Stamps that are taken too late on arrival, or too early on departure, only widen it. Between pings D changes by at most `DRIFTS` x time.
So each ping bounds D at every moment, and D lies in the intersection of all. Nothing is assumed of how alike both ways are.

While events come in, they are translated by a line from one batch to the next, which is never changed afterwards. How far that
line may be off is found from all pings, also the later ones.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

DRIFTS = (1e-4, 1e-3, 1e-2)
"""Largest difference of both clocks' speeds [s/s]: the first with which no two pings contradict each other. Stated: crystals are within
some 5e-5 of their frequency each; NTP slews CLOCK_MONOTONIC by 5e-4 (adjtime), chrony by more until it is synchronised."""
SLEW = 1e-3
"""Largest change of the translation [s/s], so that it never runs backwards. Chosen: a better ping may move it by 1 ms in a second."""
RECENT = 512
"""Pings that the translation of new events rests on. Chosen: more than a minute of them."""
SHOWN_KNOTS = 100
"""Most knots of the translation that a record keeps. Chosen: the whole of a run at a glance, in some kilobytes."""


class ClockOffset:
    """Pings, and the translation of their times to ours. Threads may use it beside each other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pings: list[tuple[int, int, int, int]] = []
        self._knots: list[tuple[int, float]] = []
        """(their time [ns], D less `_base_ns` [ns]), in the order of time."""
        self._base_ns: int | None = None
        self.contradicted = False
        """Whether pings of the last minute contradict each other."""

    def add(self, c0_ns: int, s1_ns: int, s2_ns: int, c3_ns: int) -> None:
        """A ping. Raises ValueError for stamps in an impossible order."""
        if c3_ns < c0_ns or s2_ns < s1_ns or s2_ns - s1_ns > c3_ns - c0_ns + _slack_ns(s2_ns - s1_ns):
            raise ValueError("stamps that are not in the order of time")
        with self._lock:
            if self._base_ns is None:
                self._base_ns = s1_ns - c0_ns
            self._pings.append((c0_ns, s1_ns, s2_ns, c3_ns))

    def commit(self, at_ns: int) -> None:
        """Goes on with the translation to their time `at_ns`, by the pings up to now."""
        with self._lock:
            pings = np.array(self._pings[-RECENT:], np.int64)
            low, high, drift_bound = self._bounds(pings, np.array([at_ns], np.int64))
            self.contradicted |= drift_bound is None
            offset_ns = float(low[0] + high[0]) / 2
            if self._knots:
                last_ns, last = self._knots[-1]
                if at_ns <= last_ns:
                    return
                most = SLEW * (at_ns - last_ns)
                offset_ns = min(max(offset_ns, last - most), last + most)
            self._knots.append((at_ns, offset_ns))

    def commit_last(self) -> None:
        """`commit` up to the last ping."""
        self.commit(self._pings[-1][2])

    def to_local(self, their_ns: Ints) -> Ints:
        """Our times of theirs [ns], by the translation as far as it was committed; beyond, its last difference holds."""
        with self._lock:
            assert self._base_ns is not None
            base_ns = self._base_ns
            knots_ns, offsets = self._arrays()
        first_ns = int(knots_ns[0])
        offset = np.interp((their_ns - first_ns).astype(float), (knots_ns - first_ns).astype(float), offsets)
        local: Ints = their_ns - base_ns - np.round(offset).astype(np.int64)
        return local

    def to_json(self) -> dict[str, Any]:
        """What a record keeps.

        pings, round_trip_min_ns, round_trip_p50_ns
        offset_ns    their clock less ours, at the middle of the translation
        drift        by how much their clock is faster [s/s]; null below three knots
        drift_bound  the one of `DRIFTS` that was allowed; null: the pings contradict each other, a clock was set or stood still
        bound_ns     most by which a translated time may be off
        knots        [our time ns, difference ns, most by which it may be off ns]
        """
        with self._lock:
            pings = np.array(self._pings, np.int64)
            knots_ns, offsets = self._arrays()
            base_ns = self._base_ns or 0
            low, high, drift_bound = self._bounds(pings, knots_ns)
        off_ns = np.maximum(high - offsets, offsets - low)
        # Between two knots the difference may have moved away and come back.
        apart_ns = np.diff(knots_ns, prepend=knots_ns[0])
        off_ns = off_ns + (drift_bound or DRIFTS[0]) * apart_ns / 2
        round_trips = (pings[:, 3] - pings[:, 0]) - (pings[:, 2] - pings[:, 1])
        since_ns, drift = (knots_ns - knots_ns[0]).astype(float), None
        if len(knots_ns) > 2:
            drift = float(np.polyfit(since_ns, (low + high) / 2, 1)[0])
        shown = np.unique(np.linspace(0, len(knots_ns) - 1, SHOWN_KNOTS).astype(int))
        differences = [base_ns + round(offset) for offset in offsets.tolist()]
        return {
            "pings": len(pings),
            "round_trip_min_ns": int(round_trips.min()),
            "round_trip_p50_ns": int(np.median(round_trips)),
            "offset_ns": differences[len(differences) // 2],
            "drift": drift,
            "drift_bound": drift_bound,
            "bound_ns": int(np.ceil(off_ns.max())),
            "knots": [
                [int(knots_ns[k]) - differences[k], differences[k], int(np.ceil(off_ns[k]))]
                for k in shown.tolist()
            ],
        }

    def _arrays(self) -> tuple[Ints, Floats]:
        return np.array([at for at, _ in self._knots], np.int64), np.array(
            [offset for _, offset in self._knots]
        )

    def _bounds(self, pings: Ints, at_ns: Ints) -> tuple[Floats, Floats, float | None]:
        """(least, most D less the base) at their times, float64 [ns], and the drift that was allowed; None: none is enough."""
        base_ns = self._base_ns or 0
        order = np.argsort(pings[:, 1] + pings[:, 2])
        c0, s1, s2, c3 = pings[order].T
        origin = int(s1[0])
        t, asked = ((s1 + s2) // 2 - origin).astype(float), (at_ns - origin).astype(float)
        low, high = (s2 - c3 - base_ns).astype(float), (s1 - c0 - base_ns).astype(float)
        for drift in DRIFTS:
            # D is bounded at s1 and at s2, both off the middle by half of what the answer took.
            away = drift * (s2 - s1) / 2
            least, negated = _highest(t, low - away, t, drift), _highest(t, -(high + away), t, drift)
            if (least <= -negated).all():
                break
        else:
            return np.full(len(at_ns), low.min()), np.full(len(at_ns), high.max()), None
        return _highest(t, low - away, asked, drift), -_highest(t, -(high + away), asked, drift), drift


def _highest(t: Floats, values: Floats, asked: Floats, drift: float) -> Floats:
    """The highest of `values` - `drift` x |time between|, at each time asked; `t` in order."""
    before = np.concatenate(([-np.inf], np.maximum.accumulate(values + drift * t)))
    after = np.concatenate((np.maximum.accumulate((values - drift * t)[::-1])[::-1], [-np.inf]))
    k = np.searchsorted(t, asked, side="right")
    highest: Floats = np.maximum(before[k] - drift * asked, after[k] + drift * asked)
    return highest


def _slack_ns(length_ns: int) -> int:
    return 1 + round(DRIFTS[-1] * length_ns)
