"""`metrics.json`: pure functions of a record's raw files. Needs no GPU, no engine, no MLflow, no pandas."""

from wattcount.metrics.compute import compute
from wattcount.metrics.load import load_metrics, to_bytes, write
from wattcount.metrics.null_reasons import NULL_REASONS
from wattcount.metrics.registry import METRICS, METRICS_VERSION, MetricSpec, spec

__all__ = [
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
