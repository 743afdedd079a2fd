"""How well predictions do on rows whose model, or whose GPU, no fit has seen: errors, and how often intervals hold.

In each fold everything is learned afresh from the rows that are left: coefficients, corrections, and what calibrates the intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.fitting.predicting import Predictor
from wattcount.fitting.rows import Row
from wattcount.prediction.physics import Coefficients
from wattcount.prediction.steady import loads, steady, tables

PARTS = 8
"""Parts of the models, each of which is left out as a whole: stricter than leaving out one alone, and eight fits instead of fifty."""
_SHARES = (
    "memory",
    "compute",
    "kv",
    "attention",
    "experts",
    "eight_bit",
    "four_bit",
    "slow",
    "state",
    "link",
)
_ADDED = (
    "step_s",
    "layer_s",
    "sequence_s",
    "token_s",
    "host_step_s",
    "host_sequence_s",
    "host_layer_s",
    "exchange_s",
    "tail",
    "throttled",
)
IDEAL = Coefficients(**dict.fromkeys(_SHARES, 1.0), **dict.fromkeys(_ADDED, 1e-12))
"""Coefficients of a plain roofline: data sheets as they are, and nothing but moving and computing."""
QUANTITIES = ("power_w", "tpot_ms", "j_per_output_token")


@dataclass(frozen=True)
class Tried:
    """A row that was left out: by quantity what was measured, predicted, and the interval; None: not measured, or no prediction."""

    split: str
    group: str
    shape: str
    source: str
    served: bool
    arriving: bool
    measured: Mapping[str, float | None]
    predicted: Mapping[str, tuple[float, float, float] | None]
    roofline: Mapping[str, float]
    tdp: Mapping[str, float]
    basis: str


def measured(row: Row) -> dict[str, float | None]:
    return {
        "power_w": row.power_w,
        "tpot_ms": None if row.tpot_s is None else 1e3 * row.tpot_s,
        "j_per_output_token": row.j_per_token,
    }


def splits(rows: Sequence[Row]) -> Iterator[tuple[str, str, list[int]]]:
    """(split, group, places of the rows that are left out)."""
    shapes = sorted({row.shape for row in rows})
    for part in range(PARTS):
        left = set(shapes[part::PARTS])
        yield "model", f"part {part + 1}", [at for at, row in enumerate(rows) if row.shape in left]
    for family in sorted({row.family for row in rows}):
        yield "gpu", family, [at for at, row in enumerate(rows) if row.family == family]


def tried(rows: Sequence[Row]) -> list[Tried]:
    """All rows under both splits."""
    found = []
    for split, group, at in splits(rows):
        left = set(at)
        predictor = Predictor.of([row for place, row in enumerate(rows) if place not in left])
        found += judged(predictor, [rows[place] for place in at], split, group)
    return found


def judged(predictor: Predictor, rows: Sequence[Row], split: str, group: str) -> list[Tried]:
    facts, gpu = tables([row.prepared for row in rows])
    plain = steady(facts, gpu, IDEAL, loads([row.prepared for row in rows]))
    found = []
    for at, (row, one) in enumerate(zip(rows, predictor.predict_rows(rows), strict=True)):
        setting = row.prepared.setting
        tdp_w = setting.num_gpus * row.prepared.gpu.tdp_w
        rate = float(plain.output_rate[at]) * setting.replicas
        watts = float(plain.power_w[at]) * setting.num_gpus
        tpot = 1e3 * float(plain.tpot_s[at])
        figures = {
            name: None
            if (figure := one.figures.get(name)) is None
            else (figure.value, figure.p05, figure.p95)
            for name in QUANTITIES
        }
        found.append(
            Tried(
                split,
                group,
                row.shape,
                row.source,
                row.served,
                setting.rate_rps is not None,
                measured(row),
                figures,
                {"power_w": watts, "tpot_ms": tpot, "j_per_output_token": watts / rate},
                {"power_w": tdp_w, "tpot_ms": tpot, "j_per_output_token": tdp_w / rate},
                one.basis,
            )
        )
    return found


def score(found: Sequence[Tried], quantity: str) -> dict[str, Any] | None:
    """Of the rows that have both a measured figure and a prediction; None: there are none."""
    both = [
        (value, interval, one.roofline[quantity], one.tdp[quantity], one.group)
        for one in found
        if (value := one.measured[quantity]) is not None and (interval := one.predicted[quantity]) is not None
    ]
    if not both:
        return None
    truth = np.array([row[0] for row in both])
    guess = np.array([row[1] for row in both])

    def apart(other: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(100 * np.abs(other / truth - 1))

    error = apart(guess[:, 0])
    groups = np.array([row[4] for row in both])
    inside = (guess[:, 1] <= truth) & (truth <= guess[:, 2])
    return {
        "rows": len(both),
        "abstained": sum(one.measured[quantity] is not None for one in found) - len(both),
        "mdape": float(np.median(error)),
        "mdape_of_groups": float(
            np.median([np.median(error[groups == name]) for name in sorted(set(groups))])
        ),
        "p90": float(np.quantile(error, 0.9)),
        "coverage": float(100 * np.mean(inside)),
        "width": float(100 * np.median((guess[:, 2] - guess[:, 1]) / guess[:, 0])),
        "roofline": float(np.median(apart(np.array([row[2] for row in both])))),
        "tdp": float(np.median(apart(np.array([row[3] for row in both])))),
    }
