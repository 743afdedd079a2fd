"""`wattcount study SOURCE`: what a set of results says to the standing questions."""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from wattcount.cli.sources import QUALITY, results_of, scores_of, slo_of
from wattcount.errors import EXIT_OK, NotStartedError
from wattcount.files import replacing
from wattcount.report.labels import gpu_label
from wattcount.result import Result
from wattcount.study.answers import Answer
from wattcount.study.questions import QUESTIONS, USUAL_SLO, Study
from wattcount.terminal import console, table

DETAILS_FROM = 110
"""Width of a terminal from which on all columns are shown [characters]; --json and --csv have all of them."""
MOST_ROWS, MOST_OF_OTHERS = 20, 6
"""Rows of a table on a terminal: what fits on one screen; of results that others published, which nobody repeated, enough to see what they are."""


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
    study = Study(results, args.slo, _gpu_of(args.default_gpu, results), scores_of(args.quality, results))
    names = args.only or list(QUESTIONS)
    if args.json:
        parts = study.parts()
        print(json.dumps([_to_json(study, parts, name) for name in names], indent=2))
    elif args.csv is not None:
        for name in names:
            _write_csv(args.csv, study.answer(name))
        console().print(f"{len(names)} files in {args.csv}", soft_wrap=True)
    else:
        out, parts = console(), study.parts()
        if study.data:
            out.print(f"{study.data}\n")
        for name in names:
            _show(out, parts, name, None if args.all else MOST_ROWS)
    return EXIT_OK


def _gpu_of(name: str | None, results: Sequence[Result]) -> str | None:
    """The GPU as results name it, by that name or by its option. Raises NotStartedError where no result is of it."""
    if name is None:
        return None
    known = {gpu_label(sorted(set(run.gpus))) if run.gpus else str(run.gpu): run.gpu for run in results}
    for label, option in known.items():
        if name.lower() in (label.lower(), str(option).lower()):
            return label
    raise NotStartedError(f"no result is of the GPU {name}; give one of {', '.join(sorted(known))}")


def _to_json(study: Study, parts: Sequence[Study], name: str) -> dict[str, Any]:
    """All rows together, and the sentence of each origin by itself."""
    apart = [(part.source, part.answer(name)) for part in parts]
    by = [{"of": source, "answer": one.sentence, "sure": one.sure} for source, one in apart if one.rows]
    return study.answer(name).to_json() | {"by_origin": by}


def _show(out: Console, parts: Sequence[Study], name: str, limit: int | None) -> None:
    answers = [(part, part.answer(name)) for part in parts]
    out.print(answers[0][1].question, style="bold")
    told = [(part, answer) for part, answer in answers if answer.rows]
    if not told:
        out.print(answers[0][1].sentence)
    for part, answer in told:
        own = part.source == parts[0].source
        out.print(f"{part.source}. {answer.sentence}")
        if answer.sure:
            out.print(answer.sure, style="dim")
        _table(out, answer, limit if limit is None or own else min(limit, MOST_OF_OTHERS))
    if told:
        for note in told[0][1].notes:
            out.print(note, style="dim")
    out.print()


def _table(out: Console, answer: Answer, limit: int | None) -> None:
    wide = out.width >= DETAILS_FROM
    headings, rows = answer.cells(limit, wide)
    if not wide:
        rows = [[cell.replace("NVIDIA ", "").replace(" HBM3", "") for cell in row] for row in rows]
        headings = [heading if len(heading) < 5 else heading.replace(" ", "\n") for heading in headings]
    made = table(headings, answer.words)
    # Only words are wrapped, so figures stay whole.
    for column in made.columns[: answer.words]:
        column.no_wrap, column.overflow = False, "fold"
    for row in rows:
        made.add_row(*row)
    out.print(made)
    if limit is not None and len(answer.rows) > limit:
        out.print(f"and {len(answer.rows) - limit} more (--all)", style="dim")


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
