"""Numbers, times, counts and tables as text: few significant digits, a prefix that fits, always with the unit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from wattcount.text import printable

DIGITS = 4
"""Significant digits of figures that are shown: more than the sensors are worth."""

_PREFIXES: dict[str, list[tuple[float, str]]] = {
    "J": [(1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")],
    "W": [(1.0, "W"), (1e-3, "mW")],
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")],
    "ms": [(1e3, "s"), (1.0, "ms"), (1e-3, "us")],
}
"""Prefixed units by unit, each with its size in that unit; the largest comes first."""
_WORDS = {"1": "", "C": "degC"}
"""Units with another name than in the registry of metrics."""


def significant(value: float | None, digits: int = DIGITS) -> str:
    """`value` with `digits` significant digits, without an exponent: 12340, 1.234, 0.01234; None is `-`."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".rsplit("e", 1)[1])  # of the rounded value: 0.99996 is 1.000
    decimals = max(digits - 1 - exponent, 0)
    return f"{value:.{decimals}f}"


def scale_for(values: Iterable[float | None], unit: str, digits: int = DIGITS) -> tuple[float, str]:
    """(size of the unit to show, its name) that suits the smallest of `values`: 0.0813 J -> (1e-3, `mJ`)."""
    steps = _PREFIXES.get(unit)
    if steps is None:
        return 1.0, _WORDS.get(unit, unit)
    # Rounded first: 999.96 mJ is 1.000 J, not 1000.0 mJ.
    sizes = [abs(float(f"{value:.{digits - 1}e}")) for value in values if value]
    if not sizes:
        return 1.0, unit
    return next((step for step in steps if min(sizes) >= step[0]), steps[-1])


def quantity(value: float | None, unit: str, digits: int = DIGITS) -> str:
    """`value` in `unit` (as in the metrics registry), with a prefix: 0.0813 J -> `81.30 mJ`.

    Counts are whole; None is `-`.
    """
    if value is None:
        return "-"
    if unit == "bitmask":
        return f"0x{int(value):x}"
    scale, name = scale_for([value], unit, digits)
    text = str(value) if isinstance(value, int) and unit in ("1", "C") else significant(value / scale, digits)
    return f"{text} {name}".strip()


def clock(seconds: float) -> str:
    """Time that has passed, as a clock shows it: `0:07`, `12:30`, `1:02:03`. Parts of a second are cut off."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def duration(seconds: float) -> str:
    """A time that is estimated, as coarse as the estimate: `45 s`, `12 min`, `3 h 20 min`, `4 days 6 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def count(number: int, what: str) -> str:
    """`1 point`, `3,211 points`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def spreadsheet_text(value: Any) -> Any:
    """The value, made harmless where it is text: spreadsheets take it for no formula, terminals for no command."""
    if not isinstance(value, str):
        return value
    text = printable(value, lines=False)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


Row = Sequence[str]


def markdown(head: Row, rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def columns(head: Row, rows: Sequence[Row], left: int = 1) -> str:
    """Columns as wide as their widest cell. The first `left` columns hold words, the others figures, which are right-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )
