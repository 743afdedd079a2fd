"""Where what people read is printed: consoles that take every text as it is, and tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table

from wattcount.text import WIDTH, printable


class PlainConsole(Console):
    """A console for text that others wrote: no markup, no emoji codes, and no control characters but its own colours."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What rich is to write, with its texts made `printable`."""
        return self._printable(super().render(renderable, options))

    def _printable(self, segments: Iterable[Segment]) -> Iterator[Segment]:
        for segment in segments:
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def console() -> PlainConsole:
    """Standard output. Where it is no terminal, it has 80 columns and no colour."""
    if sys.stdout.isatty():
        return PlainConsole()
    return PlainConsole(width=WIDTH, color_system=None)


def table(headings: Sequence[str], words: int = 1, gap: int = 1) -> Table:
    """A table without lines around it, of cells that are not wrapped.

    words  so many columns, from the left, hold words; the others hold figures, which are right-aligned
    gap    blanks between columns
    """
    made = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0))
    for position, heading in enumerate(headings):
        made.add_column(heading, justify="left" if position < words else "right", no_wrap=True)
    return made
