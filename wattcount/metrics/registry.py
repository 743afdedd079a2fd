"""All metrics, reasons for null and findings, as the modules of `PARTS` declare them.

The keys are the same in `metrics.json`, in MLflow and in tables; the tables of docs/metrics.md are made from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from wattcount.metrics import (
    attribution,
    client,
    drift,
    energy,
    gpu,
    host,
    observations,
    sensors,
    server,
    service,
    sheet,
    window,
)
from wattcount.metrics.sheet import Checks, FindingSpec, MetricSpec, Sheet

METRICS_VERSION = 12
"""Version of `metrics.json`. Raised whenever a key comes, goes or changes its meaning, and whenever a check does: what was stored
before is then computed anew."""


class Part(Protocol):
    """A module that computes metrics. A new one needs a line in `PARTS`; a new metric or finding only its own module."""

    @property
    def METRICS(self) -> Mapping[str, MetricSpec]: ...  # noqa: N802

    @property
    def NULL_REASONS(self) -> Mapping[str, str]: ...  # noqa: N802

    @property
    def CHECKS(self) -> Checks: ...  # noqa: N802

    def put(self, sheet: Sheet, seen: window.Observed, /) -> None: ...


PARTS: tuple[Part, ...] = (energy, attribution, service, client, server, drift, gpu, host, sensors)
"""In the order in which they are computed: some read from the sheet what those before have put on it."""


def _by_group(keys: Iterable[str]) -> list[str]:
    """Keys with the same first word beside each other, in the order in which the words first appear."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition("/")[0], []).append(key)
    return [key for group in groups.values() for key in group]


_SPECS = {key: spec for part in PARTS for key, spec in part.METRICS.items()}

METRICS: dict[str, MetricSpec] = {key: _SPECS[key] for key in _by_group(_SPECS)}
"""Every metric of every record, but for those of single GPUs, by its key."""
NULL_REASONS: dict[str, str] = {
    **sheet.NULL_REASONS,
    **observations.NULL_REASONS,
    **window.NULL_REASONS,
    **{code: text for part in PARTS for code, text in part.NULL_REASONS.items()},
}
"""Codes of `null_reasons` and what they say. Energies may also carry the reasons of the estimate itself."""
FINDINGS: dict[str, FindingSpec] = {spec.code: spec for part in PARTS for spec in part.CHECKS.specs}
"""Every kind of finding, by its code."""
IMPORTED: dict[str, MetricSpec] = {
    "energy/wall_j": MetricSpec("J", "energy of the whole machine over the window, at the wall", "lower"),
    "energy/wall_j_u95_method": MetricSpec("J", "95 % uncertainty of it, without the meter's gain", "lower"),
    "energy/wall_j_per_output_token": MetricSpec("J", "energy/wall_j / output tokens", "lower"),
    "power/wall_mean_w": MetricSpec("W", "energy/wall_j / length of the window", "lower"),
}
"""What only imported results have: wattcount itself reads no meter at the wall."""


def spec(key: str) -> MetricSpec:
    """The spec of any key that a result can have, per-GPU keys included. KeyError for others."""
    if key.startswith("energy_by_gpu/gpu") and key.endswith("_j"):
        return energy.GPU_METRIC
    return IMPORTED[key] if key in IMPORTED else METRICS[key]
