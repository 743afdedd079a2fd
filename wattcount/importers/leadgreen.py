"""Lead Green's `per-query.json`: AI Energy Score of December 2025, Wh of GPU energy per 1,000 queries on H100.

A query is one at a time with an answer of ten tokens: no serving load, and not to be made into joules per token of one.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="leadgreen",
    title="AI Energy Score: December 2025, by Lead Green",
    url="https://huggingface.co/spaces/AIEnergyScore/Leaderboard",
    licence=None,
    gives="J per query of ten output tokens, one at a time, all GPUs",
)
UNIT = "Wh per 1,000 queries"
J_PER_QUERY = 3600.0 / 1000.0
"""Joules per query in a watt-hour per 1,000 queries."""


def recognises(path: Path) -> bool:
    return table.begins_with_keys(path, "unit", "round", "setup", "data_version")


def results(path: Path) -> list[Result]:
    content = table.group(path, "content", table.read_json(path, "file of Lead Green"))
    if content.text("unit") != UNIT:
        raise content.wrong(f"unit is {content.text('unit')!r}, not {UNIT!r}; this importer does not know it")
    rows = content.cells.get("rows")
    if not isinstance(rows, list) or not rows:
        raise content.wrong("no rows; get the file again")
    return numbered(
        table.each([table.group(path, f"row {n}", row) for n, row in enumerate(rows, 1)], _result)
    )


def _result(row: Row) -> Result:
    several = row.maybe_text("class") == "C"
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu="NVIDIA H100 80GB",
            num_gpus=None if several else 1,
            batch=1,
        ),
        {"energy/gpu_j_per_request": row.number("wh_per_1000_queries", 1e7) * J_PER_QUERY},
        [
            "1,000 queries one at a time, answers of ten tokens unless the model reasons; mean of ten passes",
            *(["on several GPUs; how many is not told"] if several else []),
        ],
    )
