"""Makes data/dataset/: all records of data/*/records and the results of data/imported/, as a data set of our own.

    python tools/make_dataset.py            makes it anew, with what came since as further submissions
    python tools/make_dataset.py --check    writes nothing, and fails where data/dataset/ is not what that gives

The valid records of a folder that are not in the data set yet become one submission; those that are keep theirs. A record that the validator
rejects is left out, and said. So the same records give
the same files, byte for byte with the same PyArrow, and further ones only add. Records lie in data/ already: the data set refers to
them there. A day of a version is that of its newest record, for the build must not depend on when it is run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wattcount.dataset.adding import Place, Validate, add_file, validated
from wattcount.dataset.bundle import Submitter, write_bundle
from wattcount.dataset.card import write_card
from wattcount.dataset.references import files_of
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD
from wattcount.errors import WattcountError
from wattcount.records import Record
from wattcount.result import judge

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
DATASET, IMPORTED = "dataset", "imported"
"""Folders of DATA: what is made, and results of others."""
NAME, CONTACT = "wattcount", "the repository of wattcount"
"""Of our own submissions: there is no address yet at which the data set is published."""
PUBLIC_KEY = b"the records in data/ are public"
"""Key of the pseudonyms in our own submissions. It is no secret: the boards' and hosts' names stand in data/ as they are, so there is
nothing to hide; a fixed key makes the same bytes."""
SUBMITTER = Submitter(NAME, CONTACT, "CC-BY-4.0", PUBLIC_KEY)
IMPORTED_DAY = "2026-11-28"
"""Day of the versions that add imported results, where no record is newer: when the first were imported."""


@dataclass(frozen=True)
class Group:
    """What becomes one submission: folders of records, relative to DATA, or a file of imported results."""

    records: tuple[str, ...] = ()
    imported: Path | None = None


def groups(data: Path) -> list[Group]:
    """The submissions that there were, in their order, and then one for each folder with records that are in none."""
    found = _submitted(data)
    known = {record for group in found for record in group.records}
    imported = {group.imported for group in found}
    for folder in sorted(data.glob("*/records")):
        runs = sorted(folder.glob("*/r*"))
        records = [str(run.relative_to(data)) for run in runs if judge(run).valid]
        if fresh := tuple(record for record in records if record not in known):
            found.append(Group(records=fresh))
    files = sorted((data / IMPORTED).glob("*.parquet"))
    found += [Group(imported=path) for path in files if path not in imported]
    return found


def _submitted(data: Path) -> list[Group]:
    """The submissions that there were, by what their documents name; a file of imported results by its source's name."""
    dataset = data / DATASET
    try:
        version = Dataset.open(dataset).latest()
    except WattcountError:
        return []
    found = []
    for change in version.changes:
        file = dataset / "submissions" / f"{change.submission}.json"
        if change.what != ADD or not file.is_file():
            continue
        listed: list[Mapping[str, Any]] = json.loads(file.read_bytes())["records"]
        if listed:
            found.append(Group(tuple(item["record"].removeprefix("../") for item in listed)))
        elif (imported := data / IMPORTED / f"{change.handle}.parquet").is_file():
            found.append(Group(imported=imported))
    return found


def make(
    data: Path, out: Path, validate: Validate = validated, say: Callable[[str], None] = lambda _: None
) -> Dataset:
    """Makes the data set of `data` at `out`. Raises WattcountError where a submission is not accepted."""
    found = groups(data)
    days = [_day(data, group) for group in found]
    dataset = Dataset.init(out, NAME, min(days, default=IMPORTED_DAY))
    day = ""
    for group, own in zip(found, days, strict=True):
        # Versions follow each other, whatever the days of their records.
        day = max(day, own)
        say(f"{group.imported or Path(group.records[0]).parents[2].name}: {len(group.records)} records")
        if group.imported is not None:
            add_file(dataset, group.imported, day)
            continue
        _submit(dataset, data, group.records, day, validate, say)
    write_card(dataset)
    return dataset


def _submit(
    dataset: Dataset,
    data: Path,
    records: Sequence[str],
    day: str,
    validate: Validate,
    say: Callable[[str], None],
) -> None:
    """Adds records as one submission, without those that the validator rejects."""
    where = {Record.open(data / record).info.run_id: record for record in records}
    with tempfile.TemporaryDirectory(prefix="wattcount-own-") as temporary:
        bundle = Path(temporary) / "own.wattcount"
        manifest = write_bundle([data / record for record in records], bundle, SUBMITTER)
        judged = validate(bundle, dataset)
        verdict = judged.verdict
        rejected = {b["record"] for b in verdict["breaches"] if b["severity"] == "reject"}
        for breach in verdict["breaches"]:
            if breach["severity"] == "reject":
                say(f"  left out: {breach['record']}: {breach['rule']}: {breach['message']}")
        if rejected:
            left = [where[entry.run_id] for entry in manifest.records if entry.folder not in rejected]
            if None in rejected or not left:
                raise WattcountError(f"the records of {records[0]} and others are rejected as a whole")
            return _submit(dataset, data, left, day, validate, say)
        # What is flagged was looked at: docs/validation.md.
        places = _places(data, where)
        add_file(dataset, bundle, day, accept_flagged=True, places=places, validate=lambda *_: judged)
    return None


def _places(data: Path, where: Mapping[str, str]) -> Callable[[str], Place]:
    return lambda run_id: Place(f"../{where[run_id]}", files_of(data / where[run_id]))


def _day(data: Path, group: Group) -> str:
    starts = [Record.open(data / record).info.started_utc[:10] for record in group.records]
    return max(starts, default=IMPORTED_DAY)


def different(made: Path, there: Path) -> list[str]:
    """Files in which two data sets differ. Parquet files that another PyArrow wrote are compared by their rows."""
    names = sorted(_files(made) | _files(there))
    if _writer(made) == _writer(there):
        return [name for name in names if _content(made / name) != _content(there / name)]
    # Manifests, card and Croissant file have the hashes of these files.
    return [
        name
        for name in names
        if name.startswith(("results/", "submissions/"))
        and not (_is_same_table if name.endswith(".parquet") else _is_same_file)(made / name, there / name)
    ]


def _files(folder: Path) -> set[str]:
    return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


def _writer(folder: Path) -> str | None:
    """Which PyArrow wrote the files of results."""
    file = next(iter(sorted((folder / "results").glob("*.parquet"))), None)
    return None if file is None else str(pq.read_metadata(file).created_by)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _is_same_file(one: Path, other: Path) -> bool:
    return _content(one) == _content(other)


def _is_same_table(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and bool(pq.read_table(one).equals(pq.read_table(other)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    there = DATA / DATASET
    with tempfile.TemporaryDirectory(prefix="wattcount-dataset-", dir=DATA) as temporary:
        made = Path(temporary) / DATASET
        try:
            dataset = make(DATA, made, say=print)
        except WattcountError as error:
            print(error, file=sys.stderr)
            return 1
        (made / ".lock").unlink(missing_ok=True)
        for folder in made.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        changed = different(made, there) if there.is_dir() else sorted(_files(made))
        latest = dataset.latest()
        print(
            f"version {latest.number}, {latest.num_results} results; {len(changed)} files differ from {there}"
        )
        if args.check:
            print(*changed, sep="\n")
            return 1 if changed else 0
        if there.exists():
            shutil.rmtree(there)
        made.rename(there)
    return 0


if __name__ == "__main__":
    sys.exit(main())
