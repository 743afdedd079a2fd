"""The metrics of a record, from its `metrics.json` where that is current, else computed."""

from __future__ import annotations

from typing import Any

from wattcount.metrics.compute import compute
from wattcount.metrics.registry import METRICS_VERSION
from wattcount.record import Record


def load_metrics(record: Record) -> dict[str, Any]:
    """Content of `metrics.json`; computed afresh, and not written, where it is missing or of another version."""
    stored = record.metrics
    if stored is not None and stored.get("metrics_version") == METRICS_VERSION and "energy" in stored:
        return stored
    return compute(record)
