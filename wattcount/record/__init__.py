"""The run record: a folder of raw observations. Its files, columns and keys are in `record.schema`."""

from wattcount.record.place import new_run_id
from wattcount.record.reader import Record
from wattcount.record.writer import RecordWriter

__all__ = ["Record", "RecordWriter", "new_run_id"]
