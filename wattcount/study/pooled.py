"""The table of results: one row a setting, its repeats pooled, for a terminal, Markdown, CSV and JSON.

It ends a sweep, and `wattcount results` prints it at any time.
"""

from __future__ import annotations

import csv
import io
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from wattcount.config.identity import window_in_words
from wattcount.metrics.metrics_json import spec
from wattcount.records.schema import Evidence
from wattcount.report.labels import board_of, evidence_label, gpu_label, load_label
from wattcount.report.units import columns, count, markdown, quantity, significant, spreadsheet_text
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ENERGY, SHARES_ITS_INTERVAL, Result
from wattcount.study.comparison import by_chance
from wattcount.study.selection import TOKENS, by
from wattcount.text import printable

FIGURES = (
    (PER_TOKEN, "J per token"),
    (WATTS, "power"),
    (TOKENS, "tokens/s"),
    ("latency/ttft_p50_ms", "TTFT p50"),
    ("latency/tpot_p50_ms", "TPOT p50"),
)
"""The figures of a row, from left to right: key and heading. Tokens are output tokens."""
COLUMNS = ("runs", "J per token", "±", *(heading for _, heading in FIGURES[1:]), "verdict")
"""Headings beside the setting's name, from left to right."""
GAP = 2
"""Blanks between a name and its figures, and before figures that stand below it."""

_GROUPABLE = frozenset(
    {"str | None", "int | None", "float | None", "str", "Evidence | None", "tuple[str, ...]"}
)
"""Types of the fields of a result that rows can be parted by."""
_NOT_GROUPABLE = frozenset(
    {"messages", "reasons", "notes", "log_line", "wall_s", "run_energy_j", "planned_point"}
)
"""Fields of such a type that say nothing of what was measured."""
BY = tuple(
    item.name for item in fields(Result) if item.type in _GROUPABLE and item.name not in _NOT_GROUPABLE
)
"""What rows can be parted by: fields of a result."""


@dataclass(frozen=True)
class Pooled:
    """The runs of one setting. Figures are means of the valid ones.

    by  the value that rows were parted by; None: they were not
    """

    runs: tuple[Result, ...]
    by: str | None = None

    @property
    def valid(self) -> list[Result]:
        return [run for run in self.runs if run.valid]

    def mean(self, key: str) -> float | None:
        """In the unit of the registry of metrics; None: no valid run has it."""
        values = self._values(key)
        return math.fsum(values) / len(values) if values else None

    def u95(self, key: str) -> float | None:
        """95 % uncertainty of `mean` as a figure of the setting, in its unit; None: not known.

        It has three parts, in quadrature. How starts of an engine scatter: by these repeats, together with what repeats of such loads
        showed (`result.host_part`), by Student's t. The method of each run. The boards' sensors, one for each board.
        """
        values, mean = self._values(key), self.mean(key)
        if mean is None:
            return None
        chance = by_chance(self.valid, key=key)
        parts = [] if chance is None else [chance.half_width]
        if key == ENERGY or key.startswith(SHARES_ITS_INTERVAL):
            boards = {board_of(run) for run in self.valid}
            parts += [share / math.sqrt(len(values)) for share in self._shares("method")]
            parts += [share / math.sqrt(len(boards)) for share in self._shares("sensor")]
        return abs(mean) * math.hypot(*parts) if parts else None

    @property
    def verdict(self) -> str:
        """`valid`, `2 of 3 valid: interrupted`, `INVALID: power_missing`; `predicted`, `no prediction`."""
        valid, codes = len(self.valid), self.reasons
        if self.runs[0].evidence is Evidence.PREDICTED:
            return "predicted" if valid else "no prediction"
        if valid == len(self.runs):
            return "valid"
        said = f": {', '.join(codes)}" if codes else ""
        return f"{valid} of {len(self.runs)} valid{said}" if valid else f"INVALID{said}"

    @property
    def reasons(self) -> list[str]:
        """Why runs are invalid, the most frequent reason first."""
        counts = Counter(run.reasons[0] for run in self.runs if not run.valid and run.reasons)
        return [printable(code, lines=False) for code, _ in counts.most_common()]

    def _values(self, key: str) -> list[float]:
        return [value for run in self.valid if (value := run.value(key)) is not None]

    def _shares(self, part: str) -> list[float]:
        """The mean relative uncertainty of the runs' energy by one of its parts; empty: no run knows it."""
        found = [
            u95 / energy
            for run in self.valid
            if (energy := run.value(ENERGY)) and (u95 := run.value(f"{ENERGY}_u95_{part}")) is not None
        ]
        return [math.fsum(found) / len(found)] if found else []


def pooled(results: Iterable[Result], key: str | None = None) -> list[Pooled]:
    """Runs of one setting together, by model, GPU and load; runs whose setting is not known are together by their name.

    key  one of BY: runs that differ in it are in rows of their own, and rows are in its order
    """
    groups = by(
        results,
        lambda run: (None if key is None else _plain(run, key), run.evidence, run.setting_key or _names(run)),
    )
    rows = [Pooled(tuple(runs), group[0]) for group, runs in groups.items()]
    return sorted(rows, key=lambda row: (_order(row, key), _place(row.runs[0])))


def _plain(run: Result, key: str) -> str:
    value = getattr(run, key)
    if isinstance(value, tuple):
        return ", ".join(value)
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _order(row: Pooled, key: str | None) -> tuple[float, str]:
    """Numbers by their size, words by the alphabet."""
    value = None if key is None else getattr(row.runs[0], key)
    return (float(value), "") if isinstance(value, int | float) else (math.inf, row.by or "")


def _place(run: Result) -> tuple[Any, ...]:
    return (
        run.model or "", gpu_label(run.gpus), run.kind or "", run.rate_rps or 0.0, run.num_requests or 0,
        run.particulars, run.levers,
    )  # fmt: skip


def _names(run: Result) -> tuple[str, ...]:
    """What a setting is called, in parts: model, GPU, load, each thing that is not as usual, each lever."""
    unusual = [*run.particulars, *window_in_words(run.kind, run.window_s)]
    load = load_label(run.kind, run.num_requests, run.rate_rps)
    parts = [run.model or "unknown model", gpu_label(run.gpus), load, *unusual, *run.levers]
    return tuple(printable(part, lines=False) for part in parts)


def names(rows: Sequence[Pooled]) -> tuple[str, list[str]]:
    """(what all rows have in common, what each is called beside that); of a single row nothing is left out."""
    parts = [_names(row.runs[0]) for row in rows]
    if len(parts) < 2:
        return "", [", ".join(of_row) for of_row in parts]
    common = [part for part in parts[0] if all(part in of_row for of_row in parts)]
    own = [", ".join(part for part in of_row if part not in common) for of_row in parts]
    return ", ".join(common), [text or "as above" for text in own]


def evidence(rows: Sequence[Pooled]) -> str:
    """`measured`; `emulated, random weights`; several with `; ` between them."""
    found = {
        evidence_label(run.evidence, run.origin, run.weights)
        for row in rows
        for run in row.runs
        if run.evidence
    }
    return "; ".join(sorted(found))


def _cells(row: Pooled) -> list[str]:
    """Number of runs, and a cell for each of COLUMNS."""
    cells = [str(len(row.runs))]
    for key, _ in FIGURES:
        mean = row.mean(key)
        cells.append(significant(mean) if key == TOKENS else quantity(mean, spec(key).unit, 3))
        if key == PER_TOKEN:  # what people quote
            u95, interval = row.u95(key), row.runs[0].interval(key)
            if interval is not None and mean:
                below, above = (100 * abs(bound / mean - 1) for bound in interval)
                cells.append(f"-{significant(below, 2)} +{significant(above, 2)} %")
            else:
                cells.append(f"{100 * u95 / mean:.2g} %" if u95 and mean else "-")
    return [*cells, row.verdict]


def title(rows: Sequence[Pooled]) -> str:
    """`llama3_8b, NVIDIA H200; measured: 4 settings, 12 runs`."""
    runs = sum(len(row.runs) for row in rows)
    what = "; ".join(text for text in (names(rows)[0], evidence(rows)) if text)
    return f"{what}{': ' if what else ''}{count(len(rows), 'setting')}, {count(runs, 'run')}"


EXPLANATION = "Means of the valid runs of each setting. ±: 95 %, of method, sensor and how far starts of the engine scatter; of predicted rows 90 %."
"""What is said below the table."""


def to_lines(rows: Sequence[Pooled], width: int, key: str | None = None) -> list[str]:
    """The table in lines of at most `width` characters. Where a name has no room beside its figures it stands above them."""
    table = [[f"{len(row.valid)} of {len(row.runs)}", *_cells(row)[1:-1]] for row in rows]
    figures = columns(("valid", *COLUMNS[1:-1]), table, left=0).split("\n")
    called = [
        f"{row.by}: {name}" if key is not None else name
        for row, name in zip(rows, names(rows)[1], strict=True)
    ]
    called = [printable(text, lines=False) for text in called]
    longest = max(map(len, called), default=0)
    beside = longest <= width - len(figures[0]) - GAP
    lines = [f"{'':{longest if beside else 0}}{'':{GAP}}{figures[0]}"]
    for row, text, line in zip(rows, called, figures[1:], strict=True):
        above = [] if beside else textwrap.wrap(text, width, break_on_hyphens=False)
        lines += [*above, f"{text if beside else '':<{longest if beside else 0}}{'':{GAP}}{line}"]
        if row.verdict != "valid":
            lines += textwrap.wrap(row.verdict, width, initial_indent="    ", subsequent_indent="    ")
    return lines


def to_markdown(rows: Sequence[Pooled], key: str | None = None) -> str:
    first = [] if key is None else [key]
    table = [
        [*([] if key is None else [row.by or "-"]), name, *_cells(row)]
        for row, name in zip(rows, names(rows)[1], strict=True)
    ]
    shown = [[printable(text, lines=False).replace("|", "\\|") for text in line] for line in table]
    return f"{title(rows)}\n\n{markdown([*first, 'setting', *COLUMNS], shown)}\n\n{EXPLANATION}"


def to_json(rows: Sequence[Pooled], key: str | None = None) -> list[dict[str, Any]]:
    """Plain numbers in the units of the registry of metrics; None: not known."""
    predicted = any(row.runs[0].evidence is Evidence.PREDICTED for row in rows)
    return [({} if key is None else {key: row.by}) | _json(row, predicted) for row in rows]


def _json(row: Pooled, intervals: bool) -> dict[str, Any]:
    """`intervals`: with the 90 % intervals of predicted figures and what they rest on."""
    run = row.runs[0]
    scenario = run.setting.get("scenario", {})
    arrivals = scenario.get("arrivals", {}).get("kind", "poisson") if run.kind == "server" else None
    facts: dict[str, Any] = {
        "setting": ", ".join(_names(run)),
        "setting_key": run.setting_key,
        "model": run.model,
        "weights": run.weights,
        "gpu": gpu_label(run.gpus),
        "engine": run.engine,
        "engine_version": run.engine_version,
        "scenario": run.scenario or run.kind,
        "num_requests": run.num_requests,
        "rate_rps": run.rate_rps,
        "arrivals": arrivals,
        "max_in_flight": scenario.get("max_in_flight"),
        "concurrency": scenario.get("concurrency"),
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "window_s": run.window_s,
        "levers": list(run.levers),
        "evidence": None if run.evidence is None else str(run.evidence),
        "origin": run.origin,
        "runs": len(row.runs),
        "valid_runs": len(row.valid),
        "reasons": row.reasons,
    }
    for figure, _ in FIGURES:
        facts |= {figure: row.mean(figure), f"{figure}_u95": row.u95(figure)}
        if intervals:
            low, high = run.interval(figure) or (None, None)
            facts |= {f"{figure}_p05": low, f"{figure}_p95": high}
    if intervals:
        facts["energy_basis"] = list(run.energy_basis)
    return facts | {"records": [str(run.source) for run in row.runs]}


def to_csv(rows: Sequence[Pooled], key: str | None = None) -> str:
    """One line a row; a list has `; ` between its parts, an empty cell is not known."""
    return csv_of(to_json(rows, key))


def csv_of(found: Sequence[dict[str, Any]]) -> str:
    """The same of any rows with the same keys."""
    out = io.StringIO()
    if found:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(found[0])
        writer.writerows([[_csv_cell(value) for value in row.values()] for row in found])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    return "" if value is None else spreadsheet_text(value)
