"""What records hold: for each GPU, model and load, how many runs, starts of the engine and boards; what was spoiled, and what it cost."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wattcount.config.schema import ScenarioKind
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.report.labels import describe, gpu_label, short_id
from wattcount.report.units import columns, count, markdown
from wattcount.result.result import Result
from wattcount.text import printable

EXPLANATION = "Each cell: valid runs, starts of the engine that they come from, boards that they ran on; ! counts invalid runs."
"""What the figures of a cell are, for the line below a matrix."""


@dataclass(frozen=True)
class Cell:
    """The runs of one GPU, model and load."""

    runs: tuple[Result, ...]

    @property
    def valid(self) -> list[Result]:
        return [run for run in self.runs if run.valid]

    @property
    def num_starts(self) -> int:
        """Starts of an engine that valid runs come from. Runs that shared one count once."""
        return len({run.session or run.run_id for run in self.valid})

    @property
    def num_boards(self) -> int:
        return len({board for run in self.valid for board in run.boards})

    @property
    def text(self) -> str:
        """`3, 3, 2 !1`: valid runs, starts, boards, and the invalid runs where there are some. Empty: no run at all."""
        if not self.runs:
            return ""
        spoiled = len(self.runs) - len(self.valid)
        figures = f"{len(self.valid)}, {self.num_starts}, {self.num_boards}" if self.valid else "0"
        return f"{figures} !{spoiled}" if spoiled else figures


@dataclass(frozen=True)
class Matrix:
    """Rows of models, columns of loads.

    loads  headings, batches first, then rates in ascending order
    rows   (GPU, model and what was not as usual) to a cell a load
    """

    loads: tuple[str, ...]
    rows: dict[tuple[str, str], tuple[Cell, ...]]

    @classmethod
    def of(cls, runs: Iterable[Result]) -> Matrix:
        """Of runs of any kind. A run that tells no load has the column `other`."""
        cells: dict[tuple[str, str], dict[tuple[int, float, str], list[Result]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for run in runs:
            cells[gpu_label(run.gpus), _what(run)][_load(run)].append(run)
        loads = sorted({load for of_model in cells.values() for load in of_model})
        return cls(
            tuple(heading for *_, heading in loads),
            {
                row: tuple(Cell(tuple(of_model.get(load, ()))) for load in loads)
                for row, of_model in sorted(cells.items())
            },
        )

    def _texts(self) -> tuple[list[str], list[list[str]]]:
        return (
            ["GPU", "model", *self.loads],
            [[*row, *(cell.text for cell in cells)] for row, cells in self.rows.items()],
        )

    def to_markdown(self) -> str:
        return markdown(*self._texts())

    def to_text(self) -> str:
        return columns(*self._texts(), left=2)

    def to_json(self) -> list[dict[str, object]]:
        """A row for each cell that has a run."""
        return [
            {
                "gpu": gpu,
                "model": model,
                "load": load,
                "valid": len(cell.valid),
                "starts": cell.num_starts,
                "boards": cell.num_boards,
                "invalid": [
                    {"run_id": run.run_id, "status": run.status.value, "reasons": list(run.reasons)}
                    for run in cell.runs
                    if not run.valid
                ],
            }
            for (gpu, model), cells in self.rows.items()
            for load, cell in zip(self.loads, cells, strict=True)
            if cell.runs
        ]


def _what(run: Result) -> str:
    words = [run.model or "unknown model", *run.particulars, *run.levers]
    return printable(", ".join(words), lines=False)


def _load(run: Result) -> tuple[int, float, str]:
    """Sorts as its column should stand; the heading is last."""
    if run.kind == "batch":
        return 0, 0.0, "batch"
    if run.rate_rps is not None:
        return 1, run.rate_rps, f"{run.rate_rps:g}/s"
    return 2, 0.0, "other"


def spoiled(runs: Sequence[Result]) -> str:
    """A row for each run that is not valid: which one, and why."""
    rows = [
        [
            f"`{short_id(run.run_id)}`",
            describe(run),
            ", ".join(f"`{reason}`" for reason in run.reasons) or run.status.value,
        ]
        for run in sorted(runs, key=lambda run: run.started_utc or "")
        if not run.valid
    ]
    return markdown(["run", "what", "why"], rows) if rows else "Every run is valid."


def findings(runs: Sequence[Result]) -> str:
    """How often each finding was found, and in how many runs it was what made them invalid."""
    found = Counter(code for run in runs for code in run.codes)
    spoils = Counter(code for run in runs if not run.valid for code in run.reasons)
    rows = [
        [f"`{code}`", str(number), f"{100 * number / len(runs):.0f} %", str(spoils[code] or "-")]
        for code, number in sorted(found.items(), key=lambda item: (-item[1], item[0]))
    ]
    return markdown(["finding", f"runs of {len(runs)}", "share", "made invalid"], rows)


def costs(runs: Sequence[Result]) -> str:
    """GPU-seconds that a valid run took: alone on its start of the engine, or of a start that serves several runs.

    A start that serves several costs what all of its runs took. What invalid runs took is in the cost of the valid ones.
    """
    starts: dict[str | None, list[Result]] = defaultdict(list)
    for run in runs:
        if run.wall_s is not None:
            starts[run.session or run.run_id].append(run)
    kinds = {
        "an engine of its own": [found for found in starts.values() if len(found) == 1],
        "an engine shared by several runs": [found for found in starts.values() if len(found) > 1],
    }
    rows = []
    for kind, chosen in kinds.items():
        gpu_s = [sum((run.wall_s or 0.0) * len(run.boards) for run in found) for found in chosen]
        valid = [sum(run.valid for run in found) for found in chosen]
        if sum(valid):
            each = [cost / number for cost, number in zip(gpu_s, valid, strict=True) if number]
            low, middle, high = np.percentile(each, [5, 50, 95])
            rows.append(
                [
                    kind,
                    str(len(chosen)),
                    f"{sum(valid)} of {sum(map(len, chosen))}",
                    f"{sum(gpu_s) / sum(valid):.0f}",
                    f"{middle:.0f} ({low:.0f} to {high:.0f})",
                ]
            )
    return markdown(
        ["run on", "starts", "valid runs", "GPU-seconds a valid run", "of single starts: median (5 to 95 %)"],
        rows,
    )


PLACES = ("alone", "first of several", "a later one")
"""Where a run stands on its start of the engine."""
PLAYED = (Phase.REHEARSAL, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN)
"""Phases in which requests are sent or answered."""
IDLE = (Phase.BARE_IDLE, Phase.LOADED_IDLE, Phase.IDLE_AFTER, Phase.BARE_IDLE_AFTER)
"""Phases in which none are."""


def seconds(folders: Mapping[str, Sequence[Result]]) -> str:
    """Seconds of each phase, means over the valid runs of servers, by folder and place on their start of the engine."""
    rows = []
    for folder, runs in folders.items():
        shared = Counter(run.session for run in runs)
        places: dict[str, list[dict[Phase, float]]] = {place: [] for place in PLACES}
        for run in runs:
            if run.source is None or not run.valid or run.kind != ScenarioKind.server.value:
                continue
            info = Record.open(run.source).info
            later = (info.session or {}).get("number", 1) > 1
            place = PLACES[2] if later else PLACES[int(run.session is not None and shared[run.session] > 1)]
            places[place].append(
                {
                    span.phase: (span.end_ns - span.start_ns) / 1e9
                    for span in info.phases
                    if span.end_ns is not None
                }
            )
        for place, spans in places.items():
            if spans:

                def mean(*phases: Phase, spans: Sequence[Mapping[Phase, float]] = spans) -> float:
                    return float(np.mean([sum(one.get(phase, 0.0) for phase in phases) for one in spans]))

                parts = [(Phase.ENGINE_START,), IDLE, *((phase,) for phase in PLAYED), tuple(Phase)]
                figures = [f"{mean(*phases):.0f}" for phases in parts]
                rows.append([f"{folder}, {place}", str(len(spans)), *figures])
    headings = ["start", "bare and loaded idle", *(phase.replace("warmup", "warm-up") for phase in PLAYED), "in all"]  # fmt: skip
    return markdown(["run", "runs", *headings], rows)


def total(runs: Sequence[Result]) -> str:
    """One sentence: how many runs, of which how many are valid, on how many boards, starts and models."""
    valid = [run for run in runs if run.valid]
    return (
        f"{count(len(runs), 'run')}, {len(valid):,} of them valid, "
        f"of {count(len({run.model for run in valid}), 'model')} "
        f"on {count(len({board for run in valid for board in run.boards}), 'board')}, "
        f"from {count(len({run.session or run.run_id for run in valid}), 'start')} of the engine."
    )
