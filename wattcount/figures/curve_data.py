"""What the page on load curves is made of: the points of each curve, with the latencies of their requests, so that any SLO can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.figures.labels import shown
from wattcount.figures.load import curve_name
from wattcount.metrics.service import latencies_ms
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.report.labels import evidence_label
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.curves import KNEE_SHARE, Curve, Point
from wattcount.study.service import NAMES

Latencies = NDArray[np.float64]
"""TTFT, TPOT and E2E of requests [ms], float64[3, requests] in the order of NAMES; `inf`: never got there; nan: has none."""
MOST_REQUESTS = 300
"""Most requests of a point whose latencies are kept: a share of them is off by at most 6 % (95 %), and 40 points take 100 kB."""
DIGITS = 3
"""Significant digits of a latency [ms]."""
PERCENTILES = (50, 95, 99)
"""Of latency, where no requests are known."""


def latencies_of(record: Record) -> Latencies | None:
    """Of the requests sent in a server's window; None: it has none."""
    seen = Observed(record)
    if seen.is_batch or not (by_name := latencies_ms(seen)):
        return None
    return np.stack([by_name[name] for name in NAMES])


def curves_page(curves: Sequence[Curve], latencies: Mapping[str, Latencies]) -> dict[str, Any]:
    """`latencies`: by run id; runs that are not in it are told by their percentiles."""
    return {
        "knee_share": KNEE_SHARE,
        "curves": [
            {
                "name": curve_name(curve),
                "model": shown(curve.first.first.model or "unknown model"),
                "gpu": shown(curve.first.gpu),
                "evidence": _evidence(curve.first.first),
                "points": [_point(point, curve, latencies) for point in curve.points],
            }
            for curve in curves
        ],
    }


def _evidence(run: Result) -> str:
    return evidence_label(run.evidence, run.origin, run.weights_kind)


def _point(point: Point, curve: Curve, latencies: Mapping[str, Latencies]) -> dict[str, Any]:
    cell, estimate = point.cell, point.per_token
    low, high = cell.first.interval(PER_TOKEN) or (estimate.low, estimate.high)  # of a prediction its own
    return {
        "rate_rps": point.rate_rps,
        "j_per_token": _short(estimate.value),
        "low": _short(low),
        "high": _short(high),
        "basis": estimate.basis.words,
        "j_per_request": _short(point.per_request),
        "knee": point is curve.knee,
        "overloaded": 2 * point.overloaded > len(cell.runs),
        "runs": [shown(run.run_id) for run in cell.runs if run.run_id is not None],
        "percentiles": {
            name: [_short(cell.middle(f"latency/{name}_p{p}_ms")) for p in PERCENTILES] for name in NAMES
        },
        **_requests(cell.runs, latencies),
    }


def _requests(runs: Sequence[Result], latencies: Mapping[str, Latencies]) -> dict[str, Any]:
    """`requests`: latencies of evenly chosen requests of all runs that are known, by name; `of`: how many there were."""
    found = [latencies[run.run_id] for run in runs if run.run_id is not None and run.run_id in latencies]
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
