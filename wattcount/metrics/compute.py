"""`metrics.json` from a record: pure functions of its raw files.

The same raw files give the same bytes on any machine: integers are summed as integers, floating-point
sums are exact (`math.fsum`), and values are kept to 12 significant digits, far beyond what any sensor
means and short of where platforms differ.
"""

from __future__ import annotations

from typing import Any

from wattcount.metrics.energy import energy_estimates
from wattcount.metrics.registry import METRICS, METRICS_VERSION, PARTS
from wattcount.metrics.sheet import NO_WINDOW, Finding, Sheet
from wattcount.metrics.window import Observed
from wattcount.records import Record


def compute(record: Record) -> dict[str, Any]:
    """The content of `metrics.json`. Works on invalid records too, as far as they go."""
    seen, sheet = Observed(record), Sheet()
    for part in PARTS:
        part.put(sheet, seen)
    for key in METRICS:
        if key not in sheet.metrics:
            sheet.put(key, None, NO_WINDOW)
    found = findings(seen)
    per_gpu = [key for key in sheet.metrics if key not in METRICS]
    return {
        "metrics_version": METRICS_VERSION,
        "evidence": str(record.info.evidence),
        "window": seen.window.to_json() if seen.window is not None else None,
        "window_steady": seen.steady.window.to_json() if seen.steady.window is not None else None,
        "energy": energy_estimates(record, seen.window),
        "validity": {
            "valid": record.info.validity.valid and not any(finding.invalidates for finding in found),
            "reasons": list(record.info.validity.reasons),
            "findings": [finding.to_json() for finding in found],
        },
        "metrics": {key: sheet.metrics[key] for key in (*METRICS, *per_gpu)},
        "null_reasons": {k: sheet.null_reasons[k] for k in (*METRICS, *per_gpu) if k in sheet.null_reasons},
    }


def findings(seen: Observed) -> list[Finding]:
    """What a record says against being believed, most serious first."""
    found = [finding for part in PARTS for finding in part.CHECKS.findings(seen)]
    return sorted(found, key=lambda finding: not finding.invalidates)
