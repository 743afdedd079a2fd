"""`metrics.json`: pure functions of a record's raw files. Needs no GPU, no engine, no MLflow, no pandas."""

from wattcount.metrics.metrics_json import (
    FINDINGS,
    METRICS,
    METRICS_VERSION,
    NULL_REASONS,
    compute,
    load_metrics,
    spec,
    to_bytes,
    write,
)
from wattcount.metrics.sheet import MetricSpec

__all__ = [
    "FINDINGS",
    "METRICS",
    "METRICS_VERSION",
    "NULL_REASONS",
    "MetricSpec",
    "compute",
    "load_metrics",
    "spec",
    "to_bytes",
    "write",
]
