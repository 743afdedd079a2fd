"""Text of others as it stands on a page and in its scripts: it is shown, and does nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from wattcount.text import printable

MOST_CHARACTERS = 160
"""Longest name on a page [characters]: longer ones are cut, for they would push all else away. The API has them whole."""

MOST_SENTENCE = 900
"""Longest sentence or command on a page [characters]: a command that sets all that an engine can be told is shorter."""


def shown(text: object) -> str:
    """One line without signs that hide or turn others, cut to MOST_CHARACTERS. None is empty."""
    if text is None:
        return ""
    line = printable(" ".join(str(text).split()), lines=False)
    return line if len(line) <= MOST_CHARACTERS else f"{line[: MOST_CHARACTERS - 1]}…"


def plain(text: object) -> str:
    """As `shown`, cut to MOST_SENTENCE: for sentences and commands."""
    line = printable(" ".join(str(text).split()), lines=False)
    return line if len(line) <= MOST_SENTENCE else f"{line[: MOST_SENTENCE - 1]}…"


def rounded(value: float | None, digits: int = 5) -> float | int | None:
    """A figure with so many significant digits, as short as JSON can have it."""
    if value is None or isinstance(value, bool | int):
        return value
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def finite(data: Any) -> Any:
    """The data with null for each number that JSON does not have."""
    if isinstance(data, Mapping):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def to_json(data: Any) -> str:
    """JSON in ASCII, the same for the same data. Raises ValueError for what JSON cannot hold."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def in_script(data: Any) -> str:
    """JSON that may stand in a script: nothing in it ends the script or begins a comment."""
    return to_json(data).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
