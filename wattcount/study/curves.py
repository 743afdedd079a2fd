"""Energy by offered load, of one model, GPU and setting: only at the loads that were measured, and where it stops getting cheaper."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wattcount.config.identity import key_of
from wattcount.config.schema import SloConfig
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import Result
from wattcount.study.comparison import Cell, Estimate, Scatters, family_of
from wattcount.study.selection import has, sizes_of
from wattcount.study.service import Attained, Count, over_runs

KNEE_SHARE = 0.1
"""Share by which the energy of a token may lie above the least of its curve, for a load to be beyond the knee: half of what a usual lever saves."""
PER_REQUEST = "energy/gpu_j_per_request"
SIZE_FACTOR = 2.0
"""Ratio of active parameters up to which curves of two models are taken to have one shape: all that were compared have 8 billion."""
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


@dataclass(frozen=True)
class Shape:
    """How power rises with the rate on one measured curve, at rates that keep the SLO.

    active     active parameters of its model; None: not known
    lengths    tokens of prompt and answer
    ln_rates, ln_watts  by increasing rate
    """

    model: str | None
    active: float | None
    lengths: tuple[int | None, int | None]
    ln_rates: Sequence[float]
    ln_watts: Sequence[float]


def shapes(cells: Iterable[Cell], slo: SloConfig) -> list[Shape]:
    """Of everything that was measured at FEWEST_RATES or more without breaking the SLO."""
    groups: dict[Hashable, list[Cell]] = {}
    for cell in cells:
        if cell.first.rate_rps is not None:
            groups.setdefault(curve_key(cell), []).append(cell)
    made = []
    for group in groups.values():
        if len(group) < FEWEST_RATES:
            continue
        points = sorted(
            (math.log(cell.first.rate_rps or 0.0), math.log(watts))
            for cell in group
            if (watts := cell.mean(WATTS)) is not None
            and (share := over_runs(cell.runs, slo)) is not None
            and share.keeps is not False
        )
        if len(points) >= FEWEST_RATES:
            run = group[0].first
            lengths, sizes = (run.input_tokens, run.output_tokens), sizes_of(run)
            made.append(Shape(run.model, sizes and sizes[1], lengths, [x for x, _ in points], [y for _, y in points]))  # fmt: skip
    return made


def part_of_rise(shapes: Iterable[Shape], like: Result, below: float, rate: float, above: float) -> float | None:  # fmt: skip
    """Which part of the rise of ln(power) from rate `below` to rate `above` is reached at `rate`: the mean of the curves of models of like size and
    with the same lengths that were measured between the two. None: there is no such curve."""
    sizes, lengths = sizes_of(like), (like.input_tokens, like.output_tokens)
    low, at, high = math.log(below), math.log(rate), math.log(above)
    parts = []
    for shape in shapes:
        if shape.lengths != lengths or not _like_size(shape.active, sizes and sizes[1]):
            continue
        covers = shape.ln_rates[0] <= low + CLOSE and shape.ln_rates[-1] >= high - CLOSE
        if covers and any(low + CLOSE < x < high - CLOSE for x in shape.ln_rates):
            ends = np.interp((low, at, high), shape.ln_rates, shape.ln_watts)
            if ends[2] > ends[0]:
                parts.append(float((ends[1] - ends[0]) / (ends[2] - ends[0])))
    return float(np.mean(parts)) if parts else None


CLOSE = 1e-6
"""Difference of logarithms up to which two rates are one."""


def _like_size(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and max(one, other) <= SIZE_FACTOR * min(one, other)
