"""What `recommend` states of interpolated power is derived from the curves in data/."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from bench_interpolation import (  # noqa: E402
    LINES,
    STRAIGHT,
    Triple,
    constants,
    error,
    shape_of_others,
    triples,
)

from wattcount.result import results  # noqa: E402
from wattcount.study.advice import LINE_SD, SHAPE_SD  # noqa: E402
from wattcount.study.comparison import cells  # noqa: E402
from wattcount.study.curves import shapes  # noqa: E402
from wattcount.study.questions import USUAL_SLO  # noqa: E402


def triple(model: str, law, rates=(1.0, 2.0, 8.0)) -> Triple:  # type: ignore[no-untyped-def]
    return Triple(model, rates, tuple(law(rate) for rate in rates))


def test_each_line_is_exact_on_its_own_scale() -> None:
    laws = {
        "power over ln(rate)": lambda r: 100 + 50 * math.log(r),
        "power over rate": lambda r: 100 + 20 * r,
        "ln(power) over ln(rate)": lambda r: 100 * r**0.3,
        "power over the root of the rate": lambda r: 100 + 30 * math.sqrt(r),
    }
    for name, law in laws.items():
        exact = [other for other, line in LINES.items() if abs(error(line, triple("m", law))) < 1e-9]
        assert exact == [name]


def test_the_constants_are_those_of_the_data() -> None:
    runs = [run for folder in sorted(ROOT.glob("data/*/records")) for run in results(folder, keep=False)]
    found, known = triples(runs), shapes(cells(runs), USUAL_SLO)
    for line, stated in ((shape_of_others(known), SHAPE_SD), (LINES[STRAIGHT], LINE_SD)):
        of = constants(found, line)
        assert (round(of[0], 3), round(of[1], 3)) == pytest.approx(stated), (
            "write what benchmarks/bench_interpolation.py prints into wattcount/study/advice.py"
        )
