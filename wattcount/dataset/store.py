"""The data set: a folder or a URL with versions, each of which is whole and never changes.

A version is made by creating its manifest `versions/<n>.json`, which only one writer can do. Before that, what is new lies in
`staged/` under its name and SHA-256, and what will be gone is copied to `history/`. After that, the new files move to their places, and
`latest.json` is replaced. So a writer that dies leaves either the version before or the new one, and the next writer puts the
rest in place. Whoever reads looks for the content of a file, by its SHA-256, in its place, in `staged/` and in `history/`.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from wattcount.dataset import rows
from wattcount.dataset.storage import Storage, StorageError, open_storage, sha256
from wattcount.dataset.version import (
    ADD,
    BUNDLES,
    CHANGELOG,
    FINGERPRINTS,
    HISTORY,
    POINTER,
    RESULTS,
    STAGED,
    SUBMISSIONS,
    VERSIONS,
    WITHDRAW,
    Change,
    DatasetError,
    FileFacts,
    Version,
    changelog,
    folder_of,
    manifest_name,
)
from wattcount.errors import NotStartedError, RunFailedError, one_line
from wattcount.files import TEMPORARY_SUFFIX
from wattcount.records import intake
from wattcount.records.intake import parse_json
from wattcount.records.schema import Evidence
from wattcount.result import Result

MOST_TRIES = 20
"""How often a writer begins anew because another was first."""
ID_CHARACTERS = 16
"""Length of a submission's id: the begin of the SHA-256 of what was submitted [hexadecimal digits]."""
LEAST_ID_CHARACTERS = 6
"""Shortest begin of an id that stands for it."""
ACCEPTED, FLAGGED, IMPORTED = "accepted", "flagged", "imported"
"""What is said of a submission that was added: by the validator, or that it is a source's own figures, which nobody can compute again."""
PAGES = ("README.md", "croissant.json")
"""Files that tell of a data set: the data card, and the same for machines."""
HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@+-]{0,63}")
"""A submitter's name: as in a bundle, and with blanks, for imported results have the name of their source."""


@dataclass(frozen=True)
class Submission:
    """What is added in one step.

    id          `submission_id` of what was submitted: the same again is not added twice
    results     the results, whose `evidence` must be the data set's
    records     of each result, where its record lies and the SHA-256 over its files; None: there is none
    document    `submissions/<id>.json`: who, what, which licence, the verdict
    licence     SPDX identifier
    decision    ACCEPTED, FLAGGED or IMPORTED
    origin      `wattcount`, or where the results were imported from
    bundle      a file to be kept in the data set; None: it is elsewhere, as `records` says
    fingerprints   JSON: by folder of a record what tells it when it comes again, as `Dataset.known` gives it; None: there is none
    """

    id: str
    handle: str
    licence: str
    decision: str
    results: Sequence[Result]
    records: Sequence[tuple[str, str] | None]
    document: Mapping[str, Any]
    cohort: str | None = None
    origin: str = "wattcount"
    bundle: Path | None = None
    fingerprints: bytes | None = None

    @property
    def bundle_name(self) -> str:
        return f"{BUNDLES}/{self.id}.wattcount"


@dataclass(frozen=True)
class Outcome:
    """What a change came to. `changed` False: it was so already, by `version`."""

    version: Version
    changed: bool
    num_results: int = 0


@dataclass
class _Plan:
    """What the next version has that this one has not."""

    change: Change
    new: dict[str, bytes | Path] = field(default_factory=dict)
    num_rows: dict[str, int] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)


class Dataset:
    """A data set at a path or URL."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.where = storage.where

    # -- making and opening

    @classmethod
    def init(
        cls,
        where: str | Path,
        name: str,
        date: str,
        evidence: Evidence = Evidence.MEASURED,
        url: str | None = None,
    ) -> Dataset:
        """A new data set without results. Raises NotStartedError where there is one already, or anything else."""
        storage = open_storage(where)
        if isinstance(local := storage.local(""), Path):
            try:
                local.mkdir(parents=True, exist_ok=True)
                foreign = [entry.name for entry in local.iterdir() if not entry.name.startswith(".")]
            except OSError as error:
                raise NotStartedError(f"{where} cannot be made: {error.strerror}") from error
            if foreign and manifest_name(1) not in storage.names(VERSIONS):
                raise NotStartedError(f"{where} is not empty: a data set needs a folder of its own")
        dataset = cls(storage)
        first = Version.first(name, evidence, date, url)
        try:
            with storage.writing("init") as alone:
                storage.create(first.manifest, first.to_bytes())
                dataset._publish(first, alone)
        except FileExistsError:
            raise NotStartedError(f"{storage.where} is a data set already") from None
        except StorageError as error:
            raise NotStartedError(f"nothing was made: {error}") from error
        return dataset

    @classmethod
    def open(cls, where: str | Path) -> Dataset:
        """Raises NotStartedError where there is none."""
        dataset = cls(open_storage(where))
        dataset.latest()
        return dataset

    # -- reading

    def latest(self) -> Version:
        """The newest version. Raises NotStartedError where there is no data set, StorageError where it cannot be read."""
        number = self._pointed()
        while self._storage.size(manifest_name(number + 1)) is not None:
            number += 1
        return self.version(number)

    def version(self, number: int) -> Version:
        """Raises NotStartedError for one that there is not."""
        name = manifest_name(number)
        try:
            content = self._storage.read(name)
        except FileNotFoundError:
            raise NotStartedError(f"{self.where} has no version {number}") from None
        found = Version.of_bytes(content, f"{self.where}/{name}")
        if found.number != number:
            raise DatasetError(f"{self.where}/{name} says that it is version {found.number}")
        return found

    def document(self, version: Version, submission: str) -> dict[str, Any]:
        """`submissions/<id>.json`."""
        name = _document_name(submission)
        found = parse_json(self.read(version, name), Path(name))
        if not isinstance(found, dict):
            raise DatasetError(f"{self.where}/{name} is damaged")
        return found

    def read(self, version: Version, name: str) -> bytes:
        """The content of a file of a version. Raises DatasetError where it is not what was added."""
        for place in self._places(version, name):
            with contextlib.suppress(FileNotFoundError):
                content = self._storage.read(place)
                if sha256(content) == version.files[name].sha256:
                    return content
        raise self._lost(version, name)

    def record_digests(self, version: Version, submission: str) -> dict[str, set[str]]:
        """By the place of a record its `record_sha256`, as the submission lists them."""
        found: dict[str, set[str]] = {}
        listed = self.document(version, submission).get("records")
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, dict):
                found.setdefault(str(item.get("record")), set()).add(str(item.get("sha256")))
        return found

    def strays(self, version: Version) -> list[str]:
        """What lies in the data set and is not the latest version's, or is not in its place: a line each."""
        found = [
            f"{name} belongs to no version: `wattcount dataset check --repair` removes it, if nobody adds right now"
            for folder in (RESULTS, SUBMISSIONS, BUNDLES, FINGERPRINTS)
            for name in self._storage.names(folder)
            if name not in version.files and not name.endswith(TEMPORARY_SUFFIX)
        ]
        found += [
            f"{name} is not in its place yet: `wattcount dataset check --repair`"
            for name in version.files
            if self._storage.size(name) is None
        ]
        if self._pointed() != version.number:
            found.append(
                f"{POINTER} is not of version {version.number} yet: `wattcount dataset check --repair`"
            )
        return found

    @contextlib.contextmanager
    def files(self, version: Version, without: Set[str] = frozenset()) -> Iterator[list[Path]]:
        """The files of results of a version on this machine, each compared with its SHA-256. Remote ones are fetched first.

        without   names of files to be left out
        """
        with tempfile.TemporaryDirectory(prefix="wattcount-dataset-") as temporary:
            names = [name for name in version.of(RESULTS) if name not in without]
            yield [self._fetched(version, name, Path(temporary)) for name in names]

    def table(
        self, version: Version, columns: Iterable[str] | None = None, without: Set[str] = frozenset()
    ) -> pa.Table:
        """The rows of a version; `columns`: only these; `without`: files to be left out."""
        wanted = None if columns is None else list(columns)
        with self.files(version, without) as files:
            tables = [rows.read(path, wanted) for path in files]
        if wanted is None:
            return pa.concat_tables([rows.schema().empty_table(), *map(rows.conformed, tables)])
        empty = pa.schema([rows.schema().field(name) for name in wanted]).empty_table()
        return pa.concat_tables([empty, *tables], promote_options="default")

    def results(self, version: Version | None = None) -> list[Result]:
        """The results of a version, the latest where it is None: what a study reads."""
        version = version or self.latest()
        with self.files(version) as files:
            return [result for path in files for result in rows.to_results(rows.read(path))]

    def known(self, version: Version | None = None) -> dict[str, dict[str, Any]]:
        """What the validator knows of every record that was ever added, by `<submission>/<folder in its bundle>`: its traits by their
        names (`dataset.rules.TRAITS`). Withdrawn ones too: what was withdrawn does not come again."""
        version = version or self.latest()
        found: dict[str, dict[str, Any]] = {}
        for name in version.of(FINGERPRINTS):
            content = parse_json(self.read(version, name), Path(name))
            if not isinstance(content, dict) or not all(isinstance(item, dict) for item in content.values()):
                raise DatasetError(f"{self.where}/{name} is damaged")
            found |= {f"{Path(name).stem}/{folder}": traits for folder, traits in content.items()}
        return found

    @contextlib.contextmanager
    def on_this_machine(self, folder: str) -> Iterator[Path]:
        """The data set as a folder of this machine, for processes that reach nothing else: itself, or a copy of its latest version with
        only the files of `folder`."""
        if (here := self._storage.local("")) is not None:
            yield here
            return
        version = self.latest()
        with tempfile.TemporaryDirectory(prefix="wattcount-dataset-") as temporary:
            copied = Path(temporary)
            for name in (POINTER, version.manifest):
                (copied / name).parent.mkdir(exist_ok=True)
                (copied / name).write_bytes(version.to_bytes())
            for name in version.of(folder):
                (copied / name).parent.mkdir(exist_ok=True)
                self.fetch(version, name, copied / name)
            yield copied

    # -- changing

    def add(
        self,
        submission: Submission,
        date: str,
        check: Callable[[Version], None] | None = None,
    ) -> Outcome:
        """Adds all of a submission, or nothing.

        check   called with each version that this one may follow; raises NotStartedError where it must not be added
        Raises NotStartedError where nothing was added, RunFailedError where it was and something is left to be done.
        """
        about = _about(submission)
        self._check(submission)
        table = rows.to_table([replace(r, by=r.by or submission.handle) for r in submission.results], about)
        content = rows.to_bytes(table)

        def plan(now: Version) -> _Plan | None:
            if (gone := now.withdrawals(submission.id)) and not _left(now, submission.id):
                raise NotStartedError(
                    f"submission {submission.id} was withdrawn in version {gone[-1].version}: {gone[-1].reason}"
                )
            if now.addition(submission.id):
                return None
            _refuse_evidence(submission.results, now)
            if check is not None:
                check(now)
            change = Change(
                version=now.number + 1,
                date=date,
                what=ADD,
                submission=submission.id,
                handle=submission.handle,
                origin=submission.origin,
                decision=submission.decision,
                num_results=len(table),
            )
            name = _results_name(submission.id, None)
            made = _Plan(change, {name: content}, {name: len(table)})
            made.new[_document_name(submission.id)] = _json(submission.document)
            if submission.fingerprints is not None:
                made.new[f"{FINGERPRINTS}/{submission.id}.json"] = submission.fingerprints
            if submission.bundle is not None:
                made.new[submission.bundle_name] = submission.bundle
            return made

        return self._change(f"add {submission.id}", plan)

    def remove(self, what: str, reason: str, date: str, *, replaced: bool = False) -> Outcome:
        """Withdraws a submission, or one result, by its id or the begin of it. The versions before keep it.

        replaced   its records come again, in another submission: the validator does not take them for copies then
        Raises as `add` does.
        """
        if not reason.strip():
            raise NotStartedError("a withdrawal needs a reason")

        def plan(now: Version) -> _Plan | None:
            submission, ids = self._named(now, what)
            name = _name_now(now, submission)
            if name is None:
                return None
            with self._one(now, name) as path:
                table = rows.read(path)
            there = table[rows.ID].to_pylist()
            going = set(there if ids is None else ids)
            kept = table.filter(pa.array([item not in going for item in there]))
            if len(kept) == len(table):
                return None
            change = Change(
                version=now.number + 1,
                date=date,
                what=WITHDRAW,
                submission=submission,
                num_results=len(table) - len(kept),
                results=tuple(item for item in there if item in going),
                reason=one_line(reason),
            )
            made = _Plan(change, gone=[name])
            if len(kept):
                again = _results_name(submission, now.number + 1)
                made.new[again] = rows.to_bytes(kept)
                made.num_rows[again] = len(kept)
            else:
                # The bundle of a submission that is withdrawn as a whole is not offered any more either.
                made.gone += [n for n in now.of(BUNDLES) if Path(n).stem == submission]
                if replaced:
                    made.gone += [n for n in now.of(FINGERPRINTS) if Path(n).stem == submission]
            return made

        return self._change(f"withdraw {what}", plan)

    def repeat(self, version: Version, read: Callable[[str], bytes]) -> Outcome:
        """Makes a version of another copy of this data set here, byte for byte. It must be the one that follows.

        read   the content of a file of that version
        Raises as `add` does.
        """

        def plan(now: Version) -> _Plan:
            if version.previous_sha256 != now.sha256:
                raise NotStartedError(
                    f"version {version.number} of {version.name} does not follow version {now.number} of {self.where}"
                )
            new = [name for name, facts in version.files.items() if now.files.get(name) != facts]
            return _Plan(
                version.changes[-1],
                {name: read(name) for name in new},
                {name: rows for name in new if (rows := version.files[name].num_rows) is not None},
                [name for name in now.files if name not in version.files],
            )

        outcome = self._change(f"repeat version {version.number}", plan)
        if outcome.version != version:
            raise DatasetError(f"version {version.number} of {version.name} is not what its files make")
        return outcome

    def settle(self, *, remove_strays: bool = False) -> Version:
        """Finishes what a writer that died left: puts the files of the latest version in their places. Returns that version.

        remove_strays   also removes files that are not the version's from its folders: only while nobody adds
        """
        try:
            with self._storage.writing("settle") as alone:
                version = self._settled(alone)
                self._publish(version, alone)
                for folder in (RESULTS, SUBMISSIONS, BUNDLES, FINGERPRINTS) if remove_strays else ():
                    for name in self._storage.names(folder):
                        if name not in version.files:
                            self._storage.remove(name)
                return version
        except StorageError as error:
            raise NotStartedError(f"not finished: {error}") from error

    def put(self, name: str, content: bytes) -> None:
        """Writes a file that tells of the data set, and is none of a version's."""
        if name not in PAGES:
            raise ValueError(f"{name} is no page of a data set")
        try:
            with self._storage.writing(f"write {name}"):
                self._storage.write(name, content)
        except StorageError as error:
            raise NotStartedError(f"nothing was changed: {error}") from error

    # -- within

    def _change(self, purpose: str, plan: Callable[[Version], _Plan | None]) -> Outcome:
        with self._storage.writing(purpose) as alone:
            for _ in range(MOST_TRIES):
                try:
                    now = self._settled(alone)
                    made = plan(now)
                    if made is None:
                        return Outcome(now, False)
                    version = self._staged(now, made, alone)
                except StorageError as error:
                    raise NotStartedError(f"nothing was changed: {error}") from error
                if not self._created(version):
                    continue
                try:
                    self._publish(version, alone, now)
                    if (newest := self.latest()).number > version.number:
                        # Another was faster: its `latest.json` stays the last that is written.
                        self._publish(newest, alone, version)
                except StorageError as error:
                    raise RunFailedError(
                        "storage",
                        f"version {version.number} is made and whole, but not all of its files are in their places yet "
                        f"({error}): `wattcount dataset check --repair` finishes that, or the next change",
                    ) from error
                return Outcome(version, True, made.change.num_results)
        raise NotStartedError(f"nothing was changed: others keep changing {self.where}; try again")

    def _created(self, version: Version) -> bool:
        """Creates a version. False: another writer has made one of that number. Raises NotStartedError where it was not made."""
        content = version.to_bytes()
        try:
            self._storage.create(version.manifest, content)
            return True
        except FileExistsError:
            pass
        except StorageError as error:
            # The answer may have been lost, and not the request.
            try:
                if self._storage.size(version.manifest) is None:
                    raise NotStartedError(f"nothing was changed: {error}") from error
            except StorageError:
                raise RunFailedError(
                    "storage",
                    f"it is not known whether version {version.number} was made ({error}): "
                    "do the same again when the server answers; what is there already is not added twice",
                ) from error
        try:
            return self._storage.read(version.manifest) == content
        except StorageError as error:
            raise RunFailedError(
                "storage", f"it is not known whether version {version.number} was made ({error})"
            ) from error

    def _staged(self, now: Version, made: _Plan, alone: bool) -> Version:
        """Puts what is new into `staged/`, and copies what will be gone to `history/`. Returns the version to be created."""
        files = dict(now.files)
        placed: list[str] = []
        try:
            for name, content in made.new.items():
                digest = sha256(content) if isinstance(content, bytes) else intake.sha256(content)
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                files[name] = FileFacts(digest, size, made.num_rows.get(name))
                place = _staged_name(name, digest)
                if self._storage.size(place) != size:
                    placed.append(place)
                    self._storage.write(place, content)
            for name in made.gone:
                kept = _history_name(name)
                if self._storage.size(kept) is None:
                    self._storage.copy(self._found(now, name), kept)
                del files[name]
        except StorageError:
            # Of several writers, another may have staged the same content and count on it.
            for place in placed if alone else ():
                with contextlib.suppress(StorageError):
                    self._storage.remove(place)
            raise
        return now.next(made.change, files)

    def _settled(self, alone: bool) -> Version:
        """The latest version, all of whose files are in their places."""
        now = self.latest()
        pointed = self._pointed()
        if pointed < now.number:
            self._publish(now, alone, self.version(pointed))
        elif alone:
            self._tidy()
        return now

    def _publish(self, version: Version, alone: bool, before: Version | None = None) -> None:
        """Puts the files of a version in their places, and replaces `latest.json`. May be done again, and by several at once."""
        staged = set(self._storage.names(STAGED))
        for name in () if before is None else before.files:
            if name not in version.files:
                # It is in the history since before the version was made.
                self._storage.remove(name)
        for name, facts in version.files.items():
            if (place := _staged_name(name, facts.sha256)) in staged:
                with contextlib.suppress(FileNotFoundError):  # another has just done it
                    self._storage.move(place, name)
        self._storage.write(CHANGELOG, changelog(version).encode())
        self._storage.write(POINTER, version.to_bytes())
        if alone:
            self._tidy()

    def _tidy(self) -> None:
        """Removes what writers that died left: nothing of it is in any version. Only for who writes alone."""
        for name in self._storage.names(STAGED):
            self._storage.remove(name)
        for folder in (VERSIONS, RESULTS, SUBMISSIONS, BUNDLES, FINGERPRINTS, HISTORY):
            for name in self._storage.names(folder):
                if name.endswith(TEMPORARY_SUFFIX):
                    self._storage.remove(name)

    def _pointed(self) -> int:
        """The version that `latest.json` names; it may lag behind the newest."""
        try:
            pointer = Version.of_bytes(self._storage.read(POINTER), f"{self.where}/{POINTER}")
            return pointer.number
        except FileNotFoundError:
            if not self._storage.names(VERSIONS):
                raise NotStartedError(
                    f"{self.where} is no data set: `wattcount dataset init` makes one"
                ) from None
            return 1

    def _places(self, version: Version, name: str) -> tuple[str, ...]:
        """Where the content of a file may lie. Its place comes twice: another may move it there meanwhile."""
        return (name, _staged_name(name, version.files[name].sha256), _history_name(name), name)

    def _found(self, version: Version, name: str) -> str:
        for place in self._places(version, name):
            with contextlib.suppress(FileNotFoundError):
                if sha256(self._storage.read(place)) == version.files[name].sha256:
                    return place
        raise self._lost(version, name)

    def _fetched(self, version: Version, name: str, temporary: Path) -> Path:
        for place in self._places(version, name):
            path = self._storage.local(place)
            try:
                if path is None:
                    path = temporary / Path(name).name
                    self._storage.fetch(place, path)
                if intake.sha256(path) == version.files[name].sha256:
                    return path
            except FileNotFoundError:
                continue
        raise self._lost(version, name)

    @contextlib.contextmanager
    def _one(self, version: Version, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="wattcount-dataset-") as temporary:
            yield self._fetched(version, name, Path(temporary))

    def fetch(self, version: Version, name: str, target: Path) -> None:
        """Copies a file of a version to this machine."""
        with self._one(version, name) as path:
            shutil.copyfile(path, target)

    def _lost(self, version: Version, name: str) -> DatasetError:
        return DatasetError(
            f"{self.where}/{name} is missing or not what version {version.number} has: its SHA-256 differs"
        )

    def _named(self, version: Version, what: str) -> tuple[str, list[str] | None]:
        """(submission, ids of its results or None for all) that an id, or the begin of one, stands for."""
        if len(what) < LEAST_ID_CHARACTERS:
            raise NotStartedError(
                f"{what!r} is too short: give at least {LEAST_ID_CHARACTERS} characters of an id"
            )
        whole = {str(c.submission) for c in version.changes if c.what == ADD}
        found: dict[str, tuple[str, list[str] | None]] = {
            name: (name, None) for name in whole if name.startswith(what)
        }
        table = self.table(version, (rows.ID, rows.SUBMISSION))
        for item, submission in zip(
            table[rows.ID].to_pylist(), table[rows.SUBMISSION].to_pylist(), strict=True
        ):
            if item.startswith(what):
                found[item] = (submission, [item])
        withdrawn = {
            item: c.submission for c in version.changes for item in c.results if item.startswith(what)
        }
        for item, submission in withdrawn.items():
            found.setdefault(item, (str(submission), [item]))
        if not found:
            raise NotStartedError(f"{self.where} has neither a submission nor a result {what!r}")
        if len(found) > 1:
            raise NotStartedError(
                f"{what!r} stands for {len(found)} ids: {', '.join(sorted(found)[:5])}; give more of it"
            )
        return next(iter(found.values()))

    def _check(self, submission: Submission) -> None:
        """Raises NotStartedError for a submission that no data set takes."""
        if not HANDLE.fullmatch(submission.handle):
            raise NotStartedError(f"a handle has letters, digits and ._@+-, not {submission.handle[:64]!r}")
        if not submission.results:
            raise NotStartedError("a submission without a result has nothing to be added")
        if submission.decision not in (ACCEPTED, FLAGGED, IMPORTED):
            raise NotStartedError(f"the submission was {submission.decision}: it cannot be added")


def submission_id(content_sha256: str) -> str:
    """Id of a submission: of the SHA-256 of what was submitted."""
    return content_sha256[:ID_CHARACTERS]


def result_id(submission: str, what: str) -> str:
    """Id of a result: of its submission, and of what it is within that: the folder of its record, its run id."""
    return sha256(f"{submission}/{what}".encode())[:ID_CHARACTERS]


def _about(submission: Submission) -> list[rows.About]:
    found = []
    for number, (result, record) in enumerate(zip(submission.results, submission.records, strict=True)):
        what = record[0] if record else f"{result.run_id} {number}"
        found.append(
            rows.About(
                result_id=result_id(submission.id, what),
                submission=submission.id,
                decision=submission.decision,
                licence=submission.licence,
                cohort=submission.cohort,
                record=record[0] if record else None,
                record_sha256=record[1] if record else None,
            )
        )
    if len({item.result_id for item in found}) != len(found):
        raise NotStartedError("two results of the submission are one and the same record")
    return found


def _refuse_evidence(results: Sequence[Result], version: Version) -> None:
    other = [result for result in results if result.evidence is not version.evidence]
    if other:
        found = sorted({"unknown" if r.evidence is None else r.evidence.value for r in other})
        raise NotStartedError(
            f"{' and '.join(found)}: {len(other)} of {len(results)} results are not {version.evidence.value}, and {version.name} takes "
            f"only {version.evidence.value} ones (`wattcount dataset init --evidence {found[0]}` makes a data set for those)"
        )


def _left(version: Version, submission: str) -> bool:
    return _name_now(version, submission) is not None


def _name_now(version: Version, submission: str) -> str | None:
    """The file of a submission's results; None: they were all withdrawn."""
    found = (name for name in version.of(RESULTS) if Path(name).name.startswith(f"{submission}."))
    return next(found, None)


def _results_name(submission: str, number: int | None) -> str:
    """`number`: the version that withdrew some of the rows. A name never has another content."""
    return (
        f"{RESULTS}/{submission}.parquet" if number is None else f"{RESULTS}/{submission}.v{number}.parquet"
    )


def _document_name(submission: str) -> str:
    return f"{SUBMISSIONS}/{submission}.json"


def _staged_name(name: str, digest: str) -> str:
    """Two files may have the same content, so the name is part of it."""
    return f"{STAGED}/{folder_of(name)}-{Path(name).name}.{digest}"


def _history_name(name: str) -> str:
    return f"{HISTORY}/{folder_of(name)}-{Path(name).name}"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
