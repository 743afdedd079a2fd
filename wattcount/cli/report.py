"""`wattcount report SOURCE -o FOLDER`: pages from a data set or from records, which open from disk."""

from __future__ import annotations

import argparse
from pathlib import Path

from wattcount.cli.sources import VERSIONS, results_of
from wattcount.errors import EXIT_OK
from wattcount.report.units import count
from wattcount.terminal import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a data set; or folders with records, tables of results (Parquet), files that others wrote",
    )
    parser.add_argument("-o", "--out", metavar="FOLDER", type=Path, required=True, help="where the pages go")
    parser.add_argument(
        "--name", metavar="TEXT", help="what the pages call the results; the data set's own name without this"
    )


def main(args: argparse.Namespace) -> int:
    from wattcount.site.builder import build
    from wattcount.site.source import Source

    if len(args.source) == 1 and _is_dataset(args.source[0]):
        source = Source.of_dataset(args.source[0], args.name)
    else:
        source = Source.of_results(args.name or "Results", results_of(args.source))
    build(source, args.out)
    console().print(
        f"pages of {count(len(source.entries), 'result')}: {args.out / 'index.html'}", soft_wrap=True
    )
    return EXIT_OK


def _is_dataset(source: str) -> bool:
    return "://" in source or (Path(source) / VERSIONS).is_dir()
