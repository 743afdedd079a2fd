"""Records named on a command line: a record, or a folder with records anywhere below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wattcount.errors import NotStartedError, WattcountError
from wattcount.record.schema import RUN_JSON


def find_records(paths: Iterable[str | Path]) -> list[Path]:
    """Folders of the records, each once, in the order of `paths` and of their runs below a folder.

    Unfinished records (`.tmp-...`) are passed over. Raises `NotStartedError` where a path has none.
    """
    found: dict[Path, None] = {}
    for given in paths:
        path = Path(given)
        if path.name == RUN_JSON:
            path = path.parent
        if not path.is_dir():
            what = "is not a folder" if path.exists() else "does not exist"
            raise NotStartedError(f"{path} {what}; give a run record or a folder with records below it")
        if (path / RUN_JSON).is_file():
            found[path.resolve()] = None
            continue
        top = path.resolve()
        below = [
            entry.parent
            for entry in top.rglob(RUN_JSON)
            if not any(part.startswith(".tmp-") for part in entry.relative_to(top).parts)
        ]
        # `r<repeat>-<run id>`, and a run id begins with its time.
        below.sort(key=lambda folder: (folder.name.partition("-")[2], folder))
        if not below:
            raise NotStartedError(f"no run record (a folder with {RUN_JSON}) in or below {path}")
        found |= dict.fromkeys(below)
    return list(found)


@contextmanager
def bad_input() -> Iterator[None]:
    """Makes a record that cannot be read bad input (exit code 2), whichever of its files is damaged."""
    try:
        yield
    except NotStartedError:
        raise
    except WattcountError as error:
        raise NotStartedError(str(error)) from error
