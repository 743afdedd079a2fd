"""One file of records that a stranger hands in: `NAME.wattcount`, a tar compressed with Zstandard.

    manifest.json                                   first: who, under which licence, and each file with its size and SHA-256
    records/<point 12>/r<repeat>-<run id>/...       public records (`dataset.public`), files in the order of their names

A bundle has one form only: names in order, no owner, no time, no other kind of entry than a regular file. So the same records give
the same bytes, and whatever differs from that form is refused before it is written anywhere (`opened_bundle`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from wattcount import __version__
from wattcount.config.identity import setting_key
from wattcount.dataset import public
from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.files import replacing
from wattcount.metrics.metrics_json import METRICS_VERSION
from wattcount.records import Record, intake, schema
from wattcount.text import printable

BUNDLE_SCHEMA_VERSION = 1
"""Of the manifest and the archive."""
SUFFIX = ".wattcount"
MANIFEST_JSON = "manifest.json"
RECORDS = "records"
"""Folder of the records in a bundle."""
LICENCES = ("CC-BY-4.0", "CC0-1.0", "CC-BY-SA-4.0", "ODC-By-1.0")
"""Licences that a submission may have (SPDX): each lets anybody use the data, with the source named or not."""
DEFAULT_LICENCE = LICENCES[0]
RECORD_FILES = frozenset({schema.RUN_JSON, schema.METRICS_JSON, *schema.TABLES})
"""Files that a record in a bundle may have. The engine's log is not among them, which is full of paths, hosts and arguments,
nor what only emulated runs have."""
COMPRESSION_LEVEL = 10
"""Zstandard's level: tables are compressed already, and `run.json`s, which are much alike, get hardly smaller above it."""
MIB = 1 << 20
"""A mebibyte [bytes]."""

_HANDLE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,37}[A-Za-z0-9])?")
"""A name as GitHub and Hugging Face have them, at most 39 characters."""
CONTACT_CHARACTERS = 200
"""Longest contact [characters]: an e-mail address has at most 254, and hardly one has 100."""
_COHORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")
_RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_BLOCK = 512
"""Tar's unit [bytes]."""
_INPUT_BYTES = 512
"""How much of the compressed file is decompressed at once [bytes]. The most that becomes of it is 16 MiB: four bytes can stand for
128 KiB."""
_CHUNK_BYTES = MIB
"""How much of a file is hashed and written at once [bytes]."""


class BundleError(NotStartedError):
    """A bundle is not what `wattcount submit` writes: cut, changed, too large, of another version; or none can be made."""


@dataclass(frozen=True)
class Limits:
    """What a bundle may have at most; checked before memory or disk is taken.

    file_bytes      of the bundle itself [bytes]
    total_bytes     of all files in it, unpacked [bytes]
    member_bytes    of one file in it [bytes]
    manifest_bytes  of the manifest [bytes]
    records         records
    window_bytes    of the memory that decompression needs [bytes]
    """

    file_bytes: int = 1 << 30
    total_bytes: int = 4 << 30
    member_bytes: int = 512 * MIB
    manifest_bytes: int = intake.JSON_LIMIT_BYTES
    records: int = 10_000
    window_bytes: int = 8 * MIB


LIMITS = Limits()
"""Ten times the largest campaign known: 5,580 results with 14 million samples of power take 0.1 GB so packed. Zstandard's own
levels up to 19 need no larger window."""


@dataclass(frozen=True)
class Submitter:
    """Who submits, and under which licence.

    handle   the name that the data set shows
    contact  where questions about the records go: an e-mail address or a web page; published
    key      his own secret, of which pseudonyms are made (`dataset.public.Pseudonyms`); never published
    """

    handle: str
    contact: str
    licence: str
    key: bytes = dataclasses.field(repr=False)


@dataclass(frozen=True)
class RecordEntry:
    """A record of the bundle.

    folder   in the bundle: `records/<point 12>/r<repeat>-<run id>`
    """

    folder: str
    run_id: str
    point_id: str
    setting_key: str
    repeat: int
    seed: int


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """`manifest.json`.

    cohort   whose seeds the records used; None: none
    files    by path in the bundle
    """

    schema_version: int
    handle: str
    contact: str
    licence: str
    cohort: str | None
    wattcount_version: str
    metrics_version: int
    records: tuple[RecordEntry, ...]
    files: Mapping[str, FileEntry]

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _MANIFEST_TEXTS},
            "records": [dataclasses.asdict(entry) for entry in self.records],
            "files": {path: dataclasses.asdict(self.files[path]) for path in sorted(self.files)},
        }

    def to_bytes(self) -> bytes:
        return (json.dumps(self.to_json(), indent=1, ensure_ascii=True) + "\n").encode()

    @classmethod
    def of_json(cls, data: Any) -> Manifest:
        """The inverse of `to_json`. Raises `BundleError` for anything else than what it gives."""
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise BundleError("the manifest is damaged: it has no schema_version")
        if version != BUNDLE_SCHEMA_VERSION:
            raise BundleError(
                f"the bundle has schema version {version}, this wattcount reads version {BUNDLE_SCHEMA_VERSION}: "
                + (
                    "pip install -U wattcount"
                    if version > BUNDLE_SCHEMA_VERSION
                    else "submit the records again"
                )
            )
        _only(data, {item.name for item in dataclasses.fields(cls)}, "the manifest")
        records, files = data["records"], data["files"]
        if not isinstance(records, list) or not isinstance(files, dict) or not records:
            raise BundleError(
                "the manifest is damaged: records must be a list that is not empty, files a group"
            )
        manifest = cls(
            **{name: data[name] for name in _MANIFEST_TEXTS},
            records=tuple(_record_entry(entry) for entry in records),
            files={path: _file_entry(path, entry) for path, entry in files.items()},
        )
        _check_manifest(manifest)
        return manifest


_MANIFEST_TEXTS = (
    "schema_version",
    "handle",
    "contact",
    "licence",
    "cohort",
    "wattcount_version",
    "metrics_version",
)
"""Keys of the manifest before `records` and `files`, in the order of the file."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened.

    folder      where its files lie now, as in the archive
    bundle_id   SHA-256 of the bundle's file, hexadecimal
    """

    manifest: Manifest
    folder: Path
    bundle_id: str

    @property
    def record_paths(self) -> list[Path]:
        """The folders of the records, in the order of the manifest."""
        return [self.folder / entry.folder for entry in self.manifest.records]


# -- what a manifest must be


def checked_submitter(handle: str, contact: str, licence: str) -> None:
    """Raises `BundleError` for what a manifest cannot have."""
    if not _HANDLE.fullmatch(handle):
        raise BundleError(
            f"the handle {printable(handle[:60], lines=False)!r} must be 1 to 39 letters, digits and . _ -, with a letter or digit "
            "at both ends"
        )
    if not contact.strip() or len(contact) > CONTACT_CHARACTERS or not contact.isprintable():
        raise BundleError(f"the contact must be one line of at most {CONTACT_CHARACTERS} characters")
    if licence not in LICENCES:
        raise BundleError(
            f"the licence {printable(licence[:60], lines=False)!r} must be one of {', '.join(LICENCES)}"
        )


def _check_manifest(manifest: Manifest) -> None:
    for name in ("handle", "contact", "licence", "wattcount_version"):
        if not isinstance(getattr(manifest, name), str):
            raise BundleError(f"the manifest is damaged: {name} must be text")
    checked_submitter(manifest.handle, manifest.contact, manifest.licence)
    cohort = manifest.cohort
    if cohort is not None and not (isinstance(cohort, str) and _COHORT.fullmatch(cohort)):
        raise BundleError("the manifest is damaged: cohort must be null or letters, digits and . _ -")
    if not _VERSION.fullmatch(manifest.wattcount_version) or not _is_count(manifest.metrics_version):
        raise BundleError("the manifest is damaged: wattcount_version or metrics_version is no version")
    folders = [entry.folder for entry in manifest.records]
    if len(set(folders)) != len(folders) or folders != sorted(folders):
        raise BundleError("the manifest is damaged: a record is named twice, or they are not in order")
    known = set(folders)
    with_run: set[str] = set()
    for path in manifest.files:
        folder, _, name = path.rpartition("/")
        if folder not in known or name not in RECORD_FILES:
            raise BundleError(
                f"the bundle has a file that no record has: {printable(path[:200], lines=False)}"
            )
        if name == schema.RUN_JSON:
            with_run.add(folder)
    if missing := known - with_run:
        raise BundleError(f"the manifest is damaged: {min(missing)} has no {schema.RUN_JSON}")


def _record_entry(data: Any) -> RecordEntry:
    names = {item.name for item in dataclasses.fields(RecordEntry)}
    _only(data, names, "a record of the manifest")
    texts = [data[name] for name in ("folder", "run_id", "point_id", "setting_key")]
    if not all(isinstance(text, str) for text in texts) or not (
        _is_count(data["repeat"]) and _is_count(data["seed"])
    ):
        raise BundleError("the manifest is damaged: a record has a value of another kind")
    entry = RecordEntry(**data)
    if (
        not _RUN_ID.fullmatch(entry.run_id)
        or not _SHA256.fullmatch(entry.point_id)
        or not _SHA256.fullmatch(entry.setting_key)
        or entry.folder != record_folder(entry.point_id, entry.repeat, entry.run_id)
    ):
        raise BundleError(
            "the manifest is damaged: the folder, run id, point or setting of a record is not one"
        )
    return entry


def _file_entry(path: str, data: Any) -> FileEntry:
    shown = printable(path[:200], lines=False)
    _only(data, {"sha256", "num_bytes"}, f"{shown} in the manifest")
    if not isinstance(data["sha256"], str) or not _SHA256.fullmatch(data["sha256"]):
        raise BundleError(f"the manifest is damaged: {shown} has no SHA-256")
    if not _is_count(data["num_bytes"]):
        raise BundleError(f"the manifest is damaged: {shown} has no size")
    return FileEntry(data["sha256"], data["num_bytes"])


def _only(data: Any, names: set[str], what: str) -> None:
    if not isinstance(data, dict):
        raise BundleError(f"{what} is damaged: it is no group of keys")
    if odd := sorted(set(data) ^ names):
        raise BundleError(
            f"{what} is damaged: {printable(odd[0][:60], lines=False)} is "
            + ("missing" if odd[0] in names else "no key of it")
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def record_folder(point_id: str, repeat: int, run_id: str) -> str:
    """Where a record lies in a bundle."""
    return f"{RECORDS}/{point_id[:12]}/r{repeat}-{run_id}"


# -- writing


def write_bundle(
    records: Sequence[Path],
    out: Path,
    submitter: Submitter,
    cohort: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Manifest:
    """Writes a bundle of the public form of records, in one step. The records themselves are left as they are.

    progress   called after each record with how many are done, of how many

    Raises `BundleError` for a record that cannot be read, two of one run, or a place that cannot be written to.
    """
    checked_submitter(submitter.handle, submitter.contact, submitter.licence)
    if not records:
        raise BundleError("there is no record to put into a bundle")
    with tempfile.TemporaryDirectory(prefix="wattcount-submit-") as temporary:
        folder = Path(temporary)
        entries = []
        for path in records:
            entries.append(_publish(path, folder, submitter.key))
            progress(len(entries), len(records))
        entries.sort(key=lambda entry: entry.folder)
        files = {
            f"{entry.folder}/{file.name}": FileEntry(intake.sha256(file), file.stat().st_size)
            for entry in entries
            for file in sorted((folder / entry.folder).iterdir())
        }
        manifest = Manifest(
            schema_version=BUNDLE_SCHEMA_VERSION,
            handle=submitter.handle,
            contact=submitter.contact,
            licence=submitter.licence,
            cohort=cohort,
            wattcount_version=__version__,
            metrics_version=METRICS_VERSION,
            records=tuple(entries),
            files=files,
        )
        _check_manifest(manifest)
        try:
            with replacing(out) as file:
                _write_archive(file, manifest, folder)
        except OSError as error:
            raise BundleError(f"cannot write {out}: {error.strerror or one_line(error)}") from error
    return manifest


def _publish(path: Path, folder: Path, key: bytes) -> RecordEntry:
    """The public form of a record, below `folder`."""
    try:
        record = Record.open(path)
        temporary = folder / "record"
        info = public.write_public(record, temporary, key)
        setting = setting_key(info.resolved)
    except BundleError:
        raise
    except WattcountError as error:
        raise BundleError(f"{path} cannot be submitted: {error}") from error
    except OSError as error:
        raise BundleError(
            f"{path} cannot be published into {folder}: {error.strerror or one_line(error)}"
        ) from error
    entry = RecordEntry(
        folder=record_folder(info.point_id, info.repeat, info.run_id),
        run_id=info.run_id,
        point_id=info.point_id,
        setting_key=setting,
        repeat=info.repeat,
        seed=info.seed,
    )
    place = folder / entry.folder
    if place.exists():
        raise BundleError(f"{path} is in the bundle already: two records have the run id {info.run_id}")
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(place)
    return entry


def _write_archive(file: IO[bytes], manifest: Manifest, folder: Path) -> None:
    packer = zstandard.ZstdCompressor(level=COMPRESSION_LEVEL, write_checksum=True)
    with packer.stream_writer(file, closefd=False) as stream:
        content = manifest.to_bytes()
        stream.write(_header(MANIFEST_JSON, len(content)) + content + _padding(len(content)))
        for name in sorted(manifest.files):
            size = manifest.files[name].num_bytes
            stream.write(_header(name, size))
            with (folder / name).open("rb") as source:
                shutil.copyfileobj(source, stream, _CHUNK_BYTES)
            stream.write(_padding(size))
        stream.write(bytes(2 * _BLOCK))


def _header(name: str, size: int) -> bytes:
    """The one header that a file of this name and size has in a bundle. Raises `BundleError` for a name that is too long."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o644
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise BundleError(f"{printable(name[:200], lines=False)}: {one_line(error)}") from error


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# -- reading


def opened_bundle(path: Path, folder: Path, limits: Limits = LIMITS) -> Bundle:
    """Unpacks a bundle into `folder`, which must be empty or not there. Nothing is written anywhere else.

    The bundle is data that anybody may have written. It is read once, in order, and written file by file; what it declares is
    checked against `limits` before it is read, and what it holds against what it declares. Raises `BundleError`; then nothing is
    left in `folder`.
    """
    shown = printable(str(path), lines=False)
    try:
        with intake.opened(path) as file:
            if os.fstat(file.fileno()).st_size > limits.file_bytes:
                raise BundleError(f"it has more than {limits.file_bytes // MIB:,} MiB")
            made = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise BundleError(f"the folder {folder} is not empty")
            try:
                return _unpacked(_Unpacker(file, limits), folder, limits)
            except BaseException:
                _emptied(folder, remove=made)
                raise
    except FileNotFoundError:
        raise BundleError(f"{shown} does not exist") from None
    except intake.DamagedError as error:
        raise BundleError(
            str(error).replace("which a record must not have", "give the file itself")
        ) from error
    except BundleError as error:
        raise BundleError(f"{shown} is no bundle that can be taken: {error}") from error
    except OSError as error:
        raise BundleError(
            f"{shown} cannot be unpacked into {folder}: {error.strerror or one_line(error)}"
        ) from error


def _unpacked(archive: _Unpacker, folder: Path, limits: Limits) -> Bundle:
    content = b"".join(archive.member(MANIFEST_JSON, archive.declared(limits.manifest_bytes)))
    try:
        manifest = Manifest.of_json(intake.parse_json(content, Path(MANIFEST_JSON)))
    except intake.DamagedError as error:
        raise BundleError(str(error)) from error
    if manifest.to_bytes() != content:
        raise BundleError("the manifest is not written as wattcount writes it")
    _check_sizes(manifest, limits)
    for name in sorted(manifest.files):
        entry, place = manifest.files[name], folder / name
        if archive.declared(entry.num_bytes) != entry.num_bytes:
            raise BundleError(f"{name} has another size than the manifest says")
        place.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        descriptor = os.open(
            place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(descriptor, "wb") as target:
            for part in archive.member(name, entry.num_bytes):
                digest.update(part)
                target.write(part)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{name} is not what was submitted: its SHA-256 differs from the manifest's")
    return Bundle(manifest, folder, archive.ended())


def _check_sizes(manifest: Manifest, limits: Limits) -> None:
    if len(manifest.records) > limits.records:
        raise BundleError(f"it has more than {limits.records:,} records")
    total = 0
    for name, entry in manifest.files.items():
        if entry.num_bytes > limits.member_bytes:
            raise BundleError(f"{name} has more than {limits.member_bytes // MIB:,} MiB")
        total += entry.num_bytes
    if total > limits.total_bytes:
        raise BundleError(f"its files have more than {limits.total_bytes // MIB:,} MiB together")


def _emptied(folder: Path, remove: bool) -> None:
    """Takes out what was unpacked before the bundle was found to be none."""
    with contextlib.suppress(OSError):
        for child in folder.iterdir():
            shutil.rmtree(child, ignore_errors=True)
        if remove:
            folder.rmdir()


class _Unpacker:
    """A compressed archive that is read once, from its begin to its end."""

    def __init__(self, file: IO[bytes], limits: Limits) -> None:
        self._file = file
        self._object = zstandard.ZstdDecompressor(max_window_size=limits.window_bytes).decompressobj()
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._block: bytes | None = None

    def declared(self, most: int) -> int:
        """The size of the next file, as its header says. Raises `BundleError` for one of more than `most` bytes."""
        self._block = self._exactly(_BLOCK)
        try:
            size = tarfile.TarInfo.frombuf(self._block, "ascii", "strict").size
        except (tarfile.HeaderError, ValueError) as error:
            raise BundleError(f"a header in it is damaged ({one_line(error)})") from error
        if not 0 <= size <= most:
            raise BundleError(f"a file in it is said to have {size:,} bytes, more than {most:,}")
        return size

    def member(self, name: str, size: int) -> Iterator[bytes]:
        """The content of the file whose header was read last."""
        if self._block != _header(name, size):
            raise BundleError(f"the next file in it is not {name}, or no plain file")
        left = size
        while left:
            part = self._exactly(min(left, _CHUNK_BYTES))
            left -= len(part)
            yield part
        if any(self._exactly(-size % _BLOCK)):
            raise BundleError(f"there is something behind {name}")

    def ended(self) -> str:
        """SHA-256 of the compressed file. Raises `BundleError` where it does not end here."""
        if any(self._exactly(2 * _BLOCK)):
            raise BundleError("it has files that its manifest does not name")
        while not self._object.eof and self._more():
            pass
        if not self._object.eof:
            raise BundleError("it is cut short")
        if self._buffer or self._object.unused_data or self._file.read(1):
            raise BundleError("it goes on behind its end")
        return self._digest.hexdigest()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if self._object.eof or not self._more():
                raise BundleError("it is cut short")
        part = bytes(self._buffer[:size])
        del self._buffer[:size]
        return part

    def _more(self) -> bool:
        """Decompresses some more; False: there is no more."""
        packed = self._file.read(_INPUT_BYTES)
        self._digest.update(packed)
        if not packed:
            return False
        try:
            self._buffer += self._object.decompress(packed)
        except (zstandard.ZstdError, MemoryError) as error:
            raise BundleError(f"it cannot be decompressed ({one_line(error)})") from error
        return True
