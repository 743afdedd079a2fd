"""Run records and sweeps in MLflow. The only package that knows MLflow, and it imports it only when it logs."""

from wattcount.tracking.connection import (
    TrackingError,
    log_command,
    prepare,
    resolve_uri,
    ui_command,
    ways_to_see,
)
from wattcount.tracking.store import log_predicted, log_record
from wattcount.tracking.sweep import SweepPage, log_sweep, sweep_run

__all__ = [
    "SweepPage",
    "TrackingError",
    "log_command",
    "log_predicted",
    "log_record",
    "log_sweep",
    "prepare",
    "resolve_uri",
    "sweep_run",
    "ui_command",
    "ways_to_see",
]
