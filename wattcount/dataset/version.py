"""A version of a data set: an immutable list of its files with their hashes, and of all changes that led to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wattcount.dataset.storage import sha256
from wattcount.errors import NotStartedError, WattcountError
from wattcount.records.intake import parse_json
from wattcount.records.schema import Evidence

LAYOUT_VERSION = 1
"""Version of the data set's layout: docs/dataset_format.md."""
VERSIONS, RESULTS, SUBMISSIONS, BUNDLES, FINGERPRINTS = (
    "versions",
    "results",
    "submissions",
    "bundles",
    "fingerprints",
)
"""Folders of a data set."""
STAGED, HISTORY = "staged", "history"
"""Folders of what is not in the latest version: files of a version that is being put in place, and of versions before."""
POINTER, CHANGELOG = "latest.json", "CHANGELOG.md"
PATH = re.compile(rf"(?:{RESULTS}|{SUBMISSIONS}|{BUNDLES}|{FINGERPRINTS})/[A-Za-z0-9][A-Za-z0-9._-]{{0,200}}")
"""What a file of a version may be called."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
INIT, ADD, WITHDRAW = "init", "add", "withdraw"


class DatasetError(WattcountError):
    """What a data set's files say cannot be: changed by another hand, damaged, or of a layout to come."""


@dataclass(frozen=True)
class FileFacts:
    """Of a file of a version. `num_rows`: of a Parquet file."""

    sha256: str
    num_bytes: int
    num_rows: int | None = None


@dataclass(frozen=True)
class Change:
    """What a version changed.

    version, date   the version that the change made, and its day (ISO 8601)
    what            `init`, `add` or `withdraw`
    submission      id; None for `init`
    handle, origin, decision   of an addition
    num_results     rows that came or went
    results         ids of the rows that were withdrawn
    reason          why they were
    """

    version: int
    date: str
    what: str
    submission: str | None = None
    handle: str | None = None
    origin: str | None = None
    decision: str | None = None
    num_results: int = 0
    results: tuple[str, ...] = ()
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value not in (None, (), 0)}


@dataclass(frozen=True)
class Version:
    """A whole data set as it was at one time.

    name       of the data set
    evidence   of all its results: they are never mixed
    url        where it is published; None: not said
    number     1 for the empty data set, then one more with each change
    previous_sha256   of the manifest before: each version vouches for all before it
    files      by name
    """

    name: str
    evidence: Evidence
    number: int
    previous_sha256: str | None
    changes: tuple[Change, ...]
    files: Mapping[str, FileFacts] = field(default_factory=dict)
    url: str | None = None

    @classmethod
    def first(cls, name: str, evidence: Evidence, date: str, url: str | None = None) -> Version:
        return cls(name, evidence, 1, None, (Change(1, date, INIT),), url=url)

    def next(self, change: Change, files: Mapping[str, FileFacts]) -> Version:
        """The version that follows this one."""
        return replace(
            self,
            number=self.number + 1,
            previous_sha256=self.sha256,
            changes=(*self.changes, change),
            files=dict(sorted(files.items())),
        )

    @property
    def manifest(self) -> str:
        """Name of its file."""
        return manifest_name(self.number)

    @property
    def sha256(self) -> str:
        return sha256(self.to_bytes())

    @property
    def num_results(self) -> int:
        return sum(facts.num_rows or 0 for name, facts in self.files.items() if folder_of(name) == RESULTS)

    def of(self, folder: str) -> dict[str, FileFacts]:
        """The files of a folder."""
        return {name: facts for name, facts in self.files.items() if folder_of(name) == folder}

    def addition(self, submission: str) -> Change | None:
        """The change that added a submission; None: it was not."""
        found = (change for change in self.changes if change.what == ADD)
        return next((change for change in found if change.submission == submission), None)

    def withdrawals(self, submission: str) -> list[Change]:
        return [c for c in self.changes if c.what == WITHDRAW and c.submission == submission]

    def to_bytes(self) -> bytes:
        content = {
            "layout_version": LAYOUT_VERSION,
            "name": self.name,
            "url": self.url,
            "evidence": self.evidence.value,
            "version": self.number,
            "previous_sha256": self.previous_sha256,
            "files": {
                name: {key: value for key, value in asdict(facts).items() if value is not None}
                for name, facts in self.files.items()
            },
            "changes": [change.to_json() for change in self.changes],
        }
        return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()

    @classmethod
    def of_bytes(cls, content: bytes, where: str) -> Version:
        """Raises DatasetError for what `to_bytes` cannot have written."""
        data = parse_json(content, Path(where))
        layout = data.get("layout_version") if isinstance(data, dict) else None
        if not isinstance(layout, int) or isinstance(layout, bool):
            raise DatasetError(f"{where} is no manifest of a data set: it has no layout_version")
        if layout != LAYOUT_VERSION:
            raise NotStartedError(
                f"{where} is of layout version {layout}, this wattcount knows version {LAYOUT_VERSION}: pip install -U wattcount"
            )
        try:
            made = cls(
                name=_text(data["name"]),
                url=None if data["url"] is None else _text(data["url"]),
                evidence=Evidence(data["evidence"]),
                number=_count(data["version"]),
                previous_sha256=None if data["previous_sha256"] is None else _hash(data["previous_sha256"]),
                changes=tuple(_change(item) for item in data["changes"]),
                files={_path(name): _facts(item) for name, item in data["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{where} is damaged: {type(error).__name__}: {error}") from error
        return made


def manifest_name(number: int) -> str:
    return f"{VERSIONS}/{number:08d}.json"


def folder_of(name: str) -> str:
    return name.partition("/")[0]


def changelog(version: Version) -> str:
    """`CHANGELOG.md`: a line for each version, the newest first."""
    lines = [f"# Changes of {version.name}", ""]
    lines += [f"- {_line(change)}" for change in reversed(version.changes)]
    return "\n".join(lines) + "\n"


def _line(change: Change) -> str:
    begin = f"version {change.version}, {change.date}:"
    rows = f"{change.num_results} result{'' if change.num_results == 1 else 's'}"
    if change.what == INIT:
        return f"{begin} made"
    if change.what == ADD:
        source = "" if change.origin in (None, "wattcount") else f", imported from {change.origin}"
        return f"{begin} added {rows} of {plain(change.handle)} (`{change.submission}`, {change.decision}{source})"
    which = ", ".join(f"`{item}`" for item in change.results)
    return f"{begin} withdrew {rows} of `{change.submission}`: {plain(change.reason)} ({which})"


def plain(text: str | None) -> str:
    """A text of others within Markdown: one line in which nothing is markup."""
    line = " ".join((text or "").split())
    line = "".join(character if character.isprintable() else "?" for character in line)
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", line)


def _change(data: Mapping[str, Any]) -> Change:
    values = dict(data)
    values["results"] = tuple(_text(item) for item in values.get("results", ()))
    change = Change(**values)
    if change.what not in (INIT, ADD, WITHDRAW):
        raise ValueError(f"a change is {change.what!r}")
    for text in (change.submission, change.handle, change.origin, change.decision, change.reason):
        if text is not None:
            _text(text)
    _text(change.date)
    _count(change.version)
    if not isinstance(change.num_results, int) or change.num_results < 0:
        raise ValueError("num_results is no count")
    return change


def _facts(data: Mapping[str, Any]) -> FileFacts:
    facts = FileFacts(**data)
    _hash(facts.sha256)
    for count in (facts.num_bytes, facts.num_rows or 0):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError("a size is no count")
    return facts


def _path(name: str) -> str:
    if not PATH.fullmatch(name):
        raise ValueError(f"a file is called {name[:100]!r}")
    return name


def _hash(text: Any) -> str:
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise ValueError("a SHA-256 is none")
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is no version")
    return value
