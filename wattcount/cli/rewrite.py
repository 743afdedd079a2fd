"""What writes in records that exist.

`wattcount metrics PATH` computes `metrics.json` afresh from the raw files. `wattcount upgrade PATH` writes records of earlier
versions anew, in the form of today, and their metrics with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from wattcount.cli.records import add_path, find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import write
from wattcount.records import Record
from wattcount.records.schema import RECORD_SCHEMA_VERSION
from wattcount.records.writer import rewrite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)


def rewrite_metrics(args: argparse.Namespace) -> int:
    """0, or 1 where damaged records below a folder were set aside."""
    found = find_records(args.path, records_dir=args.records_dir)
    found.each(_rewrite)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _rewrite(path: Path) -> None:
    try:
        print(write(path))
    except OSError as error:
        raise NotStartedError(f"cannot write metrics.json in {path}: {error.strerror}") from error


def upgrade_records(args: argparse.Namespace) -> int:
    """0, or 1 where damaged records below a folder were set aside."""
    found = find_records(args.path, records_dir=args.records_dir)
    sizes = found.each(_upgrade)
    before, after = (sum(size[i] for size in sizes) for i in (0, 1))
    print(f"{len(sizes)} records: {before:,} bytes before, {after:,} after")
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _upgrade(path: Path) -> tuple[int, int]:
    """Bytes before and after."""
    record = Record.open(path)
    before = _bytes(path)
    if record.info.schema_version == RECORD_SCHEMA_VERSION:
        return before, before
    try:
        rewrite(record)
        write(path)
    except OSError as error:
        raise NotStartedError(f"cannot write in {path.parent}: {error.strerror}") from error
    print(f"{path}: {before:,} -> {_bytes(path):,} bytes")
    return before, _bytes(path)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())
