"""One thing that a record says against being believed, with its figure and its limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattcount.records import Record


@dataclass(frozen=True)
class Finding:
    """One thing found. `figure` and `limit` are in `unit`; `invalidates`: the numbers should not be used."""

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


def on(record: Record, uuid: str) -> str:
    """Which GPU, where there are several."""
    return f" of {uuid}" if len(record.power.gpu_uuids) > 1 else ""
