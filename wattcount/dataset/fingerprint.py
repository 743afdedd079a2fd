"""Fingerprints of power traces, and an index that finds a stretch again: moved, scaled or resampled.

A fingerprint is the ring's power without what is slower than half a second, by its own local size and clipped: neither an offset nor a
factor changes it. Looking for it goes in two steps::

    windows of 64 samples --> signs of random projections --> windows of other traces with the same signs
        --> traces whose windows lie on one line --> correlation of stretches along this line

The first step only proposes; the correlation decides. Two honest runs of one setting, with one seed and the same arrivals, move alike,
but the samples fall elsewhere and the noise is another: how alike they get, docs/forgeries.md tells.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.dataset import signs
from wattcount.energy.curve import Floats, Ints
from wattcount.records import Record

Shape = NDArray[np.int8]

SLOW_SAMPLES = 25
"""Length of the running mean that is taken off [samples]. Chosen: half a second, so that phases and rounds tell nothing."""
SIZE_SAMPLES = 101
"""Length of the running mean of sizes that a sample is divided by [samples]. Chosen: two seconds."""
LEAST_SIZE_MW = 100.0
"""Least of these sizes [mW]. Chosen: less than the converter's smallest step, which is what an idle board shows."""
CLIP = 2.0
"""Largest value [local sizes]. Chosen: single jumps would decide a correlation."""
UNIT = 60
"""Steps of a fingerprint to one local size. Derived: `CLIP` of them fit into a signed byte."""
LONGEST_SAMPLES = 1 << 20
"""Most samples of a fingerprint that is read. Chosen: six hours; a longer one is somebody's bomb."""

WINDOW = 64
"""Samples of a window that is looked up. Chosen: 1.3 s, in which a few percent of another speed matter little."""
BINS = 16
"""Parts of a window that are told apart. Derived: four samples each, so that a part of a sample matters little."""
TABLES, BITS = 4, 20
"""Tables, and signs to each. Chosen: a million values, more than a large data set has windows to a place."""
STRIDE = 8
"""Distance of the windows that an index keeps [samples]. Chosen: for its size; of a query four times as many are looked up."""
QUERY_STRIDE = 2
"""Distance of the windows that are looked up [samples]. Chosen: half a part of a window, so that one of them fits."""
CROWD = 12
"""Most windows with the same signs that are looked at. Chosen: more share a shape that says nothing."""
SPEEDS = (0.90, 0.95, 1.0, 1.05, 1.10)
"""Speeds of a query that are tried. Chosen: windows are found within half of their distance."""
VOTES = 12
"""Fewest windows on one line for a trace to be compared, each counted once a table. Chosen: ten seconds that are the same give 240, chance a few."""
CANDIDATES = 4
"""Most traces that a query is compared with. Chosen: for the time; a copy is the first of them."""
LINE_SAMPLES = 50
"""Width of a line's place in the count of votes [samples]. Chosen: a second."""
SHORT, LONG = 256, 1024
"""Lengths of the stretches that are correlated [samples]: 5 s, and 20 s."""

_PROJECTIONS: Floats = np.random.default_rng(1789).standard_normal((BINS, TABLES * BITS))
_WEIGHTS: Ints = 1 << np.arange(BITS, dtype=np.int64)


def shape_of(value_mw: Ints) -> Shape:
    """The fingerprint of a ring's readings."""
    value = value_mw.astype(np.float64)
    quick = value - _mean(value, SLOW_SAMPLES)
    size = np.maximum(_mean(np.abs(quick), SIZE_SAMPLES), LEAST_SIZE_MW)
    shape: Shape = np.round(np.clip(quick / size, -CLIP, CLIP) * UNIT).astype(np.int8)
    return shape


def _mean(value: Floats, length: int) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(value)))
    at = np.arange(len(value))
    low, high = np.maximum(at - length // 2, 0), np.minimum(at + length // 2 + 1, len(value))
    return np.asarray((total[high] - total[low]) / (high - low), np.float64)


def fingerprints(record: Record) -> list[str]:
    """One text for each GPU, in the order of the record; empty where its ring has too few samples."""
    found = []
    for trace in signs.traces(record):
        value = trace.samples[1]
        found.append(to_text(shape_of(value)) if len(value) >= 2 * SHORT else "")
    return found


def to_text(shape: Shape) -> str:
    return base64.b85encode(zlib.compress(shape.tobytes(), 9)).decode()


def of_text(text: str) -> Shape:
    """ValueError for what is none; no more is unpacked than a fingerprint may have."""
    try:
        unpack = zlib.decompressobj()
        content = unpack.decompress(base64.b85decode(text), LONGEST_SAMPLES)
    except (ValueError, zlib.error, binascii.Error) as error:
        raise ValueError(f"no fingerprint: {error}") from None
    if unpack.unconsumed_tail or not unpack.eof:
        raise ValueError("no fingerprint: it is cut short, or too long")
    return np.frombuffer(content, np.int8)


@dataclass(frozen=True)
class Match:
    """Where a trace was found again.

    name         of the other trace
    short        second largest correlation of the 5 s stretches: two of them are that much alike
    long         largest correlation of a 20 s stretch; 0: there is none so long
    speed        of the query against the other
    at_s         where the most alike stretch begins in the query, and
    other_at_s   in the other [s since its first sample]
    """

    name: str
    short: float
    long: float
    speed: float
    at_s: float
    other_at_s: float


class Index:
    """Fingerprints by name, and which of them have windows like those of a query."""

    def __init__(self, known: Mapping[str, Shape] | Iterable[tuple[str, Shape]] = ()) -> None:
        self._names: list[str] = []
        self._shapes: list[Shape] = []
        self._new: list[tuple[Ints, int]] = []
        empty = np.empty(0, np.int64)
        self._keys: list[Ints] = [empty] * TABLES
        self._traces: list[Ints] = [empty] * TABLES
        self._places: list[Ints] = [empty] * TABLES
        for name, shape in dict(known).items():
            self.add(name, shape)

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, shape: Shape) -> None:
        self._new.append((_signs(shape.astype(np.float64), STRIDE), len(self._names)))
        self._names.append(name)
        self._shapes.append(shape)

    def matches(self, shape: Shape, but: frozenset[str] = frozenset()) -> list[Match]:
        """Traces that a query has stretches in common with, as far as they are alike at all; the most alike first.

        but   names that are left out
        """
        self._sort()
        query = shape.astype(np.float64)
        votes: dict[tuple[int, int, float], list[tuple[Ints, Ints]]] = {}
        for speed in SPEEDS:
            for trace, line, at, other in self._votes(_at_speed(query, speed), speed):
                votes.setdefault((trace, line, speed), []).append((at, other))
        best: dict[int, tuple[int, float, Ints, Ints]] = {}
        for (trace, _, speed), pairs in votes.items():
            at = np.concatenate([one for one, _ in pairs])
            other = np.concatenate([one for _, one in pairs])
            if trace not in best or len(at) > best[trace][0]:
                best[trace] = (len(at), speed, at, other)
        chosen = [item for item in best.items() if self._names[item[0]] not in but]
        chosen.sort(key=lambda item: -item[1][0])
        found = [
            self._compare(query, trace, speed, at, other)
            for trace, (_, speed, at, other) in chosen[:CANDIDATES]
        ]
        return sorted(found, key=lambda match: -max(match.short, match.long))

    def _sort(self) -> None:
        if not self._new:
            return
        for table in range(TABLES):
            keys = np.concatenate([self._keys[table], *(one[:, table] for one, _ in self._new)])
            traces = np.concatenate([self._traces[table], *(np.full(len(one), n) for one, n in self._new)])
            places = np.concatenate(
                [self._places[table], *(np.arange(len(one)) * STRIDE for one, _ in self._new)]
            )
            order = np.argsort(keys, kind="stable")
            self._keys[table], self._traces[table], self._places[table] = (
                keys[order],
                traces[order],
                places[order],
            )
        self._new = []

    def _votes(self, query: Floats, speed: float) -> list[tuple[int, int, Ints, Ints]]:
        """(trace, line, places in the query, places in the trace) where enough windows lie on one line."""
        told = _signs(query, QUERY_STRIDE)
        traces, at, other = [], [], []
        for table in range(TABLES):
            low = np.searchsorted(self._keys[table], told[:, table], side="left")
            count = np.searchsorted(self._keys[table], told[:, table], side="right") - low
            count[(count > CROWD) | (told[:, table] < 0)] = 0
            which = np.repeat(np.arange(len(told)) * QUERY_STRIDE, count)
            hit = np.repeat(low, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            traces.append(self._traces[table][hit])
            other.append(self._places[table][hit])
            at.append(which)
        trace, here, there = (np.concatenate(one).astype(np.int64) for one in (traces, at, other))
        if not len(trace):
            return []
        # By places of half the width too, so that no line is cut in two.
        line = (there - here + (1 << 22)) // LINE_SAMPLES
        order = np.lexsort((line, trace))
        trace, line, here, there = trace[order], line[order], here[order], there[order]
        edges = np.flatnonzero(np.concatenate(([True], (np.diff(trace) != 0) | (np.diff(line) != 0), [True])))
        lengths = np.diff(edges)
        found = []
        for start in np.flatnonzero(lengths >= VOTES):
            part = slice(edges[start], edges[start + 1])
            places = np.round(here[part] * speed).astype(np.int64)
            found.append((int(trace[edges[start]]), int(line[edges[start]]), places, there[part]))
        return found

    def _compare(self, query: Floats, trace: int, speed: float, at: Ints, other: Ints) -> Match:
        shape = self._shapes[trace].astype(np.float64)
        # The windows tell the speed more closely: the line through them.
        tried = [speed]
        if len(at) > 1 and np.ptp(at) > 2 * SHORT:
            slopes = np.polyfit(other, at, 1)
            tried.append(float(slopes[0]))
        best: Match | None = None
        for one in tried:
            if not SPEEDS[0] * 0.97 < one < SPEEDS[-1] * 1.03:
                continue
            if abs(one - 1.0) < 2e-4:
                one = 1.0
            moved = _at_speed(query, one)
            short, at_short, other_short = _alike(moved, shape, SHORT)
            long = _alike(moved, shape, LONG)[0]
            second = float(np.sort(short)[-2]) if len(short) > 1 else 0.0
            top = int(np.argmax(short)) if len(short) else 0
            step_s = signs.RING_PERIOD_NS / 1e9
            match = Match(
                self._names[trace], second, float(long.max(initial=0.0)), one,
                float(at_short[top] * one * step_s) if len(short) else 0.0,
                float(other_short[top] * step_s) if len(short) else 0.0,
            )  # fmt: skip
            if best is None or max(match.short, match.long) > max(best.short, best.long):
                best = match
        assert best is not None
        return best


def _at_speed(query: Floats, speed: float) -> Floats:
    """The query as it would be if it had been sampled so many times as slowly."""
    if speed == 1.0:
        return query
    places = np.arange(0.0, len(query) - 1, speed)
    return np.asarray(np.interp(places, np.arange(len(query)), query), np.float64)


def _signs(shape: Floats, stride: int) -> Ints:
    """Signs of the projections of every `stride`th window, as numbers [windows, TABLES]; -1: a window that stands still."""
    count = (len(shape) - WINDOW) // stride + 1
    if count <= 0:
        return np.empty((0, TABLES), np.int64)
    total = np.concatenate(([0.0], np.cumsum(shape)))
    edges = np.arange(count)[:, None] * stride + np.arange(0, WINDOW + 1, WINDOW // BINS)[None, :]
    bins = np.diff(total[edges], axis=1)
    bins -= bins.mean(axis=1, keepdims=True)
    bits = (bins @ _PROJECTIONS > 0).reshape(count, TABLES, BITS)
    numbers: Ints = (bits * _WEIGHTS).sum(axis=2)
    numbers[np.abs(bins).max(axis=1) < UNIT / 2] = -1
    return numbers


def _alike(query: Floats, shape: Floats, length: int) -> tuple[Floats, Ints, Ints]:
    """Of each stretch of the query its largest correlation with one of the other, where it begins, and where that one does."""
    count = len(query) // length
    if not count or len(shape) < length:
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    size = 1 << int(np.ceil(np.log2(len(shape) + length)))
    total, squares = (np.concatenate(([0.0], np.cumsum(one))) for one in (shape, shape**2))
    sums = total[length:] - total[:-length]
    spread = np.sqrt(np.maximum(squares[length:] - squares[:-length] - sums**2 / length, 0.0))
    parts = query[: count * length].reshape(count, length)
    parts = parts - parts.mean(axis=1, keepdims=True)
    norms = np.sqrt((parts**2).sum(axis=1))
    across = np.fft.irfft(np.conj(np.fft.rfft(parts, size, axis=1)) * np.fft.rfft(shape, size), size, axis=1)
    # A stretch that stands still is like no other.
    least = UNIT / 4 * length**0.5
    ratio = across[:, : len(sums)] / np.maximum(spread, least) / np.maximum(norms, least)[:, None]
    at = ratio.argmax(axis=1)
    return ratio[np.arange(count), at], np.arange(count) * length, at


REPEAT = 50
"""Samples of a stretch that is there twice in one trace. Chosen: a second."""
REPEAT_VALUES = 8
"""Fewest different values in it. Chosen: a sensor that stands still repeats itself, too."""


def repeated(value_mw: Ints) -> tuple[int, int] | None:
    """Where a stretch of `REPEAT` samples of a trace begins, and where the same values come again; None: nowhere."""
    if len(value_mw) < 2 * REPEAT:
        return None
    with np.errstate(over="ignore"):
        numbers = np.zeros(len(value_mw) - REPEAT + 1, np.uint64)
        for way in range(REPEAT):
            numbers = numbers * np.uint64(1_099_511_628_211) + value_mw[way : way + len(numbers)].astype(
                np.uint64
            )
    order = np.argsort(numbers, kind="stable")
    same = np.flatnonzero(np.diff(numbers[order]) == 0)
    for place in same.tolist():
        first, second = int(order[place]), int(order[place + 1])
        stretch = value_mw[first : first + REPEAT]
        if (
            second - first >= REPEAT
            and len(np.unique(stretch)) >= REPEAT_VALUES
            and np.array_equal(stretch, value_mw[second : second + REPEAT])
        ):
            return first, second
    return None
