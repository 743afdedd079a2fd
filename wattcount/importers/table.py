"""Tables and JSON that others wrote, read strictly: a row at a time, each value with what it may be.

Every error names file, line and remedy. An empty cell is None where it may be, and never 0.
"""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.importers.power_log import MAX_BOARD_W, bounded_text, first_line
from wattcount.records.intake import parse_json

HEAD_BYTES = 1 << 14
"""Bytes that are read to recognise a JSON file: the metadata before the rows of an export take some 2,000."""
MAX_CELL_CHARS = 16 << 20
"""Longest cell [characters]: the latencies of 100,000 requests as a list take some 2 million."""
MAX_TEXT_CHARS = 500
"""Longest text that is kept [characters]: names of models and GPUs have at most 100."""
MAX_NUMBER_CHARS = 50
"""Longest number [characters]: a double written in full has 24."""
MIN_BOARD_W = 5.0
"""The least that a board draws at work [W]: below the 8 W of an idle T4, and above a reading in kW that is taken for W."""
MAX_GPUS = 1024
"""Most GPUs of one result: of the largest installation that serves one model, and above it a count that cannot be."""
DELIMITERS = (",", ";", "\t", "|")
"""What may stand between cells, the usual one first."""

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
"""A number in figures: neither `nan` nor `inf`, and no sign between thousands."""
_LIMIT = threading.Lock()
"""Held while the csv module's limit of a cell is raised: it belongs to the process."""


@dataclass(frozen=True)
class Row:
    """A row of a table, or a group of keys of a JSON file.

    where   of it in its file, for errors: `line 5`
    cells   by the name of the column: text, or what JSON holds
    """

    path: Path
    where: str
    cells: Mapping[str, Any]

    def wrong(self, what: str) -> NotStartedError:
        return NotStartedError(f"{self.path}, {self.where}: {what}")

    def given(self, *names: str) -> bool:
        """Whether all of these have a value."""
        return all(self.cells.get(name) not in (None, "") for name in names)

    def maybe_text(self, name: str) -> str | None:
        value = self.cells.get(name)
        if value in (None, ""):
            return None
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise self.wrong(f"{name} is no text; correct it or leave the row out")
        text = str(value).strip()
        if len(text) > MAX_TEXT_CHARS or "\0" in text:
            raise self.wrong(
                f"{name} has more than {MAX_TEXT_CHARS} characters or a NUL: it is no name; correct it"
            )
        return text or None

    def text(self, name: str) -> str:
        value = self.maybe_text(name)
        if value is None:
            raise self.wrong(f"{name} is empty; fill it in or leave the row out")
        return value

    def maybe_number(self, name: str, at_most: float = 1e12) -> float | None:
        """A number from 0 to `at_most`; None where the cell is empty."""
        value = self.cells.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        number = _number(value)
        if number is None:
            raise self.wrong(
                f"{name} is {_shown(value)}, no finite number; correct it (decimal point, no sign between thousands), "
                "or leave the cell empty where it was not measured"
            )
        if not 0 <= number <= at_most:
            raise self.wrong(f"{name} is {_shown(value)}, not from 0 to {at_most:g}; check its unit")
        return number

    def number(self, name: str, at_most: float = 1e12) -> float:
        """A number above 0."""
        value = self.maybe_number(name, at_most)
        if value is None:
            raise self.wrong(f"{name} is empty; fill it in or leave the row out")
        if value == 0:
            raise self.wrong(f"{name} is 0, which it cannot be; correct it or leave the row out")
        return value

    def measured(self, name: str, at_most: float = 1e12) -> float | None:
        """As `maybe_number`, of a source that writes 0 where it did not measure: None, too, for 0."""
        return self.maybe_number(name, at_most) or None

    def maybe_whole(self, name: str, at_most: int = 10**12) -> int | None:
        value = self.maybe_number(name, at_most)
        if value is None:
            return None
        if value != int(value):
            raise self.wrong(f"{name} is {_shown(self.cells[name])}, no whole number; correct it")
        return int(value)

    def whole(self, name: str, at_most: int = 10**12) -> int:
        """A whole number above 0."""
        self.number(name, at_most)
        value = self.maybe_whole(name, at_most)
        assert value is not None
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of numbers as Python and JSON write it: `[0.1, 0.2]`. Nothing for an empty cell."""
        value = self.cells.get(name)
        if isinstance(value, str):
            if not value.strip():
                return []
            try:
                value = parse_json(value.encode(), self.path)
            except WattcountError:
                raise self.wrong(
                    f"{name} is {_shown(value)}, no list of numbers like [0.1, 0.2]; correct it or leave it empty"
                ) from None
        value = [value] if isinstance(value, int | float) else value
        found = [_number(item) for item in value] if isinstance(value, list) else [None]
        numbers = [item for item in found if item is not None and item >= 0]
        if len(numbers) != len(found):
            raise self.wrong(f"{name} holds something else than numbers from 0 on; correct it")
        return numbers

    def check_power(self, watts: float, gpus: int, what: str) -> float:
        """`watts`. Raises NotStartedError for a power that so many boards cannot have: a unit is not what it seems."""
        if not MIN_BOARD_W * gpus <= watts <= MAX_BOARD_W * gpus:
            raise self.wrong(
                f"{what} makes {watts:.4g} W on {gpus} GPU{'s' if gpus > 1 else ''}, which no board draws; "
                "check the units (W, not mW; J, not mJ or Wh; s, not ms)"
            )
        return watts


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) < 1e300 else None
    if not isinstance(value, str):
        return None
    text = value.strip()
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if abs(number) < 1e300 else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def has_columns(path: Path, *names: str) -> bool:
    """Whether the first line of a file is the header of a table with these columns."""
    return path.is_file() and _delimiter(first_line(path), names) is not None


def begins_with_keys(path: Path, *names: str) -> bool:
    """Whether a file is JSON whose first bytes have these keys."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8-sig", "ignore")
    except OSError:
        return False
    return head.lstrip()[:1] in ("{", "[") and all(f'"{name}"' in head for name in names)


def read_rows(path: Path, what: str, needed: Iterable[str]) -> list[Row]:
    """The rows of a delimited table with a header, each with the line on which it begins.

    what     the kind of file, for errors
    needed   columns that must be there
    Empty lines and further headers are left out. Raises NotStartedError.
    """
    text = bounded_text(path, what)
    names = tuple(needed)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = _delimiter(first, names)
    if delimiter is None:
        there = _cells(first, max(DELIMITERS, key=first.count))
        lacking = [name for name in names if name not in there]
        raise NotStartedError(
            f"{path}, line 1: no {what}: the header has no column {', '.join(map(repr, lacking))}; "
            "give the file as its source writes it, header included"
        )
    rows: list[Row] = []
    header: list[str] = []
    for line, cells in _records(path, text, delimiter):
        if not any(cell.strip() for cell in cells):
            continue
        if not header:
            header = [cell.strip() for cell in cells]
            if twice := {name for name in header if header.count(name) > 1}:
                raise NotStartedError(
                    f"{path}, line {line}: two columns are named {min(twice)!r}; name one otherwise"
                )
            continue
        if [cell.strip() for cell in cells] == header:
            continue
        if len(cells) != len(header):
            raise NotStartedError(
                f"{path}, line {line}: {len(cells)} columns instead of {len(header)}: cut off or damaged; "
                "get the file again, or remove the line"
            )
        rows.append(Row(path, f"line {line}", dict(zip(header, cells, strict=True))))
    if not rows:
        raise NotStartedError(f"{path} has a header and no row; get the file again")
    return rows


def _records(path: Path, text: str, delimiter: str) -> Iterable[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each record."""
    with _LIMIT:
        before = csv.field_size_limit(MAX_CELL_CHARS)
        try:
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            found = []
            begins = 1
            try:
                for cells in reader:
                    found.append((begins, cells))
                    begins = reader.line_num + 1
            except csv.Error as error:
                raise NotStartedError(
                    f"{path}, line {begins}: {one_line(error)}; a quotation mark is missing, or the file is cut off"
                ) from None
            return found
        finally:
            csv.field_size_limit(before)


def _delimiter(header: str, names: Iterable[str]) -> str | None:
    wanted = set(names)
    return next((sign for sign in DELIMITERS if wanted <= set(_cells(header, sign))), None)


def _cells(header: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error:
        return []


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text. Raises NotStartedError."""
    return bounded_text(path, what).splitlines()


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds. Raises NotStartedError."""
    text = bounded_text(path, what)
    try:
        return parse_json(text.encode(), path)
    except WattcountError as error:
        raise NotStartedError(f"{one_line(error)}; get the {what} again") from None


def group(path: Path, where: str, value: Any) -> Row:
    """A group of keys of a JSON file. Raises NotStartedError for anything else."""
    if not isinstance(value, dict):
        raise NotStartedError(f"{path}, {where}: {_shown(value)} is no group of keys; get the file again")
    return Row(path, where, value)


def each(rows: Iterable[Row], make: Callable[[Row], Any]) -> list[Any]:
    """What is made of each row; an arithmetic error of hostile numbers becomes one that names the row."""
    made = []
    for row in rows:
        try:
            made.append(make(row))
        except ArithmeticError as error:
            raise row.wrong(
                f"nothing can be reckoned with its numbers ({one_line(error)}); correct it"
            ) from None
    return made
