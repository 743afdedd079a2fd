"""Run records in MLflow. The only package that knows MLflow, and it imports it only when it logs."""

from wattcount.tracking.store import TrackingError, log_record, prepare, resolve_uri, ui_command

__all__ = ["TrackingError", "log_record", "prepare", "resolve_uri", "ui_command"]
