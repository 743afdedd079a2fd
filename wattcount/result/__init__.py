"""Results: one flat row for each run, whoever measured it. Data set, study, tables, `compare`, `status` and MLflow read these."""

from wattcount.result.result import Result, glance, judge
from wattcount.result.table import ResultTable, record_folders, results

__all__ = ["Result", "ResultTable", "glance", "judge", "record_folders", "results"]
