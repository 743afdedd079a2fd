"""What a sweep asks for: every point and repeat, what is done of it, and what cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

INVALID_BEFORE = "invalid_before"
"""Reason of a planned skip: its record is there, but invalid, and not asked to be measured again."""


class PlanState(Enum):
    """What becomes of a planned point when the sweep is started."""

    to_run = "to_run"
    done = "done"
    skipped = "skipped"


@dataclass(frozen=True)
class PlannedPoint:
    """One point and repeat of a sweep.

    key        12 hexadecimal digits: the point as planned, with seed and repeat; see `plan_key`
    overrides  what Hydra makes its configuration from
    reason     stable code of a skip; `message` has the arithmetic
    record     path, of a done one
    wall_s, energy_j   expected of a run (energy: of its GPUs, from start to end), as `basis` says:
               `measured` (mean of like records) or `predicted`; None: not known
    """

    key: str
    overrides: tuple[str, ...]
    model: str
    gpu: str
    scenario: str
    load: str
    """For people: `512 requests`, `0.33/s`."""
    seed: int
    repeat: int
    state: PlanState = PlanState.to_run
    reason: str | None = None
    message: str | None = None
    record: str | None = None
    wall_s: float | None = None
    energy_j: float | None = None
    basis: str | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep's points in the order in which they are to be measured."""

    name: str
    points: tuple[PlannedPoint, ...]
    created_utc: str
    arguments: tuple[str, ...]
    """What followed `python -m wattcount`, to start the same sweep again."""

    def in_state(self, state: PlanState) -> list[PlannedPoint]:
        return [point for point in self.points if point.state is state]
