"""The tables of docs/metrics.md: every metric, reason for null and finding, as the code declares them."""

from __future__ import annotations

from collections.abc import Callable

from wattcount.metrics.energy import GPU_METRIC
from wattcount.metrics.metrics_json import FINDINGS, METRICS, NULL_REASONS
from wattcount.report.units import markdown


def metrics_of(*groups: str) -> Callable[[], str]:
    """The metrics whose first word, with or without `_steady`, is one of these."""

    def made() -> str:
        rows = []
        for key, spec in METRICS.items():
            if key.partition("/")[0] in groups:
                rows.append([f"`{key}`", spec.unit, spec.description])
        if "energy_by_source" in groups:
            rows.append(["`energy_by_gpu/gpuN_j`", GPU_METRIC.unit, GPU_METRIC.description])
        return markdown(["key", "unit", "definition"], rows)

    return made


def null_reasons() -> str:
    return markdown(["code", "meaning"], [[f"`{code}`", text] for code, text in NULL_REASONS.items()])


def findings() -> str:
    rows = []
    for code, spec in FINDINGS.items():
        always = {True: "yes", False: "no", None: ""}[spec.invalidates]
        rows.append(
            [
                f"`{code}`",
                spec.figure,
                spec.limit,
                ": ".join(part for part in (always, spec.why) if part),
                spec.to_do,
            ]
        )
    return markdown(["code", "figure", "limit", "invalidates", "what to do"], rows)
