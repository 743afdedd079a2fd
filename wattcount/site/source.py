"""What pages are made of: results with what a data set knows of each, and the data set's history."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wattcount.dataset import rows
from wattcount.dataset.references import fetched, references
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, Version
from wattcount.errors import WattcountError
from wattcount.result import Result


@dataclass(frozen=True)
class Entry:
    """A result, and what is known of it beside what it says itself; None: it is in no data set.

    id      of the row, in the addresses of the pages and in the API: it never changes
    place   where the record lies, in words; None: there is none
    """

    id: str
    result: Result
    submission: str | None = None
    decision: str | None = None
    licence: str | None = None
    cohort: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Source:
    """All of what pages are made of.

    name        of the data set, or of what the results come from
    version     of the data set; None: the results are in none
    documents   `submissions/<id>.json` by id
    dataset     that the records are fetched from
    """

    name: str
    entries: Sequence[Entry]
    version: Version | None = None
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dataset: Dataset | None = None

    @property
    def results(self) -> list[Result]:
        return [entry.result for entry in self.entries]

    @property
    def date(self) -> str:
        """Day of the newest change, or of the newest run: the pages do not depend on when they are made. Empty: nothing tells one."""
        if self.version is not None:
            return self.version.changes[-1].date
        return max((r.started_utc[:10] for r in self.results if r.started_utc), default="")

    @classmethod
    def of_dataset(cls, where: str | Path, name: str | None = None) -> Source:
        """The latest version of a data set. Raises NotStartedError where there is none. `name`: instead of its own."""
        dataset = Dataset.open(where)
        version = dataset.latest()
        table = dataset.table(version)
        about = [table[name].to_pylist() for name in (*rows.OF_THE_DATASET,)]
        entries = [
            Entry(result_id, result, submission, decision, licence, cohort, record)
            for result, result_id, submission, decision, licence, cohort, record, _ in zip(
                rows.to_results(table), *about, strict=True
            )
        ]
        documents = {
            change.submission: dataset.document(version, change.submission)
            for change in version.changes
            if change.what == ADD and change.submission is not None
        }
        return cls(name or version.name, entries, version, documents, dataset)

    @classmethod
    def of_results(cls, name: str, results: Sequence[Result]) -> Source:
        """Results that are in no data set. Their ids are those of their runs, with a number where two are the same."""
        seen: dict[str, int] = {}
        entries = []
        for number, result in enumerate(results):
            wanted = result.run_id or f"result-{number}"
            seen[wanted] = count = seen.get(wanted, 0) + 1
            place = None if result.record is None else result.record.name
            entries.append(Entry(wanted if count == 1 else f"{wanted}-{count}", result, place=place))
        return cls(name, entries)

    @contextlib.contextmanager
    def records(self) -> Iterator[Iterator[tuple[Entry, Path | WattcountError]]]:
        """Each entry that has a record, with its folder on this machine, or the error that says why it cannot be had.

        A folder lasts until the next one is asked for.
        """
        if self.dataset is None or self.version is None:
            yield ((entry, path) for entry in self.entries if (path := entry.result.record) is not None)
            return
        by_id = {entry.id: entry for entry in self.entries}
        wanted = references(self.dataset, self.version)
        with fetched(self.dataset, self.version, wanted) as each:
            yield ((by_id[reference.result_id], path) for reference, path in each)
