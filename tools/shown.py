"""What `wattcount show` prints of a record, for docs/tutorial.md."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from wattcount.cli import main as program

RECORD = "data/campaign/records/04ba9ee79df3/r0-20261127-210011-133-d1889e"
"""The record of the tutorial: a server of 4 requests/s on an H100."""
COLUMNS = 80
"""Width of the terminal [characters]."""


def record(path: Path) -> str:
    """The result and the phases, as a block of code; not where the record lies."""
    text = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS=str(COLUMNS)), contextlib.redirect_stdout(text):
        program.main(["show", str(path)])
    lines = [line.rstrip() for line in text.getvalue().partition("\nrecord\n")[0].strip().splitlines()]
    return "\n".join(["```text", *lines, "```"])
