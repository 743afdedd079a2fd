"""The one clock of wattcount: CLOCK_MONOTONIC in integer nanoseconds.

`time.monotonic_ns()` reads CLOCK_MONOTONIC on Linux, the same clock as the stamps of engines and
of the native sampler. UTC is never stored with an observation; it is derived from a `ClockPair`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_monotonic_ns: Callable[[], int] = time.monotonic_ns
"""The reader of CLOCK_MONOTONIC [ns]. Tests replace it by a virtual clock."""


def now_ns() -> int:
    """CLOCK_MONOTONIC now, nanoseconds."""
    return _monotonic_ns()


@dataclass(frozen=True)
class ClockPair:
    """One simultaneous reading of both clocks, nanoseconds; off by at most `bracket_ns` / 2."""

    monotonic_ns: int
    utc_ns: int
    bracket_ns: int

    @classmethod
    def read(cls, attempts: int = 5) -> ClockPair:
        """The tightest of `attempts` readings of CLOCK_REALTIME between two of CLOCK_MONOTONIC."""
        best: ClockPair | None = None
        for _ in range(attempts):
            before = _monotonic_ns()
            utc = time.time_ns()
            after = _monotonic_ns()
            if best is None or after - before < best.bracket_ns:
                best = cls((before + after) // 2, utc, after - before)
        assert best is not None
        return best
