"""The sheet that metrics are put on: values, and the reasons of those that are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from wattcount.metrics.idle import Cell
from wattcount.metrics.null_reasons import NO_POWER_DATA, NOT_RECORDED


class Sheet:
    """Collects values and the reasons of those that are missing."""

    def __init__(self) -> None:
        self.metrics: dict[str, int | float | None] = {}
        self.null_reasons: dict[str, str] = {}

    def put(self, key: str, value: float | None, reason: str | None = None) -> None:
        if value is None:
            self.metrics[key] = None
            self.null_reasons[key] = reason or NOT_RECORDED
            return
        self.metrics[key] = value if isinstance(value, int) else canonical(value)

    def update(self, cells: Mapping[str, Cell]) -> None:
        for key, (value, reason) in cells.items():
            self.put(key, value, reason)

    def cell(self, key: str) -> Cell:
        """What was put, with its reason where it is null."""
        return self.metrics.get(key), self.null_reasons.get(key)

    def ratio(self, key: str, numerator: float | None, denominator: float, empty: str) -> None:
        """numerator / denominator, null with `empty` where the denominator is 0."""
        if numerator is None:
            self.put(key, None, self.null_reasons.get("energy/gpu_j", NO_POWER_DATA))
        elif denominator == 0:
            self.put(key, None, empty)
        else:
            self.put(key, numerator / denominator)


def canonical(value: float) -> float:
    """`value` to 12 significant digits; ValueError for what JSON cannot hold."""
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {value}")
    return float(f"{value:.12g}") + 0.0  # + 0.0: no negative zero
