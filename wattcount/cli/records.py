"""Records named on a command line: a record, or a folder with records anywhere below it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from wattcount.errors import NotStartedError, WattcountError
from wattcount.records.schema import RUN_JSON
from wattcount.text import printable

T = TypeVar("T")
"""What is made of each record."""


def add_path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="+", help="a run record, or a folder with records below it"
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


def find_records(paths: Iterable[str | Path], also: Callable[[Path], bool] = lambda _: False) -> Found:
    """The records in or below `paths`; below a folder in the order of their runs.

    also  whether a given path is taken as it is, although it is no record

    Unfinished records (`.tmp-...`) are left out, and links to folders are not followed. Raises `NotStartedError` for a path
    without a record.
    """
    found = Found()
    for given in paths:
        path = Path(given)
        if path.name == RUN_JSON:
            path = path.parent
        if also(path):
            found.paths[path.resolve()] = None
            found.named.add(path.resolve())
            continue
        if not _is_folder(path):
            what = "is not a folder" if os.path.lexists(path) else "does not exist"
            raise NotStartedError(f"{path} {what}; give a run record or a folder with records below it")
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
