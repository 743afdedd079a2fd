"""Records named on a command line: a record, a folder with records anywhere below it, or a name that is no path.

Names are those of sweeps, ids of runs, short ids of runs (`b685d2`) and ids of points, of the folder of records.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from wattcount.config.paths import default_records_dir
from wattcount.errors import NotStartedError, WattcountError
from wattcount.records.schema import RUN_JSON
from wattcount.result import record_folders
from wattcount.sweep.ledger import FORMER_SWEEPS_FOLDER, SWEEPS_FOLDER, read_tally, sweeps
from wattcount.text import printable

T = TypeVar("T")
"""What is made of each record."""


WHAT = "a run record, a folder with records below it, a sweep's name, or the id of a run or point (wattcount list)"
"""What a command takes for records, in its help."""
LEAST_ID = 4
"""Fewest characters that are taken for the begin or the end of an id: fewer fit too many."""


def add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="WHICH", nargs="+", help=WHAT)
    add_records_dir(parser)


def add_records_dir(parser: argparse.ArgumentParser, what: str = "where names and ids are looked up") -> None:
    parser.add_argument(
        "--records-dir",
        metavar="DIR",
        default=default_records_dir(),
        help=f"{what} (%(default)s)",
    )


class Found:
    """The folders of the records that were asked for, each once, in the order of the given paths.

    paths  the folders
    named  those that were given themselves, not by a folder above them
    """

    def __init__(self) -> None:
        self.paths: dict[Path, None] = {}
        self.named: set[Path] = set()
        self.set_aside = 0
        """Records below a folder that could not be read, each of which was told of."""

    def each(self, work: Callable[[Path], T]) -> list[T]:
        """What `work` makes of each record.

        A damaged record below a folder is set aside with one line on standard error, and the others go on. Raises
        `NotStartedError` for a damaged record that was given itself, and where no record is left.
        """
        done = []
        last = ""
        for path in self.paths:
            try:
                with bad_input():
                    done.append(work(path))
            except NotStartedError as error:
                if path in self.named:
                    raise
                self.set_aside += 1
                last = printable(str(error), lines=False)
                print(f"wattcount: set aside: {last}", file=sys.stderr)
        if not done:
            raise NotStartedError(f"no record that can be read: {last}")
        return done


def find_records(
    paths: Iterable[str | Path],
    also: Callable[[Path], bool] = lambda _: False,
    records_dir: str | Path | None = None,
) -> Found:
    """The records in or below `paths`; below a folder in the order of their runs.

    also         whether a given path is taken as it is, although it is no record
    records_dir  where what is no path is looked up as a name or an id; None: the folder of this user's records

    Unfinished records (`.tmp-...`) are left out, and links to folders are not followed. Raises `NotStartedError` for a path
    without a record, and for a name that nothing has or that several runs share.
    """
    found = Found()
    for given in paths:
        path = Path(given)
        if path.resolve().parent.name in (SWEEPS_FOLDER, FORMER_SWEEPS_FOLDER) and path.is_dir():
            found.paths |= dict.fromkeys(sweep_records(path.resolve().name, path.resolve().parent.parent))
            continue
        if not os.path.lexists(path) and (
            named := _by_name(str(given), Path(records_dir or default_records_dir()))
        ):
            found.paths |= dict.fromkeys(named)
            found.named |= set(named) if len(named) == 1 else set()
            continue
        if path.name == RUN_JSON:
            path = path.parent
        if also(path):
            found.paths[path.resolve()] = None
            found.named.add(path.resolve())
            continue
        if not _is_folder(path):
            what = "is not a folder" if os.path.lexists(path) else "does not exist"
            raise NotStartedError(f"{path} {what}; give {WHAT}")
        top = path.resolve()
        if os.path.lexists(top / RUN_JSON):
            found.paths[top] = None
            found.named.add(top)
            continue
        # `r<repeat>-<run id>`, and a run id begins with its time.
        below = sorted(_below(top), key=lambda folder: (folder.name.partition("-")[2], folder))
        if not below:
            raise NotStartedError(f"no run record (a folder with {RUN_JSON}) in or below {path}")
        found.paths |= dict.fromkeys(below)
    return found


def _by_name(name: str, records_dir: Path) -> list[Path]:
    """The records of a sweep, of a run or of a point, by name or id, in the order of their runs; none where nothing has that name.

    Raises `NotStartedError` where the name is the end of several runs' ids.
    """
    records_dir = records_dir.expanduser()
    if "/" in name or not records_dir.is_dir():
        return []
    if found := sweep_records(name, records_dir):
        return found
    if len(name) < LEAST_ID:
        return []
    # `<first 12 digits of the point>/r<repeat>-<run id>`, and a run id begins with its time.
    ids = {folder: folder.rpartition("/r")[2].partition("-")[2] for folder in record_folders(records_dir)}
    points = {
        folder
        for folder in ids
        if folder.startswith(name.lower()[:12]) and re.fullmatch("[0-9a-fA-F]+", name)
    }
    runs = {folder for folder, run_id in ids.items() if run_id == name or run_id.endswith(f"-{name.lower()}")}
    if len(runs) > 1:
        raise NotStartedError(
            f"{name} is the id of several runs: {', '.join(sorted(ids[folder] for folder in runs))}"
        )
    return [
        (records_dir / folder).resolve() for folder in sorted(runs or points, key=lambda folder: ids[folder])
    ]


def sweep_records(name: str, records_dir: Path) -> list[Path]:
    """The latest record of each point of a sweep, of a search all, in the order of its plan; none where there is no such sweep.

    Raises `NotStartedError` where its files cannot be read, and for a sweep that has no record yet.
    """
    if name not in sweeps(records_dir):
        return []
    with bad_input():
        rows = read_tally(records_dir, name).state(time.time_ns()).rows
    told = [outcome.all_records or (point.record or "",) for point, outcome in rows]
    found = [Path(record) for records in told for record in records if record]
    if there := [path for path in found if path.is_dir()]:
        return there
    raise NotStartedError(f"sweep {name} has no record yet: wattcount status {name} says how it stands")


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder. Raises `NotStartedError` where that cannot be looked at."""
    try:
        if not path.is_dir():
            return False
        with os.scandir(path):
            return True
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise NotStartedError(f"{path} cannot be read: {what}") from error


def _below(top: Path) -> Iterator[Path]:
    """Folders that have something called `run.json`. Folders that cannot be read are left out."""
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith(".tmp-"))
        if RUN_JSON in files or RUN_JSON in subfolders:
            yield Path(folder)


@contextmanager
def bad_input() -> Iterator[None]:
    """Turns the error of a damaged record into bad input (exit code 2), whichever of its files is damaged."""
    try:
        yield
    except NotStartedError:
        raise
    except WattcountError as error:
        raise NotStartedError(str(error)) from error
