"""Results: one flat row for each run, whoever measured it. Data set, study, tables, `compare`, `status` and MLflow read these."""

from wattcount.results.result import Result, glance, judge
from wattcount.results.table import ResultTable, results

__all__ = ["Result", "ResultTable", "glance", "judge", "results"]
