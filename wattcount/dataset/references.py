"""Records by reference: where the record behind a row lies, and how it is fetched and compared with what was submitted.

A reference is `<bundle>#<folder in it>`, or a folder; relative to the data set, or a URL.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wattcount.dataset import rows
from wattcount.dataset.bundle import opened_bundle
from wattcount.dataset.storage import Folder, open_storage
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import DatasetError, Version
from wattcount.errors import NotStartedError, WattcountError
from wattcount.records import intake
from wattcount.records.schema import METRICS_JSON, RUN_JSON

NAMES = frozenset({RUN_JSON, METRICS_JSON})
"""Files of a record that are no table."""


@dataclass(frozen=True)
class Reference:
    """The record of a row.

    result_id, submission   of the row
    place, sha256           columns `record` and `record_sha256`
    """

    result_id: str
    submission: str
    place: str
    sha256: str

    @property
    def bundle(self) -> str | None:
        """Where the bundle lies; None: the record is a folder."""
        return self.place.partition("#")[0] if "#" in self.place else None

    @property
    def folder(self) -> str:
        """Within the bundle."""
        return self.place.partition("#")[2]


def digest(files: Mapping[str, str]) -> str:
    """`record_sha256` of a record: over the lines of `sha256sum *` in its folder."""
    lines = "".join(f"{sha}  {name}\n" for name, sha in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def files_of(record: Path) -> dict[str, str]:
    """SHA-256 of each file of a record."""
    return {path.name: intake.sha256(path) for path in sorted(record.iterdir())}


def references(dataset: Dataset, version: Version) -> list[Reference]:
    """Of all rows of a version that have a record."""
    table = dataset.table(version, (rows.ID, rows.SUBMISSION, rows.RECORD, rows.RECORD_SHA256))
    columns = [column.to_pylist() for column in table.columns]
    return [Reference(*values) for values in zip(*columns, strict=True) if values[2] is not None]


@contextlib.contextmanager
def fetched(
    dataset: Dataset, version: Version, wanted: Sequence[Reference]
) -> Iterator[Iterator[tuple[Reference, Path | WattcountError]]]:
    """Each record as a folder on this machine, or the error that says why it cannot be had. A bundle is opened once.

    A folder lasts until the next one is asked for.
    """
    yield _each(dataset, version, wanted)


def _each(
    dataset: Dataset, version: Version, wanted: Sequence[Reference]
) -> Iterator[tuple[Reference, Path | WattcountError]]:
    bundles: dict[str | None, list[Reference]] = {}
    for reference in wanted:
        bundles.setdefault(reference.bundle, []).append(reference)
    for bundle, found in bundles.items():
        with tempfile.TemporaryDirectory(prefix="wattcount-records-") as temporary:
            folder = Path(temporary)
            if bundle is not None:
                try:
                    _open_bundle(dataset, version, bundle, folder)
                except WattcountError as error:
                    yield from ((reference, error) for reference in found)
                    continue
            for number, reference in enumerate(found):
                try:
                    if bundle is None:
                        path = _fetch_folder(dataset, version, reference, folder / f"{number}")
                    else:
                        path = _within(folder / "bundle", reference.folder)
                    if digest(files_of(path)) != reference.sha256:
                        raise DatasetError(
                            f"{reference.place} is not the record that was submitted: its SHA-256 differs"
                        )
                    yield reference, path
                except OSError as error:
                    yield (
                        reference,
                        DatasetError(f"{reference.place} cannot be had: {error.strerror or error}"),
                    )
                except WattcountError as error:
                    yield reference, error


def _open_bundle(dataset: Dataset, version: Version, bundle: str, folder: Path) -> None:
    """Unpacks a bundle into `folder/bundle`."""
    file = folder / "packed.wattcount"
    if bundle in version.files:
        dataset.fetch(version, bundle, file)
    else:
        where = resolved(dataset, bundle)
        storage = open_storage(posixpath.dirname(where))
        try:
            storage.fetch(posixpath.basename(where), file)
        except FileNotFoundError:
            raise DatasetError(f"the bundle {where} is not there") from None
    (folder / "bundle").mkdir()
    opened_bundle(file, folder / "bundle")


def _fetch_folder(dataset: Dataset, version: Version, reference: Reference, target: Path) -> Path:
    where = resolved(dataset, reference.place)
    storage = open_storage(where)
    if isinstance(storage, Folder):
        return Path(where)
    target.mkdir()
    for name in _names(dataset, version, reference):
        try:
            storage.fetch(name, target / name)
        except FileNotFoundError:
            raise DatasetError(f"{where} has no {name}") from None
    return target


def _names(dataset: Dataset, version: Version, reference: Reference) -> list[str]:
    """The files of a record, as its submission lists them."""
    listed: Any = dataset.document(version, reference.submission).get("records")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("record") == reference.place:
            names = [str(name) for name in item.get("files", {})]
            if all(name in NAMES or name.endswith(".parquet") for name in names) and not any(
                "/" in name for name in names
            ):
                return names
    raise DatasetError(
        f"submissions/{reference.submission}.json does not list the files of {reference.place}"
    )


def resolved(dataset: Dataset, place: str) -> str:
    """The path or URL of a place that may be relative to the data set."""
    if urlsplit(place).scheme or place.startswith("/"):
        return place
    if "://" in dataset.where:
        scheme, _, rest = dataset.where.partition("://")
        return f"{scheme}://{posixpath.normpath(posixpath.join(rest, place))}"
    return str(Path(dataset.where, place))


def _within(folder: Path, name: str) -> Path:
    found = (folder / name).resolve()
    if not found.is_relative_to(folder.resolve()):
        raise DatasetError(f"{name} lies outside of its bundle")
    return found


def find(found: Sequence[Reference], what: str) -> Reference:
    """The reference of a row, by its id or the begin of it. Raises NotStartedError."""
    those = [reference for reference in found if reference.result_id.startswith(what)]
    if len(those) != 1:
        raise NotStartedError(
            f"{what!r} is the id of {len(those) or 'no'} results with a record; `wattcount dataset list --results` lists them"
        )
    return those[0]
