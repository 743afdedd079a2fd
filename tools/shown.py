"""What `wattcount show` and `wattcount results` print of records, for docs/tutorial.md."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from unittest import mock

from wattcount.cli import main as program

RECORD = "data/campaign/records/04ba9ee79df3/r0-20261127-210011-133-d1889e"
"""The record of the tutorial: a server of 4 requests/s on an H100."""
POINTS = ("data/campaign/records/04ba9ee79df3", "data/campaign/records/32bf1088172d")
"""The two points of the tutorial's table of results: 4 and 16 requests/s."""
COLUMNS = 80
"""Width of the terminal [characters]."""


def record(path: Path) -> str:
    """The result and the phases, as a block of code; not where the record lies."""
    return _block(_printed("show", path).partition("\nrecord\n")[0])


def results(paths: Iterable[Path]) -> str:
    """The table of results, as a block of code."""
    return _block(_printed("results", *paths))


def _printed(command: str, *paths: Path) -> str:
    text = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS=str(COLUMNS)), contextlib.redirect_stdout(text):
        program.main([command, *map(str, paths)])
    return text.getvalue()


def _block(text: str) -> str:
    return "\n".join(["```text", *(line.rstrip() for line in text.strip().splitlines()), "```"])
