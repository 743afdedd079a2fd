"""`wattcount study SOURCE`: what a set of results says to the standing questions."""

from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path

from rich.console import Console

from wattcount.cli.sources import QUALITY, results_of, scores_of, slo_of
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.files import replacing
from wattcount.study.answers import Answer
from wattcount.study.questions import QUESTIONS, USUAL_SLO, Study
from wattcount.terminal import console, table

DETAILS_FROM = 110
"""Width of a terminal from which on all columns are shown [characters]; --json and --csv have all of them."""
MOST_ROWS = 20
"""Rows of a table on a terminal: what fits on one screen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="+",
        help="a data set, a folder with records, a table of results (Parquet), or a file that others wrote",
    )
    parser.add_argument(
        "--only",
        metavar="NAME",
        action="append",
        choices=list(QUESTIONS),
        help="only this question; may be repeated: " + ", ".join(QUESTIONS),
    )
    parser.add_argument(
        "--slo",
        type=slo_of,
        default=USUAL_SLO,
        metavar="ttft_ms=500,tpot_ms=50",
        help="bounds of a good request",
    )
    parser.add_argument(
        "--default-gpu",
        metavar="NAME",
        help="the GPU that is used without asking, for savings; the worst one without this",
    )
    parser.add_argument(
        "--quality",
        nargs="+",
        metavar="PATH",
        help=QUALITY,
    )
    parser.add_argument(
        "--all", action="store_true", help=f"all rows, not the first {MOST_ROWS} of each table"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="everything as JSON, in plain units")
    how.add_argument("--csv", metavar="DIR", type=Path, help="write a CSV file for each question into DIR")


def main(args: argparse.Namespace) -> int:
    results = results_of(args.source)
    study = Study(results, args.slo, args.default_gpu, scores_of(args.quality, results))
    answers = study.answers(args.only or ())
    if args.json:
        print(json.dumps([answer.to_json() for answer in answers], indent=2))
    elif args.csv is not None:
        for answer in answers:
            _write_csv(args.csv, answer)
        console().print(f"{len(answers)} files in {args.csv}", soft_wrap=True)
    else:
        out = console()
        for answer in answers:
            _show(out, answer, None if args.all else MOST_ROWS)
    return EXIT_OK


def _show(out: Console, answer: Answer, limit: int | None) -> None:
    out.print(answer.question, style="bold")
    out.print(answer.sentence)
    if answer.sure:
        out.print(answer.sure, style="dim")
    if answer.rows:
        headings, rows = answer.cells(limit, out.width >= DETAILS_FROM)
        made = table(headings, answer.words)
        for column in made.columns:
            column.no_wrap = False
            column.overflow = "fold"
        for row in rows:
            made.add_row(*row)
        out.print(made)
        if limit is not None and len(answer.rows) > limit:
            out.print(f"and {len(answer.rows) - limit} more (--all)", style="dim")
    for note in answer.notes:
        out.print(note, style="dim")
    out.print()


def _write_csv(folder: Path, answer: Answer) -> None:
    keys = list(dict.fromkeys(key for row in answer.rows for key in row))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{answer.name}.csv") as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.DictWriter(text, keys)
            writer.writeheader()
            writer.writerows(answer.rows)
            text.detach()
    except OSError as error:
        raise NotStartedError(f"{folder} cannot be written ({error}); give a folder that can") from error
