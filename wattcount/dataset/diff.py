"""What differs between two versions of a data set, or two data sets."""

from __future__ import annotations

from dataclasses import dataclass

from wattcount.dataset import rows
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import Version


@dataclass(frozen=True)
class Difference:
    """Lines for people.

    gone, come   results that only the first has, only the second
    changed      results with one id and other content, and the columns that differ: never within one data set
    """

    gone: list[str]
    come: list[str]
    changed: list[str]


def difference(one: Dataset, first: Version, other: Dataset, second: Version) -> Difference:
    """Of two versions. Files that both have are not read."""
    same = {
        name for name, facts in first.files.items() if (there := second.files.get(name)) and there == facts
    }
    before, after = _rows(one, first, same), _rows(other, second, same)
    return Difference(
        gone=[_line(row) for key, row in before.items() if key not in after],
        come=[_line(row) for key, row in after.items() if key not in before],
        changed=[
            f"{key}: {', '.join(name for name in row if row[name] != after[key][name])}"
            for key, row in before.items()
            if key in after and row != after[key]
        ],
    )


def _rows(dataset: Dataset, version: Version, without: set[str]) -> dict[str, dict[str, object]]:
    table = dataset.table(version, without=without)
    return {row[rows.ID]: row for row in table.to_pylist()}


def _line(row: dict[str, object]) -> str:
    gpus = row["gpus"]
    gpu = gpus[0] if isinstance(gpus, list) and gpus else row["gpu"]
    return f"{row[rows.ID]} {row['model']} on {gpu}, {row['kind']}, {row['measured_by'] or row['origin']}, {row['status']}"
