"""How work grows with its size: a machine's speed is no part of that."""

from __future__ import annotations

import time
from collections.abc import Callable


def growth(prepare: Callable[[int], Callable[[], object]], size: int, factor: int) -> float:
    """CPU time of work of `factor` times the size, relative to that of `size`: about `factor` where it is linear.

    `prepare` makes the work of a size, which may be done several times; the shortest of three is taken.
    """
    return _cpu_s(prepare(size * factor)) / _cpu_s(prepare(size))


def _cpu_s(work: Callable[[], object]) -> float:
    took_s = []
    for _ in range(3):
        begin_s = time.process_time()
        work()
        took_s.append(time.process_time() - begin_s)
    return min(took_s)
