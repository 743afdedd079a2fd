"""Which stretch of a run its numbers speak of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wattcount.records.schema import Phase, PhaseSpan


@dataclass(frozen=True)
class Window:
    """A stretch of a run, CLOCK_MONOTONIC nanoseconds.

    What *begins* counts where `start_ns <= t < end_ns` (sends), what is *finished* counts where
    `start_ns < t <= end_ns` (tokens, completions): adjacent windows share nothing and lose nothing, and a
    batch that spans first send to last token holds both.

    complete  False: the run broke off inside it, and `end_ns` is as far as energy is known
    """

    start_ns: int
    end_ns: int
    complete: bool = True

    @property
    def duration_s(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9

    def to_json(self) -> dict[str, int | float | bool]:
        return {
            "start_ns": self.start_ns,
            "end_ns": self.end_ns,
            "duration_s": self.duration_s,
            "complete": self.complete,
        }


def phase_window(
    phases: Iterable[PhaseSpan], phase: Phase, last_observed_ns: int | None = None
) -> Window | None:
    """The stretch of `phase`; None where the run never got there.

    A phase that did not end is cut at `last_observed_ns`; None where nothing was observed in it.
    """
    for span in phases:
        if span.phase != phase:
            continue
        end_ns = span.end_ns if span.end_ns is not None else last_observed_ns
        if end_ns is None or end_ns <= span.start_ns:
            return None
        return Window(span.start_ns, end_ns, complete=span.end_ns is not None)
    return None
