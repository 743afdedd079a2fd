"""Run records and studies in MLflow. The only package that knows MLflow, and it imports it only when it logs."""

from wattcount.tracking.connection import TrackingError, log_command, prepare, resolve_uri, ui_command
from wattcount.tracking.store import log_record
from wattcount.tracking.study import StudyPage, log_study, study_run

__all__ = [
    "StudyPage",
    "TrackingError",
    "log_command",
    "log_record",
    "log_study",
    "prepare",
    "resolve_uri",
    "study_run",
    "ui_command",
]
