"""`wattcount submit WHICH -o FILE`: records as a bundle that the data set takes."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.cli.records import add_path, find_records
from wattcount.errors import EXIT_NOT_STARTED, EXIT_OK, NotStartedError
from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.dataset.submit import Selection, Told

WIDTH = 80
"""Width of what is printed [characters]: that of a terminal that nobody has widened."""
LISTED = 10
"""Most records that are left out and named [1]; the rest are counted."""
NAME_CHARACTERS = 60
"""Longest name that is shown in full [characters]: the UUID of a board has 40."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="the bundle: NAME.wattcount"
    )
    parser.add_argument("--handle", help="the name that the data set shows (kept for the next time)")
    parser.add_argument("--contact", help="e-mail or web page for questions; published (kept)")
    parser.add_argument("--licence", help="SPDX name (default: the last one, at first CC-BY-4.0)")
    parser.add_argument(
        "--cohort", help="the quarter that the records were measured for (default: the one they share)"
    )
    parser.add_argument(
        "--invalid", action="store_true", help="submit runs that their own checks call invalid, too"
    )
    parser.add_argument(
        "--details", action="store_true", help="name each key of the records that is left out"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.epilog = "exit codes: 0 the bundle was written, 2 it was not."


def main(args: argparse.Namespace) -> int:
    from wattcount.dataset.bundle import SUFFIX, Submitter, checked_submitter, write_bundle
    from wattcount.dataset.submit import remember, remembered, select, submitter_key
    from wattcount.dataset.submit import told as becomes_of

    out: Path = args.out if args.out.suffix == SUFFIX else args.out.with_name(args.out.name + SUFFIX)
    if out.exists() and not args.force:
        raise NotStartedError(f"{out} is there already: give another name, or --force to write over it")
    if not os.access(out.parent, os.W_OK | os.X_OK):
        raise NotStartedError(f"cannot write {out}: {out.parent} is no folder that you may write to")
    who = remembered() | {
        name: value for name in ("handle", "contact", "licence") if (value := getattr(args, name)) is not None
    }
    for name, what in (
        ("handle", "the name that the data set shows"),
        ("contact", "for questions, published"),
    ):
        if name not in who:
            who[name] = _asked(name, what)
    checked_submitter(who["handle"], who["contact"], who["licence"])
    found = find_records(args.path, records_dir=args.records_dir)
    chosen = select(list(found.paths), args.invalid)
    _say_left_out(chosen.left_out)
    if not chosen.records:
        raise NotStartedError(
            "no record is left to submit; --invalid takes runs that their own checks call invalid"
        )
    cohort = chosen.cohort(args.cohort)
    if not args.yes and not sys.stdin.isatty():
        # Before the key is made: nothing is left behind.
        print("\n".join(told(who, chosen, cohort, out)))
        raise NotStartedError("nobody can be asked here: read what is published above, and give --yes")
    key = submitter_key()
    print("\n".join(told(who, chosen, cohort, out, becomes_of(chosen, key), args.details)))
    if not args.yes and not _agreed():
        print("nothing was written")
        return EXIT_NOT_STARTED
    manifest = write_bundle(
        chosen.records,
        out,
        Submitter(who["handle"], who["contact"], who["licence"], key),
        cohort,
        _progress if sys.stderr.isatty() else lambda _done, _of: None,
    )
    with contextlib.suppress(OSError):  # it is a convenience
        remember(who)
    print(f"bundle: {out} ({out.stat().st_size / 1e6:.2f} MB, {len(manifest.records)} records)")
    print(f"what the data set will say of it: wattcount validate {out}")
    return EXIT_OK


def told(
    who: dict[str, str],
    chosen: Selection,
    cohort: str | None,
    out: Path,
    found: Told | None = None,
    details: bool = False,
) -> Sequence[str]:
    """What is published and what is hidden, in lines.

    found     what becomes of these records; None: only what becomes of any
    details   each key that is left out
    """
    from wattcount.dataset.submit import HIDDEN, PUBLISHED
    from wattcount.report.units import count

    lines = [
        f"{count(len(chosen.records), 'record')} for {out}, by {who['handle']} ({who['contact']}), {who['licence']}"
    ]
    if cohort:
        lines.append(f"cohort {cohort}")
    if chosen.emulated:
        lines += textwrap.wrap(
            f"{count(chosen.emulated, 'record')} of an emulated GPU: good for trying this out; the open data set refuses them.",
            WIDTH,
        )
    lines += ["", "published:", *_table(PUBLISHED), "", "hidden:", *_table(HIDDEN)]
    if found is not None:
        named = [(what, _some(list(names))) for what, names in found.names.items() if names]
        lines += ["", "names that are published:", *_table(named)]
        pairs = [
            (what if first else "", line)
            for what, names in found.pseudonyms.items()
            for first, line in _pairs(names)
        ]
        lines += ["", "names that get pseudonyms:", *_table(pairs)] if pairs else []
        if found.pseudonyms.get("settings"):
            lines += textwrap.wrap(
                "A setting with a pseudonym is yours alone: nobody else's results are repeats of it.", WIDTH
            )
        if details:
            keys = [
                f"  {printable(key, lines=False)}  {number}" for key, number in sorted(found.left_out.items())
            ]
            lines += ["", "keys of run.json that are left out, and in how many records:", *keys]
    return lines


def _some(names: Sequence[str]) -> str:
    from wattcount.dataset.submit import EXAMPLES

    return ", ".join([*map(_shown, names[:EXAMPLES]), *_rest(len(names) - EXAMPLES)])


def _pairs(names: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    """Names and their pseudonyms, in a line each; whether it is the first."""
    from wattcount.dataset.submit import EXAMPLES

    lines = [f"{_shown(name)} becomes {_shown(other)}" for name, other in list(names.items())[:EXAMPLES]]
    for number, line in enumerate([*lines, *_rest(len(names) - EXAMPLES)]):
        yield number == 0, line


def _shown(name: str) -> str:
    return printable(name, lines=False)[:NAME_CHARACTERS]


def _rest(number: int) -> list[str]:
    return [f"and {number} more"] if number > 0 else []


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    wide = max(len(name) for name, _ in rows) + 4
    return [
        line
        for name, text in rows
        for line in textwrap.wrap(
            text,
            WIDTH,
            initial_indent=f"  {name}".ljust(wide),
            subsequent_indent=" " * wide,
            break_on_hyphens=False,
        )
    ]


def _say_left_out(left_out: dict[Path, str]) -> None:
    for path, why in list(left_out.items())[:LISTED]:
        print(f"wattcount: left out: {printable(f'{path}: {why}', lines=False)}", file=sys.stderr)
    if len(left_out) > LISTED:
        print(f"wattcount: left out: {len(left_out) - LISTED} more", file=sys.stderr)


def _asked(name: str, what: str) -> str:
    """Raises `NotStartedError` where nobody can answer."""
    if not sys.stdin.isatty():
        raise NotStartedError(f"who submits? give --{name}; it is published, and kept for the next time")
    return input(f"Your {name} ({what}): ").strip()


def _agreed() -> bool:
    try:
        return input("\nPublish this? Type yes: ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _progress(done: int, of: int) -> None:
    end = "\n" if done == of else ""
    print(f"\r{done:,} of {of:,} records", end=end, file=sys.stderr, flush=True)
