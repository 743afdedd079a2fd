"""The table of a sweep's points, one row a point: what the terminal, MLflow and scripts show. A column is one line here."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.errors import WattcountError
from wattcount.metrics.registry import METRICS
from wattcount.records.reader import Record
from wattcount.report.labels import evidence_label
from wattcount.report.units import clock, quantity
from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.plan import Point
from wattcount.text import WIDTH

GAP = 2
LEAST_WIDTH = 20
"""Least characters for what a point is called."""


@dataclass(frozen=True)
class Column:
    """One column.

    name      in MLflow and JSON, with its unit
    value     None: not known
    unit      of the value, as in the metrics registry; None: it is text
    heading   in a terminal, beside what the point is called; None: not shown there
    metric    of the record's window that the value is
    """

    name: str
    value: Callable[[Point, Outcome], Any]
    unit: str | None = None
    heading: str | None = None
    metric: str | None = None

    def text(self, point: Point, outcome: Outcome) -> str:
        """The value for people; empty where it is not known."""
        value = self.value(point, outcome)
        if value is None or self.unit is None:
            return "" if value is None else str(value)
        return clock(value) if self.unit == "s" else quantity(value, self.unit)


@functools.cache
def evidence_of(record: str) -> str | None:
    """`measured`, `emulated, random weights`; None where the record cannot be read."""
    try:
        info = Record.open(Path(record)).info
        return evidence_label(info.evidence, info.origin, info.resolved.model.weights.value)
    except WattcountError:
        return None


def _evidence(_point: Point, outcome: Outcome) -> str | None:
    if outcome.state is not State.done or outcome.record is None:
        return None
    return evidence_of(outcome.record)


def _figure(name: str, metric: str, heading: str | None = None) -> Column:
    """Column of a figure of the record's window, of points that are done."""

    def value(_point: Point, outcome: Outcome) -> float | None:
        return outcome.figures.get(metric) if outcome.state is State.done else None

    return Column(name, value, METRICS[metric].unit, heading, metric)


COLUMNS = (
    Column("model", lambda point, _: point.model),
    Column("gpu", lambda point, _: point.gpu),
    Column("scenario", lambda point, _: point.scenario),
    Column("load", lambda point, _: point.load),
    Column("seed", lambda point, _: point.seed),
    Column("repeat", lambda point, _: point.repeat),
    Column("state", lambda _, outcome: outcome.state.value, heading="state"),
    Column("evidence", _evidence),
    _figure("j_per_output_token", "energy/gpu_j_per_output_token", "per token"),
    Column("energy_j", lambda _, outcome: outcome.energy_j, "J", "energy"),
    Column("wall_s", lambda _, outcome: outcome.wall_s, "s", "took"),
    Column("tries", lambda _, outcome: outcome.attempt),
    Column("reason", lambda _, outcome: outcome.reason),
    Column("message", lambda _, outcome: outcome.message),
    Column("host", lambda _, outcome: outcome.host),
    Column("gpu_uuid", lambda _, outcome: outcome.gpu_uuid),
    Column("key", lambda point, _: point.key),
    Column("record", lambda _, outcome: outcome.record),
)
FIGURES = tuple(column.metric for column in COLUMNS if column.metric is not None)
"""Metrics that are taken from a record when its point is measured."""


_PER_TOKEN, _TOOK = (next(c for c in COLUMNS if c.name == name) for name in ("j_per_output_token", "wall_s"))


def result_text(point: Point, outcome: Outcome) -> str:
    """`81.30 mJ per output token, took 5:12`."""
    per_token, took = _PER_TOKEN.text(point, outcome), _TOOK.text(point, outcome)
    parts = [f"{per_token} per output token"] * bool(per_token) + [f"took {took}"] * bool(took)
    return ", ".join(parts) or "measured"


def wrapped(first: str, text: str, rest: str) -> list[str]:
    """`text` in lines of WIDTH; the first of them begins with `first`, the others with `rest`. No word is cut."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [first.rstrip()]


def values(point: Point, outcome: Outcome) -> dict[str, Any]:
    """The row of a point by column, in plain JSON types."""
    return {column.name: column.value(point, outcome) for column in COLUMNS}


def table_lines(rows: Sequence[tuple[Point, Outcome]]) -> list[str]:
    """The table for a terminal of WIDTH columns. Columns in which nothing is known are left out."""
    shown = [column for column in COLUMNS if column.heading is not None]
    cells = [[column.text(*row) for row in rows] for column in shown]
    known = [(column.heading or "", texts) for column, texts in zip(shown, cells, strict=True) if any(texts)]
    widths = [max(map(len, (heading, *texts))) for heading, texts in known]
    room = max(WIDTH - 2 - sum(width + GAP for width in widths), LEAST_WIDTH)
    labels = [textwrap.wrap(point.label, room, break_on_hyphens=False) for point, _ in rows]
    first = max((len(line) for lines in labels for line in lines), default=0)

    def line(label: str, texts: Sequence[str]) -> str:
        right = "".join(
            f"{'':{GAP}}{text:>{width}}" if number else f"{'':{GAP}}{text:<{width}}"
            for number, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return f"  {label:<{first}}{right}".rstrip()

    lines = [line("", [heading for heading, _ in known])]
    for number, label in enumerate(labels):
        lines.append(line(label[0], [texts[number] for _, texts in known]))
        lines += [f"    {rest}" for rest in label[1:]]
    return lines if rows else []
