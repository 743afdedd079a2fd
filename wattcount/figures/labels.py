"""Words of others in a picture or on its page: as text, in one line, and not so long that they push all else away."""

from __future__ import annotations

from wattcount.records import Record
from wattcount.report.labels import caveats
from wattcount.text import printable

MOST_CHARACTERS = 120
"""Longest name in a picture [characters]."""
MOST_SENTENCE = 600
"""Longest sentence of a record on a page [characters]: our own have at most some 400."""


def shown(text: object, most: int = MOST_CHARACTERS) -> str:
    """The text in one line, cut to `most` characters. None is empty."""
    if text is None:
        return ""
    line = printable(" ".join(str(text).split()), lines=False)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def sentence(text: str) -> str:
    """As `shown`, for a finding or a note."""
    return shown(text, MOST_SENTENCE)


def caveats_of(record: Record) -> list[str]:
    """What stands on every picture of a record."""
    return caveats(str(record.info.evidence), record.info.resolved.model.weights.value)
