"""Energy by offered load, of one model, GPU and setting: only at the loads that were measured, and where it stops getting cheaper."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from wattcount.config.identity import key_of
from wattcount.config.schema import SloConfig
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.comparison import Cell, Estimate, Scatters, family_of
from wattcount.study.selection import has
from wattcount.study.service import Attained, Count, over_runs

KNEE_SHARE = 0.1
"""Share by which the energy of a token may lie above the least of its curve, for a load to be beyond the knee: half of what a usual lever saves."""
PER_REQUEST = "energy/gpu_j_per_request"
FEWEST_RATES = 3
"""Rates from which on a curve is one."""


@dataclass(frozen=True)
class Point:
    """One rate of a curve. `overloaded`: in how many of the runs the server could not keep up."""

    rate_rps: float
    cell: Cell
    per_token: Estimate
    per_request: float | None
    per_good_request: float | None
    attained: Attained | None
    overloaded: int


@dataclass(frozen=True)
class Curve:
    """Points by increasing rate.

    knee   the lowest measured rate from which on a token costs within KNEE_SHARE of the least of the curve; None: that is only at the highest
           measured rate, so the knee may lie above
    """

    points: Sequence[Point]
    knee: Point | None

    @property
    def first(self) -> Cell:
        return self.points[0].cell


def curve_key(cell: Cell) -> Hashable:
    """What the points of one curve share: the setting without its rate."""
    run = cell.first
    if run.setting_key is None:
        return (*family_of(run), run.by, run.model, run.gpus, run.levers, run.input_tokens, run.output_tokens)
    return (run.scenario, key_of(run.setting, without=("scenario.rate_rps", "scenario.slo")))


def curves(cells: Iterable[Cell], scatters: Scatters, slo: SloConfig) -> list[Curve]:
    """Of everything that was measured at FEWEST_RATES or more."""
    found: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        if cell.first.rate_rps is not None:
            found.setdefault(curve_key(cell), []).append(cell)
    count = Count.affordable((run for group in found.values() for cell in group for run in cell.runs), slo)
    made = []
    for group in found.values():
        if len({cell.first.rate_rps for cell in group}) < FEWEST_RATES:
            continue
        points = [
            point
            for cell in sorted(group, key=lambda cell: cell.first.rate_rps or 0.0)
            if (point := _point(cell, scatters, slo, count)) is not None
        ]
        if len(points) >= FEWEST_RATES:
            made.append(Curve(points, _knee(points)))
    return made


def _point(cell: Cell, scatters: Scatters, slo: SloConfig, count: Count) -> Point | None:
    per_token = scatters.estimate(cell, PER_TOKEN)
    if per_token is None or cell.first.rate_rps is None:
        return None
    per_request, share = cell.mean(PER_REQUEST), over_runs(cell.runs, slo, count)
    good = None
    if per_request is not None and share is not None and share.low == share.high and share.low > 0:
        good = per_request / share.low
    return Point(
        cell.first.rate_rps,
        cell,
        per_token,
        per_request,
        good,
        share,
        sum(has(run, "overloaded") for run in cell.runs),
    )


def _knee(points: Sequence[Point]) -> Point | None:
    least = min(point.per_token.value for point in points)
    for at, point in enumerate(points):
        if all(later.per_token.value <= least * (1 + KNEE_SHARE) for later in points[at:]):
            return None if at == len(points) - 1 else point
    return None
