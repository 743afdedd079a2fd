"""`wattcount submit WHICH -o FILE`: records as a bundle that the data set takes."""

from __future__ import annotations

import argparse
import contextlib
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.cli.records import add_path, find_records
from wattcount.errors import EXIT_NOT_STARTED, EXIT_OK, NotStartedError
from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.dataset.submit import Selection

WIDTH = 80
"""Width of what is printed [characters]: that of a terminal that nobody has widened."""
LISTED = 10
"""So many records that are left out are named; the rest are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_path(parser)
    parser.add_argument(
        "-o", "--out", metavar="FILE", type=Path, required=True, help="the bundle: NAME.wattcount"
    )
    parser.add_argument("--handle", help="the name that the data set shows (kept for the next time)")
    parser.add_argument("--contact", help="e-mail or web page for questions; published (kept)")
    parser.add_argument("--licence", help="SPDX name (default: the last one, at first CC-BY-4.0)")
    parser.add_argument(
        "--invalid", action="store_true", help="submit runs that their own checks call invalid, too"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.epilog = "exit codes: 0 the bundle was written, 2 it was not."


def main(args: argparse.Namespace) -> int:
    from wattcount.dataset.bundle import SUFFIX, Submitter, checked_submitter, write_bundle
    from wattcount.dataset.submit import remember, remembered, select, submitter_key

    out: Path = args.out if args.out.suffix == SUFFIX else args.out.with_name(args.out.name + SUFFIX)
    if out.exists() and not args.force:
        raise NotStartedError(f"{out} is there already: give another name, or --force to write over it")
    who = remembered() | {
        name: value for name in ("handle", "contact", "licence") if (value := getattr(args, name)) is not None
    }
    for name in ("handle", "contact"):
        if name not in who:
            raise NotStartedError(f"who submits? give --{name}; it is published, and kept for the next time")
    checked_submitter(who["handle"], who["contact"], who["licence"])
    found = find_records(args.path, records_dir=args.records_dir)
    chosen = select(list(found.paths), args.invalid)
    _say_left_out(chosen.left_out)
    if not chosen.records:
        raise NotStartedError(
            "no record is left to submit; --invalid takes runs that their own checks call invalid"
        )
    print("\n".join(told(who, chosen, out)))
    if not args.yes and not _agreed():
        print("nothing was written")
        return EXIT_NOT_STARTED
    key = submitter_key()
    manifest = write_bundle(
        chosen.records, out, Submitter(who["handle"], who["contact"], who["licence"], key), chosen.cohort
    )
    with contextlib.suppress(OSError):  # it is a convenience
        remember(who)
    print(f"bundle: {out} ({out.stat().st_size / 1e6:.2f} MB, {len(manifest.records)} records)")
    print(f"what the data set will say of it: wattcount validate {out}")
    return EXIT_OK


def told(who: dict[str, str], chosen: Selection, out: Path) -> Sequence[str]:
    """What is published and what is hidden, in lines."""
    from wattcount.dataset.submit import EXAMPLES, HIDDEN, PUBLISHED
    from wattcount.report.units import count

    lines = [
        f"{count(len(chosen.records), 'record')} for {out}, by {who['handle']} ({who['contact']}), {who['licence']}"
    ]
    if chosen.cohort:
        lines.append(f"cohort {chosen.cohort}")
    if chosen.emulated:
        lines += textwrap.wrap(
            f"{count(chosen.emulated, 'record')} of an emulated GPU: good for trying this out; the open data set refuses them.",
            WIDTH,
        )
    lines += ["", "published:", *_table(PUBLISHED), "", "hidden:", *_table(HIDDEN)]
    names = [*chosen.hosts, *chosen.boards]
    if names:
        shown = printable(", ".join(names[:EXAMPLES]), lines=False) + (
            f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
        )
        lines += ["", *textwrap.wrap(f"Names that get pseudonyms here: {shown}.", WIDTH)]
    return lines


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    wide = max(len(name) for name, _ in rows) + 4
    return [
        line
        for name, text in rows
        for line in textwrap.wrap(
            text, WIDTH, initial_indent=f"  {name}".ljust(wide), subsequent_indent=" " * wide
        )
    ]


def _say_left_out(left_out: dict[Path, str]) -> None:
    for path, why in list(left_out.items())[:LISTED]:
        print(f"wattcount: left out: {printable(f'{path}: {why}', lines=False)}", file=sys.stderr)
    if len(left_out) > LISTED:
        print(f"wattcount: left out: {len(left_out) - LISTED} more", file=sys.stderr)


def _agreed() -> bool:
    """Raises `NotStartedError` where nobody can answer."""
    if not sys.stdin.isatty():
        raise NotStartedError("nobody can be asked here: read what is published above, and give --yes")
    return input("\nPublish this? Type yes: ").strip().lower() in ("y", "yes")
