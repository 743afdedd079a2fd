"""In which order a sweep's points are measured.

A GPU, a room and a driver drift over days. Were the points measured as they are listed, one model after the other,
drift would look like a difference between models; with each point's repeats in a row, it would look like precision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from wattcount.config.schema import SweepOrder
from wattcount.sweep.plan import PlannedPoint


def ordered(points: Sequence[PlannedPoint], order: SweepOrder, seed: int) -> list[PlannedPoint]:
    """`blocks`: one repeat of every point, in random order, then the next; the same order for the same `seed`.

    A point's place within its block depends on its own key and the seed alone, so a sweep that is restarted, or has
    got more points, keeps the order of those that it had.
    """
    if order is SweepOrder.given:
        return list(points)
    return sorted(points, key=lambda point: (point.repeat, point.seed, _draw(seed, point.key)))


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()
