"""Makes data/dataset/: all records of data/*/records and the results of data/imported/, as a data set of our own.

    python tools/make_dataset.py            makes it again, with what came since as further submissions
    python tools/make_dataset.py --check    writes nothing, and fails where data/dataset/ is not what that gives

The valid records of a folder that are not in the data set yet become one submission; those that are keep theirs. A record that the validator
rejects is left out, and said. So the same records give
the same files, byte for byte with the same PyArrow, and further ones only add. What was published stays as it is: where its records give other
figures today, as those of another metrics version, a further version withdraws it with that reason, and the next one adds the new figures.
Records lie in data/ already: the data set refers to them there. A day of a version is that of its newest record, for the build must not depend
on when it is run.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from wattcount.dataset import rows
from wattcount.dataset.adding import Place, Validate, add_file, validated
from wattcount.dataset.bundle import Submitter, write_bundle
from wattcount.dataset.card import write_card
from wattcount.dataset.checks_recompute import SAME_SHARE
from wattcount.dataset.references import files_of
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import ADD, Version
from wattcount.errors import WattcountError
from wattcount.metrics.metrics_json import METRICS_VERSION
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

    @property
    def name(self) -> str:
        return self.imported.stem if self.imported is not None else Path(self.records[0]).parts[0]


def make(
    data: Path, out: Path, validate: Validate = validated, say: Callable[[str], None] = lambda _: None
) -> Dataset:
    """Makes the data set of `data` at `out`. Raises WattcountError where a submission is not accepted."""
    there = data / DATASET
    # What was published stands: a version is repeated, and what has to be said otherwise now is a further one.
    old = Dataset.open(there) if (there / "latest.json").is_file() else None
    groups = _fresh(data, {} if old is None else _submitted(data, old))
    if old is None:
        dataset = Dataset.init(out, NAME, min((_day(data, group) for group in groups), default=IMPORTED_DAY))
    else:
        dataset = _repeated(old, data, out, validate, say)
    for group in groups:
        _add(dataset, data, group, validate, say)
    write_card(dataset)
    return dataset


def _repeated(old: Dataset, data: Path, out: Path, validate: Validate, say: Callable[[str], None]) -> Dataset:
    """The versions that there are, each made again of its records. Rows that these do not give any more are withdrawn and added anew."""
    latest, submitted = old.latest(), _submitted(data, old)
    dataset = Dataset.init(out, NAME, latest.changes[0].date)
    stale: dict[str, Group] = {}
    for change in latest.changes[1:]:
        version, group = old.version(change.version), submitted.get(str(change.submission))
        if change.what == ADD and group is not None:
            with tempfile.TemporaryDirectory(prefix="wattcount-again-") as temporary:
                again = Path(temporary) / DATASET
                shutil.copytree(out, again)
                made = Dataset.open(again)
                _add(made, data, group, validate, say)
                if made.latest().to_bytes() == version.to_bytes():
                    say("  byte for byte")
                elif _alike(
                    _figures(made, made.latest(), change.version), _figures(old, latest, change.version)
                ):
                    say("  its figures are the same, not its bytes: it stands as it is")
                else:
                    stale[str(change.submission)] = group
        dataset.repeat(version, partial(old.read, version))
    for submission, group in stale.items():
        day = dataset.latest().changes[-1].date
        say(f"{submission}: its records give other figures now")
        dataset.remove(submission, _reason(old, latest, submission), day, replaced=True)
        _add(dataset, data, group, validate, say)
    return dataset


def _reason(old: Dataset, latest: Version, submission: str) -> str:
    told = old.document(latest, submission).get("metrics_version")
    if told is None or told == METRICS_VERSION:
        return "its source gives other figures now: replaced"
    return f"its figures are of metrics version {told}: replaced by those of version {METRICS_VERSION}"


def _figures(dataset: Dataset, version: Version, number: int) -> dict[str, dict[str, Any]]:
    """By run, figures and setting of what version `number` added and `version` has still."""
    change = version.changes[number - 1]
    names = ["run_id", rows.SUBMISSION, "status", "setting_key", rows.BY_GPU, *rows.columns()]
    found = dataset.table(version, names).to_pylist()
    kept = [row for row in found if row.pop(rows.SUBMISSION) == change.submission]
    return {f"{row.pop('run_id')} {at if change.origin != NAME else ''}": row for at, row in enumerate(kept)}


def _alike(one: Any, other: Any) -> bool:
    """Numbers to the digit that all machines compute alike."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=SAME_SHARE)
    return bool(one == other)


def _add(dataset: Dataset, data: Path, group: Group, validate: Validate, say: Callable[[str], None]) -> None:
    """Adds a group. Versions follow each other, whatever the days of their records."""
    day = max(dataset.latest().changes[-1].date, _day(data, group))
    say(f"{group.name}: {len(group.records) or 'imported'}")
    if group.imported is not None:
        add_file(dataset, group.imported, day)
    else:
        _submit(dataset, data, group.records, day, validate, say)


def _fresh(data: Path, submitted: Mapping[str, Group | None]) -> list[Group]:
    """One group for each folder with records that are in no submission, and one for each file of imported results that is not."""
    known = {record for group in submitted.values() if group is not None for record in group.records}
    imported = {group.imported for group in submitted.values() if group is not None}
    found = []
    for folder in sorted(data.glob("*/records")):
        runs = sorted(folder.glob("*/r*"))
        records = [str(run.relative_to(data)) for run in runs if judge(run).valid]
        if fresh := tuple(record for record in records if record not in known):
            found.append(Group(records=fresh))
    files = sorted((data / IMPORTED).glob("*.parquet"))
    return found + [Group(imported=path) for path in files if path not in imported]


def _submitted(data: Path, old: Dataset) -> dict[str, Group]:
    """By submission what it was made of, without those that were withdrawn as a whole and rows that were withdrawn one by one."""
    latest, found = old.latest(), {}
    there = old.table(latest, (rows.SUBMISSION, "run_id")).to_pylist()
    for change in latest.changes:
        name = str(change.submission)
        runs = {row["run_id"] for row in there if row[rows.SUBMISSION] == name}
        if change.what != ADD or not runs:
            continue
        listed: list[Mapping[str, Any]] = old.document(latest, name)["records"]
        if listed:
            kept = (item["record"].removeprefix("../") for item in listed if item["run_id"] in runs)
            found[name] = Group(tuple(kept))
        elif (imported := data / IMPORTED / f"{change.handle}.parquet").is_file():
            found[name] = Group(imported=imported)
    return found


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
