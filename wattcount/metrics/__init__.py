"""`metrics.json`: pure functions of a record's raw files. Needs no GPU, no engine, no MLflow, no pandas."""

from wattcount.metrics.compute import NULL_REASONS, compute, to_bytes, write
from wattcount.metrics.load import load_metrics
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
