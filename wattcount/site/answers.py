"""The standing questions of the study, asked of each origin's results by themselves: whoever measured otherwise is not mixed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wattcount.result.result import OWN
from wattcount.site.shown import finite
from wattcount.site.source import Source
from wattcount.study.answers import Answer
from wattcount.study.comparison import Tell
from wattcount.study.questions import QUESTIONS, Study

Told = dict[str, int]


@dataclass(frozen=True)
class Group:
    """The answers of the results of one origin.

    origin   `wattcount`, `imported:mlenergy`, ...
    results  how many there are that count
    """

    origin: str
    results: int
    answers: Sequence[Answer]

    @property
    def own(self) -> bool:
        return self.origin == OWN

    @property
    def name(self) -> str:
        return (
            "Measured with wattcount" if self.own else f"Measured by {self.origin.removeprefix('imported:')}"
        )

    @property
    def anchor(self) -> str:
        return "own" if self.own else self.origin.removeprefix("imported:")

    def answer(self, name: str) -> Answer | None:
        """The answer to a question; None: these results do not tell."""
        return next((answer for answer in self.answers if answer.name == name), None)

    def to_json(self) -> list[dict[str, Any]]:
        return [finite({"of": self.origin, **answer.to_json()}) for answer in self.answers]


def groups(source: Source) -> list[Group]:
    """Our own results first, then others by their number. Answers without a row are left out, and so are origins without an answer."""
    by_origin: dict[str, list[Any]] = {}
    for result in source.results:
        if result.valid and result.is_measured:
            by_origin.setdefault(result.origin, []).append(result)
    order = sorted(by_origin, key=lambda origin: (origin != OWN, -len(by_origin[origin]), origin))
    found = []
    for origin in order:
        study = Study(by_origin[origin])
        answers = [answer for name in QUESTIONS if (answer := QUESTIONS[name](study)).rows]
        if answers:
            found.append(Group(origin, len(by_origin[origin]), answers))
    return found


def told(answer: Answer) -> Told | None:
    """How many of an answer's rows say less, more, or cannot tell; None: it compares nothing."""
    found = [row["tell"] for row in answer.rows if row.get("tell") is not None]
    return {tell.value: found.count(tell.value) for tell in Tell} if found else None


def numbers(answer: Answer) -> list[bool]:
    """Of each column that `Answer.cells` shows, whether it holds numbers, which stand at the right."""
    return [
        all(
            isinstance(value, int | float) and not isinstance(value, bool)
            for row in answer.rows
            if (value := row.get(column.key)) is not None
        )
        for column in answer.shown()
    ]
