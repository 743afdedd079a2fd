"""`wattcount dataset ...`: make a data set, add to it, read it, check it."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wattcount.dataset import rows
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, Version
from wattcount.errors import (
    EXIT_FAILED,
    EXIT_NOT_STARTED,
    EXIT_OK,
    NotStartedError,
    WattcountError,
    one_line,
)
from wattcount.records.schema import Evidence
from wattcount.report.units import significant, spreadsheet_text
from wattcount.terminal import PlainConsole, console, table
from wattcount.text import printable

WIDEST = 1000
"""Width of tables where no terminal shows them [columns]: nothing is cut off for a script."""
LONGEST_DIFF = 20
"""Results that `diff` names on each side; the others are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def command(name: str, what: str, where: str = "DS") -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=what)
        if where:
            made.add_argument("dataset", metavar=where, help="folder or URL of a data set")
        return made

    init = command("init", "make a data set without results")
    init.add_argument("--name", help="what it is called; as it is, its last folder's name")
    init.add_argument("--url", help="where it will be published")
    init.add_argument(
        "--evidence",
        choices=[item.value for item in Evidence],
        default=Evidence.MEASURED.value,
        help="what all its results are; as it is, measured",
    )
    _date(init)
    add = command("add", "validate bundles and add what passes; each comes as a whole or not at all")
    add.add_argument(
        "bundle", nargs="+", type=Path, metavar="BUNDLE", help="what `wattcount submit` or `import` wrote"
    )
    add.add_argument(
        "--accept-flagged", action="store_true", help="a person has looked at what the validator flagged"
    )
    add.add_argument(
        "--at", metavar="URL", help="the bundle stays where it is: where others find it, not copied"
    )
    _date(add)
    listed = command("list", "list the submissions of a version, or its results")
    listed.add_argument("--results", action="store_true", help="a line a result")
    listed.add_argument("--history", action="store_true", help="a line a version")
    listed.add_argument("--json", action="store_true", help="for scripts")
    _version(listed)
    query = command("query", "answer SQL over the table `results`; the SQL can read nothing else")
    query.add_argument("sql", metavar="SQL")
    query.add_argument("--format", choices=("table", "csv", "json"), default="table")
    _version(query)
    diff = command("diff", "tell what differs between two versions, or two data sets", where="")
    diff.add_argument("a", metavar="A", help="a data set, or DS@VERSION")
    diff.add_argument("b", metavar="B", help="another, or @VERSION of the same")
    remove = command("remove", "withdraw a submission, or one result; versions before keep it")
    remove.add_argument(
        "id", metavar="ID", help="id of a submission or result, or its first six characters or more"
    )
    remove.add_argument("--reason", required=True, help="goes into CHANGELOG.md")
    remove.add_argument(
        "--replaced",
        action="store_true",
        help="its records will come again, put right, in another submission; else they are copies for ever",
    )
    _date(remove)
    export = command("export", "write a version as one file")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    kind = export.add_mutually_exclusive_group()
    kind.add_argument(
        "--parquet", action="store_true", help="the rows as they are; so it is without any of these"
    )
    kind.add_argument("--json", action="store_true")
    kind.add_argument(
        "--csv",
        action="store_true",
        help="the 15 columns of Watt Counts, of valid results; fetches their records",
    )
    _version(export)
    check = command(
        "check", "compare hashes, rows with their references, and figures with those of their records"
    )
    check.add_argument("--no-records", action="store_true", help="without fetching any record")
    check.add_argument("--latest-only", action="store_true", help="without files of versions before")
    check.add_argument(
        "--repair", action="store_true", help="finish first what an addition that died has left"
    )
    command("card", "write the data card README.md and croissant.json into the data set")
    record = command("record", "fetch the record behind a result")
    record.add_argument("id", metavar="ID", help="id of the result, or the begin of it")
    record.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    template = command("template", "make a repository in which strangers add by pull requests", where="")
    template.add_argument("folder", type=Path, metavar="FOLDER", help="empty, or not there")
    command("tiers", "say which settings a second submitter has reproduced, and by how much they differ")


def _version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", type=int, metavar="N", dest="number", help="that version; as it is, the latest"
    )


def _date(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--date", metavar="YYYY-MM-DD", help="day of the change; as it is, today in UTC")


def main(args: argparse.Namespace) -> int:
    action: int = ACTIONS[args.action](args)
    return action


def _day(args: argparse.Namespace) -> str:
    if args.date is None:
        return dt.datetime.now(dt.UTC).date().isoformat()
    try:
        return dt.date.fromisoformat(args.date).isoformat()
    except ValueError:
        raise NotStartedError(f"--date {args.date!r} is no day such as 2026-10-01") from None


def _opened(args: argparse.Namespace) -> tuple[Dataset, Version]:
    dataset = Dataset.open(args.dataset)
    return dataset, dataset.latest() if args.number is None else dataset.version(args.number)


def init(args: argparse.Namespace) -> int:
    name = args.name or args.dataset.rstrip("/").rpartition("/")[2]
    dataset = Dataset.init(args.dataset, name, _day(args), Evidence(args.evidence), args.url)
    _say(f"{dataset.where}: a data set of {args.evidence} results, version 1, without any yet")
    return EXIT_OK


def add(args: argparse.Namespace) -> int:
    from wattcount.dataset.adding import add_file

    if args.at is not None and len(args.bundle) > 1:
        raise NotStartedError("--at says where one bundle is: add the others by themselves")
    dataset = Dataset.open(args.dataset)
    done = refused = 0
    for path in args.bundle:
        try:
            outcome = add_file(dataset, path, _day(args), accept_flagged=args.accept_flagged, at=args.at)
        except NotStartedError as error:
            refused += 1
            _complain(f"{path}: not added: {error}")
            continue
        done += 1
        number = outcome.version.number
        if outcome.changed:
            _say(f"{path}: added {outcome.num_results} results as version {number}")
        else:
            _say(f"{path}: is in the data set already (version {number}); nothing was changed")
    if not refused:
        return EXIT_OK
    return EXIT_FAILED if done else EXIT_NOT_STARTED


def list_(args: argparse.Namespace) -> int:
    dataset, version = _opened(args)
    if args.history:
        found = [change.to_json() for change in version.changes]
        names: Sequence[str] = ("version", "date", "what", "submission", "handle", "num_results", "reason")
    elif args.results:
        names = (
            rows.ID,
            "model",
            "gpu",
            "kind",
            "rate_rps",
            "status",
            "energy_gpu_j_per_output_token",
            rows.SUBMISSION,
        )
        found = dataset.table(version, names).to_pylist()
    else:
        names = ("submission", "date", "handle", "origin", "decision", "results", "withdrawn")
        left = dataset.table(version, (rows.SUBMISSION,))[rows.SUBMISSION].to_pylist()
        found = [
            {
                "submission": change.submission,
                "date": change.date,
                "handle": change.handle,
                "origin": change.origin,
                "decision": change.decision,
                "results": left.count(change.submission),
                "withdrawn": change.num_results - left.count(change.submission),
            }
            for change in version.changes
            if change.what == ADD
        ]
    if args.json:
        print(json.dumps(found, indent=1))
        return EXIT_OK
    _say(
        f"{version.name}, version {version.number} of {version.changes[-1].date}: {version.num_results} results, {version.evidence.value}"
    )
    _table(names, ([item.get(name) for name in names] for item in found))
    return EXIT_OK


def query(args: argparse.Namespace) -> int:
    from wattcount.dataset.query import query as ask

    dataset, version = _opened(args)
    answer = ask(dataset, args.sql, version)
    if args.format == "json":
        print(json.dumps(answer.to_pylist(), indent=1, default=str))
    elif args.format == "csv":
        import csv

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(answer.schema.names)
        for row in answer.to_pylist():
            writer.writerow(["" if value is None else spreadsheet_text(value) for value in row.values()])
    else:
        _table(answer.schema.names, (row.values() for row in answer.to_pylist()))
    return EXIT_OK


def diff(args: argparse.Namespace) -> int:
    from wattcount.dataset.diff import difference

    (one, first), (other, second) = _side(args.a, None), _side(args.b, args.a)
    found = difference(one, first, other, second)
    _say(
        f"{args.a} (version {first.number}, {first.num_results} results) against {args.b} (version {second.number}, {second.num_results} results)"
    )
    for what, items in (("only in the first", found.gone), ("only in the second", found.come)):
        _say(f"{len(items)} {what}")
        for item in items[:LONGEST_DIFF]:
            _say(f"  {item}")
        if len(items) > LONGEST_DIFF:
            _say(f"  ... and {len(items) - LONGEST_DIFF} more")
    _say(f"{len(found.changed)} of the same id with other content")
    for line in found.changed[:LONGEST_DIFF]:
        _say(f"  {line}")
    return EXIT_OK


def _side(text: str, other: str | None) -> tuple[Dataset, Version]:
    where, at, number = text.rpartition("@")
    if not at or not number.isdigit():
        where, number = text, ""
    if not where and other is not None:
        where = other.rpartition("@")[0] if other.rpartition("@")[2].isdigit() else other
    dataset = Dataset.open(where)
    return dataset, dataset.version(int(number)) if number else dataset.latest()


def remove(args: argparse.Namespace) -> int:
    outcome = Dataset.open(args.dataset).remove(args.id, args.reason, _day(args), replaced=args.replaced)
    if outcome.changed:
        _say(
            f"withdrew {outcome.num_results} results in version {outcome.version.number}; the versions before keep them"
        )
    else:
        _say(f"{args.id} is withdrawn already; nothing was changed")
    return EXIT_OK


def export(args: argparse.Namespace) -> int:
    from wattcount.dataset import export as exporting

    dataset, version = _opened(args)
    try:
        if args.csv:
            count = exporting.to_csv(dataset, version, args.output, _complain)
        elif args.json:
            count = exporting.to_json(dataset, version, args.output)
        else:
            count = exporting.to_parquet(dataset, version, args.output)
    except OSError as error:
        raise NotStartedError(
            f"{args.output} cannot be written: {error.strerror or one_line(error)}"
        ) from error
    _say(f"{args.output}: {count} results of version {version.number}")
    return EXIT_OK


def check(args: argparse.Namespace) -> int:
    from wattcount.dataset.check import check as examine

    dataset = Dataset.open(args.dataset)
    if args.repair:
        dataset.settle(remove_strays=True)
    shown = sys.stderr.isatty()

    def say(text: str) -> None:
        if shown:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    wrong = examine(dataset, records=not args.no_records, all_versions=not args.latest_only, say=say)
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr)
    for line in wrong:
        _complain(line)
    latest = dataset.latest()
    if wrong:
        return EXIT_FAILED
    what = "" if args.no_records else ", and their figures follow from their records"
    _say(
        f"{dataset.where}: version {latest.number} is whole: {latest.num_results} results are what was added{what}"
    )
    return EXIT_OK


def card(args: argparse.Namespace) -> int:
    from wattcount.dataset.card import write_card

    dataset = Dataset.open(args.dataset)
    _say(f"{dataset.where}: wrote {' and '.join(write_card(dataset))} of version {dataset.latest().number}")
    return EXIT_OK


def record(args: argparse.Namespace) -> int:
    from wattcount.dataset.references import fetched, find, references

    dataset = Dataset.open(args.dataset)
    version = dataset.latest()
    reference = find(references(dataset, version), args.id)
    if args.output.exists():
        raise NotStartedError(f"{args.output} is there already")
    with fetched(dataset, version, [reference]) as found:
        for _, path in found:
            if isinstance(path, WattcountError):
                raise path
            shutil.copytree(path, args.output)
    _say(f"record: {args.output}")
    return EXIT_OK


def template(args: argparse.Namespace) -> int:
    from wattcount.dataset.community import write_template

    written = write_template(args.folder)
    _say(f"{args.folder}: a repository of {len(written)} files; CONTRIBUTING.md says who does what")
    _say(f"go on with: cd {args.folder} && git init -b main && wattcount dataset init dataset --name NAME")
    return EXIT_OK


def tiers(args: argparse.Namespace) -> int:
    from wattcount.dataset.tiers import comparisons
    from wattcount.dataset.tiers import tiers as found_tiers

    results = Dataset.open(args.dataset).results()
    found = found_tiers(results)
    names = {r.setting_key: r for r in results if r.setting_key}
    _table(
        ("setting", "model", "submitter", "tier"),
        ([key[:12], names[key].model, handle, tier.value] for (key, handle), tier in sorted(found.items())),
    )
    for comparison in comparisons(results):
        _say(f"{comparison.setting_key[:12]}: {comparison.words}")
    return EXIT_OK


# What each word after `wattcount dataset` runs.
ACTIONS = {
    "init": init,
    "add": add,
    "list": list_,
    "query": query,
    "diff": diff,
    "remove": remove,
    "export": export,
    "check": check,
    "card": card,
    "record": record,
    "template": template,
    "tiers": tiers,
}


def _table(names: Sequence[str], found: Iterable[Iterable[Any]]) -> None:
    shown = table([printable(name, lines=False) for name in names], words=len(names))
    for column in shown.columns:
        # An id that is cut off names nothing.
        column.no_wrap, column.overflow = False, "fold"
    for row in found:
        shown.add_row(*(_cell(value) for value in row))
    out = console()
    (out if out.is_terminal else PlainConsole(width=WIDEST, color_system=None)).print(shown)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return significant(value)
    return printable(str(value), lines=False)


def _say(text: str) -> None:
    print(printable(text, lines=False))


def _complain(text: str) -> None:
    print(f"wattcount: {printable(text, lines=False)}", file=sys.stderr)
