"""`wattcount validate`: the verdict that the data set's maintainers will see."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", type=Path, help="a bundle (*.wattcount), a record, or a folder of records"
    )
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    parser.add_argument(
        "--markdown", action="store_true", help="print it as Markdown, ready for a comment on a pull request"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="write it as a page, too")
    parser.add_argument("--strict", action="store_true", help="exit code 1 for what is flagged, too")
    parser.add_argument("--dataset", metavar="DS", help="compare with what this data set has already")
    parser.add_argument("--workers", metavar="N", type=int, help="processes at once (default: one a core)")
    parser.add_argument(
        "--memory-mib",
        metavar="N",
        type=int,
        help="memory that each of them may take (default: 768 and 384 times the size of the largest record)",
    )
    parser.epilog = (
        "exit codes: 0 accepted, 1 rejected (with --strict: or flagged), 2 it could not be read. "
        "docs/rules.md has the rules."
    )


def main(args: argparse.Namespace) -> int:
    from wattcount.dataset.bundle import MIB
    from wattcount.dataset.validate import LIMITS, Decision, validate
    from wattcount.dataset.verdict_text import as_html, as_text
    from wattcount.files import write_atomically

    for name, value in (("--workers", args.workers), ("--memory-mib", args.memory_mib)):
        if value is not None and value < 1:
            raise NotStartedError(f"{name} must be at least 1")
    limits = LIMITS
    if args.memory_mib is not None:
        limits = dataclasses.replace(limits, memory_bytes=args.memory_mib * MIB, memory_per_byte=0)
    with _fingerprints(args.dataset) as folder:
        verdict = validate(
            args.path,
            dataset=folder,
            workers=args.workers,
            limits=limits,
            progress=_progress if sys.stderr.isatty() else None,
        )
    if args.html is not None:
        try:
            write_atomically(args.html, as_html(verdict))
        except OSError as error:
            raise NotStartedError(f"cannot write {args.html}: {error.strerror}") from error
    if args.json:
        print(json.dumps(verdict.to_json(), indent=1))
    elif args.markdown:
        from wattcount.dataset.community import bundle_lines

        print("\n".join(bundle_lines(args.path.name, verdict.to_json())))
    else:
        print(as_text(verdict), end="")
    bad = (Decision.rejected, Decision.flagged) if args.strict else (Decision.rejected,)
    return EXIT_FAILED if verdict.decision in bad else EXIT_OK


@contextmanager
def _fingerprints(dataset: str | None) -> Iterator[str | None]:
    """A folder of this machine with what a data set knows its records by. Raises `NotStartedError` where there is no data set."""
    if dataset is None:
        yield None
        return
    from wattcount.dataset.store import Dataset
    from wattcount.dataset.version import FINGERPRINTS

    with Dataset.open(dataset).on_this_machine(FINGERPRINTS) as folder:
        yield str(folder)


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\rvalidating: {done} of {total} records", end=end, file=sys.stderr, flush=True)
