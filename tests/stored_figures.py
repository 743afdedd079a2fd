"""Figures that were stored with a record, against those of today's code."""

from __future__ import annotations

from typing import Any

import pytest

from wattcount.metrics.metrics_json import is_of_today

BY_THE_ESTIMATOR = ("energy", "power", "attribution", "window/power")
"""Keys that begin so rest on the estimate of an energy."""


def check(fresh: dict[str, Any], stored: dict[str, Any]) -> None:
    """The same figures where they were stored by this version of the metrics.

    An older version may have estimated energies otherwise: each then lies within the interval of the method that was
    stored with it, and what rests on no estimate is the same.
    """
    before, now = stored["metrics"], fresh["metrics"]
    same_version = is_of_today(stored)
    if same_version:
        assert set(now) == set(before)
        assert fresh["null_reasons"] == stored["null_reasons"]
    for key, value in before.items():
        if same_version or not key.startswith(BY_THE_ESTIMATOR):
            assert now[key] == (value if value is None else pytest.approx(value, rel=1e-9)), key
    for key in ("energy/gpu_j", "energy/gpu_j_per_output_token", "energy/gpu_j_per_request"):
        if before[key] is None:
            assert now[key] is None
            continue
        share = before["energy/gpu_j_u95_method"] / before["energy/gpu_j"]
        assert now[key] == pytest.approx(before[key], rel=share), key
