"""How far from measured power lies power that is interpolated between two measured rates? On the load curves in data/.

    OMP_NUM_THREADS=1 python benchmarks/bench_interpolation.py --json data/study/interpolation.json

Of each curve (a model, GPU and setting at several rates), each measured rate between two others is left out and computed from these two, whatever lies
between them. So a curve of five rates gives ten such triples. Rates at which the usual SLO is not kept are left out, as `recommend` leaves them out. Compared are straight lines on four scales, and the
shape of the other models' curves (SHAPE: no curve of the triple's own model tells it; without a curve, the straight line of logarithms). What `recommend` states as the uncertainty is derived here: SHAPE_SD and
LINE_SD of `study.advice`. All curves are of models of 8 billion parameters, two of them of nearly the same architecture: what a curve of another size would tell was not tried, and `recommend` does not ask it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from wattcount.result import Result, results
from wattcount.result.host_part import WATTS
from wattcount.study.comparison import Cell, cells
from wattcount.study.curves import Shape, curve_key, part_of_rise, shapes
from wattcount.study.questions import USUAL_SLO
from wattcount.study.service import Count, over_runs

ROOT = Path(__file__).resolve().parent.parent
NEAR = math.log(16.0)
"""ln(rate above / rate below) up to which the uncertainty grows with it: beyond four octaves it was found to grow no more."""


@dataclass(frozen=True)
class Triple:
    """A rate between two others [requests/s], with the power at each [W]."""

    model: str
    rates: tuple[float, float, float]
    watts: tuple[float, float, float]
    run: Result = field(default_factory=Result)

    @property
    def span(self) -> float:
        return math.log(self.rates[2] / self.rates[0])


def _line(x: Callable[[float], float], y: Callable[[float], float], back: Callable[[float], float]) -> Callable[[Triple], float]:  # fmt: skip
    def at(triple: Triple) -> float:
        (a, b, c), (low, _, high) = triple.rates, triple.watts
        part = (x(b) - x(a)) / (x(c) - x(a))
        return back(y(low) + part * (y(high) - y(low)))

    return at


def _same(value: float) -> float:
    return value


LINES: Mapping[str, Callable[[Triple], float]] = {
    "power over ln(rate)": _line(math.log, _same, _same),
    "power over rate": _line(_same, _same, _same),
    "ln(power) over ln(rate)": _line(math.log, math.log, math.exp),
    "power over the root of the rate": _line(math.sqrt, _same, _same),
}


def triples(runs: Sequence[Result]) -> list[Triple]:
    groups: dict[object, list[Cell]] = {}
    for cell in cells(runs):
        if cell.first.rate_rps is None or cell.mean(WATTS) is None:
            continue
        share = over_runs(cell.runs, USUAL_SLO, Count.WHERE_UNSURE)
        if share is None or not share.keeps:
            continue
        groups.setdefault(curve_key(cell), []).append(cell)
    found = []
    for group in groups.values():
        group.sort(key=lambda cell: float(cell.first.rate_rps or 0.0))
        for three in combinations(group, 3):
            rates = tuple(float(cell.first.rate_rps or 0.0) for cell in three)
            watts = tuple(float(cell.mean(WATTS) or 0.0) for cell in three)
            if len(set(rates)) == 3:
                found.append(Triple(str(three[0].first.model), rates, watts, three[0].first))  # type: ignore[arg-type]
    return found


SHAPE = "shape of other models' curves"
STRAIGHT = "ln(power) over ln(rate)"


def shape_of_others(known: Sequence[Shape]) -> Callable[[Triple], float]:
    """Power by the curves of other models; the straight line of logarithms where there is none."""

    def at(triple: Triple) -> float:
        others = [shape for shape in known if shape.model != triple.model]
        part = part_of_rise(others, triple.run, *triple.rates)
        (low, _, high) = triple.watts
        return LINES[STRAIGHT](triple) if part is None else float(low ** (1 - part) * high**part)

    return at


def error(line: Callable[[Triple], float], triple: Triple) -> float:
    """ln(interpolated / measured)."""
    return math.log(line(triple) / triple.watts[1])


def rms(values: Sequence[float]) -> float:
    """nan where there is no value."""
    return float(np.sqrt(np.mean(np.square(values)))) if values else math.nan


def constants(found: Sequence[Triple], line: Callable[[Triple], float]) -> tuple[float, float]:
    """(each, most) of SHAPE_SD or LINE_SD: rms of the error for each unit of ln(above / below) up to NEAR, and of the error beyond."""
    near = [error(line, t) / t.span for t in found if t.span <= NEAR * 1.001]
    far = [error(line, t) for t in found if t.span > NEAR * 1.001]
    return rms(near), rms(far)


def judged(found: Sequence[Triple], known: Sequence[Shape]) -> dict[str, object]:
    lines = {**LINES, SHAPE: shape_of_others(known)}
    models = sorted({t.model for t in found})
    bins = ((0.0, 2.0), (2.0, 4.0), (4.0, 16.0), (16.0, math.inf))
    return {
        "triples": len(found),
        "models": len(models),
        "rms": {name: rms([error(line, t) for t in found]) for name, line in lines.items()},
        "rms_by_model": {
            name: {model: rms([error(line, t) for t in found if t.model == model]) for model in models}
            for name, line in lines.items()
        },
        "rms_by_factor": {
            name: {
                f"{low:g} to {high:g}": [rms(errors), len(errors)]
                for low, high in bins
                if (errors := [error(line, t) for t in found if low < math.exp(t.span) * 0.999 <= high])
            }
            for name, line in lines.items()
        },
        "bias": {name: float(np.mean([error(line, t) for t in found])) for name, line in lines.items()},
        "constants": {name: constants(found, line) for name, line in lines.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    runs = [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]
    done = judged(triples(runs), shapes(cells(runs), USUAL_SLO))
    print(json.dumps(done, indent=1))
    if args.json:
        args.json.write_text(json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
