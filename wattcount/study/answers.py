"""The answer to a standing question: plain rows, one sentence made from them, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wattcount.report.units import significant

Row = Mapping[str, Any]

NOTHING = "The results do not tell."
"""The sentence of a question that no result answers."""


@dataclass(frozen=True)
class Column:
    """A column of an answer: the key of the row, the heading, the unit, and how many significant digits are shown.

    detail  left out where there is little room
    brief   shown only there, instead of several
    """

    key: str
    heading: str
    unit: str = ""
    digits: int = 3
    detail: bool = False
    brief: bool = False

    def text(self, row: Row) -> str:
        value = row.get(self.key)
        if value is None:
            return "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return str(value)
        if not isinstance(value, float):
            return str(value)
        if self.unit == "%":
            return f"{value:+.1f} %"
        if self.unit == "share":
            return f"{100 * value:.0f} %"
        return significant(value, self.digits)

    @property
    def title(self) -> str:
        return f"{self.heading}, {self.unit}" if self.unit not in ("", "%", "share") else self.heading


@dataclass(frozen=True)
class Answer:
    """What a set of results says to a question.

    name      short, for files and --only
    rows      plain values in the units of their keys; None: not known
    columns   those that people are shown, in order; the first `words` of them hold words
    sentence  one, made from the rows
    sure      how sure that is, and why
    data      what the rows rest on: evidence, origins, boards, starts, runs
    """

    name: str
    question: str
    columns: Sequence[Column]
    words: int
    rows: Sequence[Row]
    sentence: str
    sure: str
    notes: Sequence[str] = field(default=())
    data: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "question": self.question,
            "answer": self.sentence,
            "sure": self.sure,
            "data": self.data,
            "notes": list(self.notes),
            "rows": [dict(row) for row in self.rows],
        }

    def shown(self, details: bool = True) -> list[Column]:
        """The columns that some row fills. `details`: where there is room for all."""
        return [
            column
            for column in self.columns
            if any(row.get(column.key) is not None for row in self.rows)
            and not (column.brief if details else column.detail)
        ]

    def cells(self, limit: int | None = None, details: bool = True) -> tuple[list[str], list[list[str]]]:
        """(headings, texts) as people are shown, of the columns `shown`. `limit`: at most so many rows."""
        shown = self.shown(details)
        return [c.title for c in shown], [[c.text(row) for c in shown] for row in self.rows[:limit]]
