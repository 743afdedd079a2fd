"""What a metric, a reason for null and a finding are, and the sheet that metrics are put on.

Each module of `registry.PARTS` declares its own: `METRICS` (what it computes), `NULL_REASONS` (why it cannot), `CHECKS` (what
speaks against a record), and computes them in `put`. `registry` has all of them together.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from wattcount.metrics.observations import Window
    from wattcount.metrics.window import Observed

Better = Literal["lower", "higher"]
Cell = tuple[float | None, str | None]
"""A value, or None and the code of why there is none."""


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is: its unit and its definition. `better` is None where neither way is."""

    unit: str
    description: str
    better: Better | None = None


def metric_specs(table: str) -> dict[str, MetricSpec]:
    """Metrics by their keys, from a table: a row `key | unit | better, or nothing | definition` each, which may go on in lines that
    are indented further."""
    specs = {}
    for key, unit, better, description in _rows(table, 4):
        if better not in ("lower", "higher", ""):
            raise ValueError(f"{key}: {better!r} is neither lower nor higher")
        specs[key] = MetricSpec(unit, description, cast(Better, better) if better else None)
    return specs


def _rows(table: str, cells: int) -> Iterator[list[str]]:
    """The rows of a table of text, each of which may go on in lines that are indented further; missing last cells are empty."""
    for row in re.sub(r"\n\s+", " ", textwrap.dedent(table).strip()).splitlines():
        found = [cell.strip() for cell in row.split("|")]
        yield [*found, *[""] * (cells - len(found))]


# -- reasons for null that several modules give

NO_WINDOW = "no_window"
"""Reason for null: there is no window to speak of."""
NO_POWER_DATA = "no_power_data"
"""Reason for null: nothing was observed of the power in that stretch."""
NO_TOKENS = "no_output_tokens"
"""Reason for null: there is no output token to divide by."""
NO_COMPLETED = "no_completed_requests"
"""Reason for null: there is no completed request to divide by."""
NO_REQUESTS = "no_requests"
"""Reason for null: there is no request to divide by."""
NO_PHASE = "phase_missing"
"""Reason for null: the run has no such phase."""
NOT_A_BATCH = "not_a_batch"
"""Reason for null: the figure is one of batches."""
NOT_A_SERVER = "not_a_server"
"""Reason for null: the figure is one of servers."""
NOT_RECORDED = "not_recorded"
"""Reason for null: the record does not hold what the figure needs."""

NULL_REASONS: dict[str, str] = {
    NO_WINDOW: "the run broke off before its window",
    NO_PHASE: "the run has no such phase, or broke off in it",
    NO_POWER_DATA: "no usable observation of power or energy in that stretch",
    NO_TOKENS: "no output token was emitted in the window",
    NO_COMPLETED: "no request was completed in the window",
    NO_REQUESTS: "no request was sent in the window",
    NOT_A_BATCH: "only batch scenarios have it",
    NOT_A_SERVER: "only server scenarios have it",
    NOT_RECORDED: "the engine or the sensor does not tell, or the record is from before it was asked",
}
"""What each of these reasons means, in words: those that several modules give."""


class Sheet:
    """Collects values, and the reasons of those that are missing."""

    def __init__(self) -> None:
        self.metrics: dict[str, int | float | None] = {}
        self.null_reasons: dict[str, str] = {}

    def put(self, key: str, value: float | None, reason: str | None = None) -> None:
        if value is None:
            self.metrics[key] = None
            self.null_reasons[key] = reason or NOT_RECORDED
            return
        self.metrics[key] = value if isinstance(value, int) else canonical(value)

    def update(self, cells: Mapping[str, Cell]) -> None:
        for key, (value, reason) in cells.items():
            self.put(key, value, reason)

    def cell(self, key: str) -> Cell:
        """What was put, with its reason where it is null."""
        return self.metrics.get(key), self.null_reasons.get(key)

    def ratio(self, key: str, numerator: float | None, denominator: float, empty: str) -> None:
        """numerator / denominator of an energy of the window; null with `empty` where the denominator is 0."""
        if numerator is None:
            self.put(key, None, self.null_reasons.get("energy/gpu_j", NO_POWER_DATA))
        elif denominator == 0:
            self.put(key, None, empty)
        else:
            self.put(key, numerator / denominator)


def canonical(value: float) -> float:
    """`value` to 12 significant digits; ValueError for what JSON cannot hold."""
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {value}")
    return float(f"{value:.12g}") + 0.0  # + 0.0: no negative zero


# -- findings


@dataclass(frozen=True)
class Finding:
    """One thing that a record says against being believed. `figure` and `limit` are in `unit`.

    invalidates  the numbers should not be used
    """

    code: str
    figure: float
    limit: float
    unit: str
    message: str
    invalidates: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "figure": float(f"{self.figure:.12g}"),
            "limit": self.limit,
            "unit": self.unit,
            "message": self.message,
            "invalidates": self.invalidates,
        }


@dataclass(frozen=True)
class FindingSpec:
    """What a finding is. The texts are a row of docs/metrics.md.

    figure, limit   what the two numbers of a finding are, `unit` is the unit of both
    invalidates     whether it always does, or never; None: each finding says so itself
    why             the reason for `invalidates`
    to_do           what a person can do about it, as an order
    """

    code: str
    unit: str
    figure: str
    limit: str
    invalidates: bool | None
    why: str
    to_do: str

    def found(self, figure: float, limit: float, message: str, invalidates: bool | None = None) -> Finding:
        """One such finding. `invalidates`: needed where the spec leaves it open."""
        verdict = self.invalidates if invalidates is None else invalidates
        if verdict is None:
            raise ValueError(f"{self.code}: whether it invalidates is not said")
        return Finding(self.code, figure, limit, self.unit, message, verdict)


INVALIDATES = {"yes": True, "no": False, "open": None}
"""Words of a table of findings, with what they mean; None: whoever finds it decides."""


def finding_specs(table: str) -> tuple[FindingSpec, ...]:
    """Makes the specs of a table: a row `code | unit | whether it invalidates, yes, no or open | figure | limit | why | what to do` each, as
    `metric_specs`."""
    return tuple(
        FindingSpec(code, unit, figure, limit, INVALIDATES[invalidates], why, to_do)
        for code, unit, invalidates, figure, limit, why, to_do in _rows(table, 7)
    )


Check = Callable[["Observed"], Iterable[Finding]]
WindowCheck = Callable[["Observed", "Window"], Iterable[Finding]]


class Checks:
    """The checks of one module, in the order in which they are declared."""

    def __init__(self) -> None:
        self.specs: list[FindingSpec] = []
        self._checks: list[Check] = []

    def finds(self, *specs: FindingSpec) -> Callable[[Check], Check]:
        """Declares a function as a check that yields findings of these kinds."""

        def declare(check: Check) -> Check:
            self.specs += [spec for spec in specs if spec not in self.specs]
            self._checks.append(check)
            return check

        return declare

    def finds_in_window(self, *specs: FindingSpec) -> Callable[[WindowCheck], WindowCheck]:
        """The same for a check of the window, which is made where the run reached it."""

        def declare(check: WindowCheck) -> WindowCheck:
            self.finds(*specs)(lambda seen: () if seen.window is None else check(seen, seen.window))
            return check

        return declare

    def findings(self, seen: Observed) -> Iterator[Finding]:
        for check in self._checks:
            yield from check(seen)
