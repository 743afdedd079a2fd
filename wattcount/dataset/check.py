"""Whether a data set is what its manifests say: hashes, rows against their references, and figures computed again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wattcount.dataset import rows
from wattcount.dataset.references import fetched, references
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, SUBMISSIONS, Version
from wattcount.errors import WattcountError, one_line
from wattcount.metrics.metrics_json import computed
from wattcount.records import Record
from wattcount.result import Result

Say = Callable[[str], None]


def check(
    dataset: Dataset, *, records: bool = True, all_versions: bool = True, say: Say = lambda _: None
) -> list[str]:
    """What is wrong, a line each; empty: nothing.

    records        also fetches each record, and computes the figures of its row again
    all_versions   also compares the files of earlier versions
    say            is told what is being done
    """
    latest = dataset.latest()
    wrong = list(_chain(dataset, latest))
    versions = [latest]
    if all_versions:
        say(f"comparing the files of {latest.number} versions with their SHA-256")
        versions = [dataset.version(number) for number in range(1, latest.number + 1)]
    seen: set[tuple[str, str]] = set()
    for version in versions:
        for name, facts in version.files.items():
            if (name, facts.sha256) in seen:
                continue
            seen.add((name, facts.sha256))
            try:
                dataset.read(version, name)
            except WattcountError as error:
                wrong.append(str(error))
    if wrong:
        return wrong  # rows of files that are not what they were say nothing
    wrong += dataset.strays(latest)
    wrong += _rows(dataset, latest)
    if records and not wrong:
        wrong += _records(dataset, latest, say)
    return wrong


def _chain(dataset: Dataset, latest: Version) -> Iterator[str]:
    """Each manifest names the SHA-256 of the one before, and has its changes."""
    after = latest
    for number in range(latest.number - 1, 0, -1):
        try:
            version = dataset.version(number)
        except WattcountError as error:
            yield str(error)
            return
        if version.sha256 != after.previous_sha256:
            yield f"version {number} is not the one that version {after.number} was made of: its SHA-256 differs"
        if version.changes != after.changes[:-1]:
            yield f"the changes in version {after.number} are not those of version {number} and one more"
        after = version
    if after.previous_sha256 is not None:
        yield "version 1 names a version before it"


def _rows(dataset: Dataset, version: Version) -> Iterator[str]:
    try:
        table = dataset.table(version)
        results = rows.to_results(table)
    except WattcountError as error:
        yield str(error)
        return
    ids = table[rows.ID].to_pylist()
    if len(set(ids)) != len(ids):
        yield "two rows have one id"
    withdrawn = {item for change in version.changes for item in change.results}
    for item in withdrawn.intersection(ids):
        yield f"result {item} was withdrawn and is in the latest version"
    added = {str(change.submission) for change in version.changes if change.what == ADD}
    for submission in set(table[rows.SUBMISSION].to_pylist()):
        if submission not in added or f"{SUBMISSIONS}/{submission}.json" not in version.files:
            yield f"submission {submission} has rows, and was never added"
    for item, result in zip(ids, results, strict=True):
        if result.evidence is not version.evidence:
            yield f"result {item} is not {version.evidence.value}"
    counted = {name: facts.num_rows for name, facts in version.of("results").items()}
    if sum(count or 0 for count in counted.values()) != len(table):
        yield f"the manifest counts {sum(c or 0 for c in counted.values())} rows, and the files have {len(table)}"
    listed = {
        item: dataset.record_digests(version, item)
        for item in added
        if f"{SUBMISSIONS}/{item}.json" in version.files
    }
    for reference in references(dataset, version):
        if reference.sha256 not in listed.get(reference.submission, {}).get(reference.place, ()):
            yield (
                f"result {reference.result_id}: submissions/{reference.submission}.json has no record {reference.place} of that SHA-256"
            )


def _records(dataset: Dataset, version: Version, say: Say) -> Iterator[str]:
    by_id = {row[rows.ID]: row for row in dataset.table(version).to_pylist()}
    wanted = references(dataset, version)
    with fetched(dataset, version, wanted) as found:
        for number, (reference, record) in enumerate(found, 1):
            say(f"computing record {number} of {len(wanted)} again")
            if isinstance(record, WattcountError):
                yield f"result {reference.result_id}: {record}"
                continue
            yield from (
                f"result {reference.result_id}: {line}"
                for line in differences(by_id[reference.result_id], record)
            )


def differences(row: dict[str, Any], record: Path) -> list[str]:
    """In which figures and facts a row is not what its record says."""
    try:
        opened = Record.open(record)
        opened.check_files()
        result = Result.of(opened, computed(opened))
    except (WattcountError, OSError) as error:
        return [one_line(error)]
    about = rows.About(**{name: row[name] for name in rows.OF_THE_DATASET})
    again = rows.to_table([result], [about]).to_pylist()[0]
    names = [*rows.columns(), rows.BY_GPU, *SAME]
    return [
        f"{name} is {row[name]!r}, and {again[name]!r} by its record"
        for name in names
        if not _equal(row[name], again[name])
    ]


SAME = (
    "run_id",
    "seed",
    "repeat",
    "point_id",
    "setting_key",
    "kind",
    "rate_rps",
    "model",
    "weights",
    "gpus",
    "status",
    "reasons",
    "evidence",
    "started_utc",
)
"""Facts of a row that are in its record as well, also where that is not the public one."""


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return bool(one == other)
