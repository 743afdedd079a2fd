"""`wattcount metrics PATH`: `metrics.json` computed afresh from the raw files."""

from __future__ import annotations

import argparse
from pathlib import Path

from wattcount.cli.records import find_records
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError
from wattcount.metrics import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a run record, or a folder with records below it"
    )


def main(args: argparse.Namespace) -> int:
    """1 where records below a folder were set aside."""
    found = find_records(args.path)
    found.each(_write)
    return EXIT_FAILED if found.set_aside else EXIT_OK


def _write(path: Path) -> None:
    try:
        print(write(path))
    except OSError as error:
        raise NotStartedError(f"cannot write metrics.json in {path}: {error.strerror}") from error
