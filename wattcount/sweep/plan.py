"""What a sweep asks for: every point and repeat in the order in which they are measured, what is done of it, what cannot be."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from wattcount.config.schema import SweepOrder
from wattcount.sweep.outcome import State

INVALID_BEFORE = "invalid_before"
"""Reason of a planned skip: its record is there, but invalid, and not asked to be measured again."""


@dataclass(frozen=True)
class Point:
    """One point and repeat of a sweep, as planned.

    key        12 hexadecimal digits: the point as planned, with seed and repeat; see `identity.planned_key`
    point      12 hexadecimal digits of `config.identity.planned_point`: the same for all its repeats
    overrides  what Hydra makes its configuration from
    load       for people: `512 requests`, `0.33/s`
    state      waiting: to be measured; done: it has a valid record; or skipped
    reason     stable code of a skip; `message` has the arithmetic
    record     path, of a done one
    wall_s, energy_j   expected of a run [s], [J] (energy: of its GPUs, from start to end), as `basis` says:
               `measured` (mean of like records) or `predicted`; None: not known
    session    12 hexadecimal digits that points have in common which go on one start of the engine; None: it needs its own
    """

    key: str
    overrides: tuple[str, ...]
    model: str
    gpu: str
    scenario: str
    load: str
    seed: int
    repeat: int
    state: State = State.waiting
    reason: str | None = None
    message: str | None = None
    record: str | None = None
    wall_s: float | None = None
    energy_j: float | None = None
    basis: str | None = None
    point: str | None = None
    session: str | None = None

    @property
    def label(self) -> str:
        """`llama3_8b on h200, server 4 requests/s, r0`."""
        return f"{self.model} on {self.gpu}, {self.load}, r{self.repeat}"


@dataclass(frozen=True)
class Plan:
    """A sweep's points in the order in which they are to be measured.

    arguments   what followed `python -m wattcount`, to start the same sweep again
    """

    name: str
    points: tuple[Point, ...]
    created_utc: str
    arguments: tuple[str, ...]

    def in_state(self, state: State) -> list[Point]:
        return [point for point in self.points if point.state is state]


def ordered(points: Sequence[Point], order: SweepOrder, seed: int) -> list[Point]:
    """`blocks`: one repeat of every point, in random order, then the next; the same order for the same `seed`.

    A GPU, a room and a driver drift over days. Were the points measured as they are listed, one model after the other,
    drift would look like a difference between models; with each point's repeats in a row, it would look like precision.

    Points that share a start of the engine follow each other, in random order: what is drawn first is the order of the starts.

    A point's place within its block depends on its own key, its session and the seed alone, so a sweep that is restarted, or has
    got more points, keeps the order of those that it had.
    """
    if order is SweepOrder.given:
        return list(points)

    def place(point: Point) -> tuple[int, int, bytes, bytes]:
        return point.repeat, point.seed, _draw(seed, point.session or point.key), _draw(seed, point.key)

    return sorted(points, key=place)


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()
