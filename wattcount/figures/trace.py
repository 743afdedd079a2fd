"""A run over time, as few numbers as a screen can show: power, requests in flight, work of the steps, temperature, clocks.

::

    |  coarse stretches  |      fine stretches      | coarse |      time 0 is the window's start
    ^ first energy       ^ window                   ^        ^ last energy

Each value is the mean over its stretch, so that areas are right whatever the stretches are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wattcount.energy.events import Source
from wattcount.figures.labels import shown
from wattcount.metrics.attribution import located_steps
from wattcount.metrics.observations import (
    MISSING,
    Floats,
    Ints,
    Requests,
    Window,
    gpu_uuids,
    stretches,
)
from wattcount.metrics.window import Observed, last_energy_ns
from wattcount.metrics.work import Spans
from wattcount.records import Record
from wattcount.report.labels import PHASE_NAMES, board_label

IN_WINDOW = 600
"""Stretches of the window: one for each pixel of a phone's screen, twice."""
AROUND = 300
"""Stretches of all that is before and after the window."""
LEAST_NS = 20_000_000
"""Shortest stretch [ns]: the finest grid of power samples that is known, an H200's."""
DIGITS = 4
"""Significant digits of a value: more than a screen shows."""

WAITING, GENERATING = "waiting for the first token", "generating"
"""What a request in flight does."""
PREFILL, DECODE = "prefill", "decode"
"""What a step's tokens are of."""


@dataclass(frozen=True)
class PhaseSpan:
    """A phase; seconds since the window's start. `end_s` is as far as energy is known where the run broke off in it."""

    phase: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Series:
    """One line of a panel: `values[i]` holds in the i-th stretch of the trace; nan: nothing was seen."""

    name: str
    values: Floats


@dataclass(frozen=True)
class RunTrace:
    """What a run did over time.

    edges_s      bounds of the stretches, seconds since the window's start: one more than values
    power_w      of each GPU
    flight       requests in flight, by what they do
    tokens_per_s of the engine's steps, by what they compute; empty where the engine tells no steps
    celsius, mhz temperature and SM clock of each GPU
    """

    edges_s: Floats
    phases: tuple[PhaseSpan, ...]
    power_w: tuple[Series, ...]
    flight: tuple[Series, ...]
    tokens_per_s: tuple[Series, ...]
    celsius: tuple[Series, ...]
    mhz: tuple[Series, ...]

    @property
    def panels(self) -> Mapping[str, tuple[Series, ...]]:
        """By the name of its data in the spec of the picture."""
        return {
            "power": self.power_w,
            "flight": self.flight,
            "tokens": self.tokens_per_s,
            "temperature": self.celsius,
            "clock": self.mhz,
        }


def run_trace(record: Record, seen: Observed | None = None) -> RunTrace:
    """Works on records of failed runs too, as far as they go. `seen`: the record, where somebody else looks at it too."""
    seen = seen or Observed(record)
    last_ns = last_energy_ns(record)
    spans = _spans(record, last_ns)
    if not spans:
        nothing: tuple[Series, ...] = ()
        return RunTrace(np.empty(0), (), nothing, nothing, nothing, nothing, nothing)
    zero_ns = seen.window.start_ns if seen.window is not None else spans[0][1]
    edges_ns = _edges(spans[0][1], max(end for _, _, end in spans), seen.window)
    names = _gpu_names(record)
    return RunTrace(
        edges_s=(edges_ns - zero_ns) / 1e9,
        phases=tuple(
            PhaseSpan(name, (start - zero_ns) / 1e9, (end - zero_ns) / 1e9) for name, start, end in spans
        ),
        power_w=tuple(_power(record, edges_ns, names)),
        flight=tuple(_flight(seen.requests, edges_ns)),
        tokens_per_s=tuple(_tokens(record, seen.requests, edges_ns)),
        celsius=tuple(_held(record, edges_ns, names, Source.TEMPERATURE_GPU)),
        mhz=tuple(_held(record, edges_ns, names, Source.CLOCK_SM)),
    )


def _spans(record: Record, last_ns: int | None) -> list[tuple[str, int, int]]:
    """(name for people, start, end) of each phase that took some time."""
    found = []
    for span in record.info.phases:
        end_ns = span.end_ns if span.end_ns is not None else last_ns
        if end_ns is not None and end_ns > span.start_ns:
            found.append((PHASE_NAMES[span.phase], span.start_ns, end_ns))
    return found


def _gpu_names(record: Record) -> dict[str, str]:
    """By UUID what a GPU's line is called: its number and board, where there are several."""
    uuids = [uuid for uuid in gpu_uuids(record) if uuid in record.power.gpu_uuids]
    return {
        uuid: "GPU" if len(uuids) == 1 else f"GPU {index} ({shown(board_label(uuid))})"
        for index, uuid in enumerate(uuids)
    }


def _edges(first_ns: int, last_ns: int, window: Window | None) -> Ints:
    """Bounds of the stretches."""
    if window is None:
        return _even(first_ns, last_ns, IN_WINDOW)
    start_ns, end_ns = max(first_ns, window.start_ns), min(last_ns, window.end_ns)
    around_ns = max((start_ns - first_ns) + (last_ns - end_ns), 1)
    before = round(AROUND * (start_ns - first_ns) / around_ns)
    parts = (
        _even(first_ns, start_ns, before),
        _even(start_ns, end_ns, IN_WINDOW),
        _even(end_ns, last_ns, AROUND - before),
    )
    return np.unique(np.concatenate(parts))


def _even(start_ns: int, end_ns: int, most: int) -> Ints:
    """Bounds of at most `most` stretches, none shorter than LEAST_NS."""
    number = max(1, min(most, (end_ns - start_ns) // LEAST_NS))
    return start_ns + np.linspace(0, end_ns - start_ns, number + 1).astype(np.int64)


def _power(record: Record, edges_ns: Ints, names: Mapping[str, str]) -> Iterator[Series]:
    seconds = np.diff(edges_ns) / 1e9
    for uuid, name in names.items():
        bounds = record.power.bounds_ns(uuid)
        if bounds is None:
            continue
        power_w = np.diff(record.power.cumulative_j(uuid, edges_ns)) / seconds
        power_w[(edges_ns[:-1] < bounds[0]) | (edges_ns[1:] > bounds[1])] = np.nan
        yield Series(name, power_w)


def _flight(requests: Requests, edges_ns: Ints) -> Iterator[Series]:
    """Mean numbers of requests that wait, and that get tokens. One that never ended is there to the end of the trace."""
    sent = requests.actual_send_ns != MISSING
    if not sent.any():
        return
    end_of_all = int(edges_ns[-1])
    send = requests.actual_send_ns[sent]
    last = np.where(requests.completed[sent], requests.last_token_ns[sent], end_of_all)
    first = np.where(requests.first_token_ns[sent] != MISSING, requests.first_token_ns[sent], last)
    seconds = np.diff(edges_ns) / 1e9
    for name, start_ns, end_ns in ((WAITING, send, first), (GENERATING, first, last)):
        real = end_ns > start_ns
        there_s = (end_ns - start_ns)[real] / 1e9
        yield Series(name, Spans(start_ns[real], end_ns[real], there_s).between(edges_ns) / seconds)


def _tokens(record: Record, requests: Requests, edges_ns: Ints) -> Iterator[Series]:
    work = located_steps(record, requests)
    if work is None:
        return
    seconds = np.diff(edges_ns) / 1e9
    for name, tokens in ((PREFILL, work.prefill_tokens), (DECODE, work.decode_tokens)):
        yield Series(
            name, Spans(work.start_ns, work.end_ns, tokens.astype(np.float64)).between(edges_ns) / seconds
        )


def _held(record: Record, edges_ns: Ints, names: Mapping[str, str], source: Source) -> Iterator[Series]:
    """Mean over each stretch of a source that is kept when it changes; nan where nothing held in it."""
    whole = Window(int(edges_ns[0]), int(edges_ns[-1]))
    for uuid, name in names.items():
        value, start_ns, end_ns = stretches(record.power, record.power.gpu_uuids.index(uuid), source, whole)
        if not len(value):
            continue
        held_s = Spans(start_ns, end_ns, (end_ns - start_ns) / 1e9).between(edges_ns)
        summed = Spans(start_ns, end_ns, value * (end_ns - start_ns) / 1e9).between(edges_ns)
        with np.errstate(divide="ignore", invalid="ignore"):
            yield Series(name, np.where(held_s > 0, summed / held_s, np.nan))


def rounded(values: Floats) -> list[float | None]:
    """Values to DIGITS significant digits, as short as JSON can have them; None for nan."""
    return [None if np.isnan(value) else _short(float(f"{value:.{DIGITS}g}")) for value in values.tolist()]


def _short(value: float) -> Any:
    return int(value) if value.is_integer() else value
