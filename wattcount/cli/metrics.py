"""`wattcount metrics PATH`: `metrics.json` computed afresh from the raw files."""

from __future__ import annotations

import argparse

from wattcount.cli.records import bad_input, find_records
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.metrics import write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a run record, or a folder with records below it"
    )


def main(args: argparse.Namespace) -> int:
    for path in find_records(args.path):
        try:
            with bad_input():
                print(write(path))
        except OSError as error:
            raise NotStartedError(f"cannot write metrics.json in {path}: {error.strerror}") from error
    return EXIT_OK
