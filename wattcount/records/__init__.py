"""The run record: a folder of raw observations. Its files, columns and keys are in `records.schema`."""

from wattcount.records.reader import Record
from wattcount.records.writer import RecordWriter, new_run_id

__all__ = ["Record", "RecordWriter", "new_run_id"]
