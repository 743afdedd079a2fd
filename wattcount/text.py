"""Text that others wrote, shown as text; and what a terminal cannot show, written otherwise."""

from __future__ import annotations

import codecs
import io
from typing import Any, TextIO

WIDTH = 80
"""Columns of output to what is no terminal; every terminal has as many."""

DEGRADE = "wattcount-degrade"
"""Name of the error handler that `degrade` sets."""

_IN_ASCII = {
    "\u00b1": "+-",
    "\u00d7": "x",
    "\u00b5": "u",
    "\u2026": "...",
    "\u2013": "-",
    "\u2014": "-",
    "\u00b0": "deg",
    "\u00b2": "2",
}
"""What is written where the encoding lacks a character."""


def printable(text: str, *, lines: bool = True) -> str:
    """The text with every character that a terminal would obey, or that hides others, as `\\x1b`, `\\u202e`, ...

    lines   line ends and tabulators stay
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in text)


def degrade(*streams: TextIO | Any) -> None:
    """Lets streams write what their encoding lacks in other characters (`+-` for `±`) instead of failing."""
    codecs.register_error(DEGRADE, _in_other_characters)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=DEGRADE)


def _in_other_characters(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(c) or _escaped(c) for c in failed), error.end


def _escaped(character: str) -> str:
    return (
        character.encode("ascii", "backslashreplace").decode()
        if ord(character) > 127
        else f"\\x{ord(character):02x}"
    )
