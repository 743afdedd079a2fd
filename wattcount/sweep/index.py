"""The results of a folder by planned point: what is measured already, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from wattcount.metrics.verdict import Status
from wattcount.result import Result, results

FACTS = ("evidence", "device", "version_minor", "found_name", "fingerprints")
"""Fields of a `Result` that a planned point leaves out, because the machine that measures finds them."""


class RecordIndex:
    """Results by planned point, seed and repeat; in each the oldest first.

    set_aside   damaged records, which stand for nothing
    """

    def __init__(self, found: Iterable[Result]) -> None:
        """`found`: the oldest first."""
        self._by_run: dict[tuple[str | None, int | None, int | None], list[Result]] = {}
        self._by_point: dict[str | None, list[Result]] = {}
        self.set_aside: list[Result] = []
        for result in found:
            if result.status is Status.damaged:
                self.set_aside.append(result)
                continue
            point = result.planned_point
            self._by_run.setdefault((point, result.seed, result.repeat), []).append(result)
            self._by_point.setdefault(point, []).append(result)

    def __len__(self) -> int:
        return sum(map(len, self._by_point.values()))

    def runs(self, point: str, seed: int, repeat: int, facts: Mapping[str, str | None]) -> list[Result]:
        """Those of one repeat, of machines of which all that is known in `facts` (of FACTS) holds too."""
        return [found for found in self._by_run.get((point, seed, repeat), ()) if _agree(found, facts)]

    def valid(self, point: str, facts: Mapping[str, str | None]) -> list[Result]:
        """Valid ones of a point, whatever their seed and repeat."""
        return [found for found in self._by_point.get(point, ()) if found.valid and _agree(found, facts)]


def read_index(records_dir: Path, *, keep: bool = True) -> RecordIndex:
    """All results of a folder, see `results.results`."""
    return RecordIndex(results(records_dir, keep=keep))


def _agree(found: Result, facts: Mapping[str, str | None]) -> bool:
    return all(getattr(found, name) == value for name, value in facts.items())
