"""Tables of cells as text: Markdown, and columns for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[str]


def markdown(head: Row, rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def columns(head: Row, rows: Sequence[Row], left: int = 1) -> str:
    """Columns as wide as their widest cell; the first `left` are words, the others right-aligned figures."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
