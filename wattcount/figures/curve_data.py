"""What the page on load curves is made of: the points of each curve, with the latencies of their requests, so that any SLO can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from wattcount.errors import WattcountError
from wattcount.figures.labels import shown
from wattcount.figures.load import curve_name
from wattcount.metrics.service import latencies_ms
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.result import Result
from wattcount.study.curves import KNEE_SHARE, Curve, Point
from wattcount.study.service import NAMES

MOST_REQUESTS = 300
"""Most requests of a point whose latencies are kept: a share of them is off by at most 6 % (95 %), and 40 points take 100 kB."""
DIGITS = 3
"""Significant digits of a latency [ms]."""
PERCENTILES = (50, 95, 99)
"""Of latency, where no requests are known."""


def curves_page(curves: Sequence[Curve], records: bool = True) -> dict[str, Any]:
    """`records`: whether requests are read from the runs' records, where there are any."""
    return {
        "knee_share": KNEE_SHARE,
        "curves": [
            {
                "name": curve_name(curve),
                "model": shown(curve.first.first.model or "unknown model"),
                "gpu": shown(curve.first.gpu),
                "evidence": str(curve.first.first.evidence or "unknown"),
                "points": [_point(point, curve, records) for point in curve.points],
            }
            for curve in curves
        ],
    }


def _point(point: Point, curve: Curve, records: bool) -> dict[str, Any]:
    cell, estimate = point.cell, point.per_token
    return {
        "rate_rps": point.rate_rps,
        "j_per_token": _short(estimate.value),
        "low": _short(estimate.low),
        "high": _short(estimate.high),
        "basis": estimate.basis.words,
        "j_per_request": _short(point.per_request),
        "knee": point is curve.knee,
        "overloaded": 2 * point.overloaded > len(cell.runs),
        "runs": [shown(run.run_id) for run in cell.runs if run.run_id is not None],
        "percentiles": {
            name: [_short(cell.middle(f"latency/{name}_p{p}_ms")) for p in PERCENTILES] for name in NAMES
        },
        **(_requests(cell.runs) if records else {}),
    }


def _requests(runs: Sequence[Result]) -> dict[str, Any]:
    """`requests`: latencies of evenly chosen requests of all runs that have a record, by name; null: none. `of`: how many there were."""
    found = [one for run in runs if (one := _latencies(run)) is not None]
    if not found:
        return {}
    table = np.concatenate(found, axis=1)
    number = table.shape[1]
    if not number:
        return {}
    chosen = np.unique(np.linspace(0, number - 1, min(MOST_REQUESTS, number)).round().astype(int))
    return {
        "of": number,
        "requests": {
            name: [_latency(value) for value in table[at, chosen].tolist()] for at, name in enumerate(NAMES)
        },
    }


def _latencies(run: Result) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if run.record is None:
        return None
    try:
        by_name = latencies_ms(Observed(Record.open(run.record)))
    except (WattcountError, OSError):
        return None
    return np.stack([by_name[name] for name in NAMES]) if by_name else None


def _latency(value: float) -> float | int | None:
    """-1: the request never got there. None: it has no such latency."""
    if np.isnan(value):
        return None
    return -1 if not np.isfinite(value) else _short(value, DIGITS)


def _short(value: float | None, digits: int = 5) -> float | int | None:
    if value is None:
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short
