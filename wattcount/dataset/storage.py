"""Where a data set lies: files by name, in a folder of this machine or under any URL that fsspec knows.

What is guaranteed where:

| place | `write` | `create`: nobody else made it | several writers at once |
| --- | --- | --- | --- |
| a folder | one step, on the disk when it returns | yes (a hard link) | one after the other: a lock on this host |
| S3, Google, Azure, and what speaks as they do | one step | yes, a conditional write | the first to create the next version wins, the others look again |
| other URLs | as their server does it | it is looked for, then written | not safe: let one machine write |
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from wattcount import ownership
from wattcount.errors import NotStartedError, RunFailedError, one_line
from wattcount.files import TEMPORARY_SUFFIX, replacing, sync_folder
from wattcount.masking import masked

LOCK_FILE = ".lock"
"""Name of the file, in the folder, that whoever changes it holds a lock on."""
LOCK_WAIT_S = 120.0
"""How long a writer waits for another [s]: twice what adding the largest submission may take."""
CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols whose file systems create a file only where there is none, in one step."""


class StorageError(RunFailedError):
    """The disk or the server failed. The message says while doing what."""

    def __init__(self, message: str) -> None:
        super().__init__("storage", message)


class Storage(Protocol):
    """Files by name (`results/a.parquet`). All raise `StorageError` where the place fails."""

    where: str
    """The folder or URL, for people."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""

    def fetch(self, name: str, target: Path) -> None:
        """Copies a file to this machine. Raises FileNotFoundError."""

    def write(self, name: str, content: bytes | Path) -> None:
        """Puts a file in place in one step, also over another."""

    def create(self, name: str, content: bytes) -> None:
        """Puts a file in place where there is none. Raises FileExistsError where there is one."""

    def move(self, name: str, to: str) -> None:
        """Puts a file into another place in one step, also over another. Raises FileNotFoundError."""

    def copy(self, name: str, to: str) -> None:
        """Raises FileNotFoundError."""

    def remove(self, name: str) -> None:
        """Removes a file; nothing where there is none."""

    def size(self, name: str) -> int | None:
        """In bytes; None: there is no such file."""

    def names(self, folder: str) -> list[str]:
        """The files in a folder, as `folder/name`, sorted; none where there is no such folder."""

    def local(self, name: str) -> Path | None:
        """The file on this machine, to be read in place; None: it lies elsewhere."""

    def writing(self, purpose: str) -> contextlib.AbstractContextManager[bool]:
        """For the time of a change. True: nobody else can write meanwhile. Raises NotStartedError where somebody does."""


def open_storage(where: str | os.PathLike[str]) -> Storage:
    """The place of a path or URL. Nothing is read yet."""
    text = os.fspath(where)
    scheme = urlsplit(text).scheme
    if not scheme or "://" not in text:
        return Folder(Path(text).expanduser())
    if scheme == "file":
        return Folder(Path(urlsplit(text).path))
    return Remote(text)


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.where = str(path)

    def read(self, name: str) -> bytes:
        with self._failing(f"read {name}"):
            return self._at(name).read_bytes()

    def fetch(self, name: str, target: Path) -> None:
        with self._failing(f"read {name}"):
            shutil.copyfile(self._at(name), target)

    def write(self, name: str, content: bytes | Path) -> None:
        with self._failing(f"write {name}"):
            target = self._at(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)

    def create(self, name: str, content: bytes) -> None:
        target = self._at(name)
        beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")
        with self._failing(f"write {name}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                _place_new(beside, target)
            finally:
                beside.unlink(missing_ok=True)
            sync_folder(target.parent)

    def move(self, name: str, to: str) -> None:
        with self._failing(f"move {name}"):
            source, target = self._at(name), self._at(to)
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            sync_folder(target.parent)
            sync_folder(source.parent)

    def copy(self, name: str, to: str) -> None:
        self.write(to, self._at(name))

    def remove(self, name: str) -> None:
        with self._failing(f"remove {name}"):
            self._at(name).unlink(missing_ok=True)

    def size(self, name: str) -> int | None:
        try:
            with self._failing(f"read {name}"):
                return self._at(name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            with self._failing(f"list {folder}"):
                found = [entry.name for entry in os.scandir(self._at(folder)) if entry.is_file()]
        except FileNotFoundError:
            return []
        return sorted(f"{folder}/{name}" for name in found)

    def local(self, name: str) -> Path | None:
        return self._at(name)

    @contextlib.contextmanager
    def writing(self, purpose: str) -> Iterator[bool]:
        lock = self._path / LOCK_FILE
        try:
            claim = ownership.wait_for_lock(lock, purpose, LOCK_WAIT_S)
        except OSError as error:
            raise NotStartedError(f"{self.where} cannot be written: {error.strerror}") from error
        if claim is None:
            raise NotStartedError(
                f"{self.where} is being changed by {ownership.holder(lock)}: try again when that has ended"
            )
        try:
            yield True
        finally:
            claim.release()

    def _at(self, name: str) -> Path:
        return self._path / name

    @contextlib.contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise StorageError(f"{self.where}: cannot {doing}: {error.strerror or error}") from error


def _place_new(beside: Path, target: Path) -> None:
    """Raises FileExistsError where there is a file already."""
    try:
        os.link(beside, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: the lock of `writing` keeps others of this host away.
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        beside.replace(target)


class Remote:
    """Files under a URL, through fsspec."""

    def __init__(self, url: str) -> None:
        self.where = masked(url.rstrip("/"))
        import fsspec

        try:
            filesystem, root = fsspec.url_to_fs(url, **_OPTIONS.get(urlsplit(url).scheme, {}))
        except ImportError as error:
            raise NotStartedError(
                f"{self.where} needs a package that is not installed; for S3: pip install 'wattcount[dataset]' ({one_line(error)})"
            ) from None
        except (ValueError, OSError) as error:
            raise NotStartedError(f"{self.where} cannot be opened: {one_line(error)}") from None
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        protocols = filesystem.protocol
        self._conditional = bool(
            CONDITIONAL.intersection([protocols] if isinstance(protocols, str) else protocols)
        )

    def read(self, name: str) -> bytes:
        with self._failing(f"read {name}"):
            content: bytes = self._fs.cat_file(self._at(name))
            return content

    def fetch(self, name: str, target: Path) -> None:
        with self._failing(f"read {name}"):
            self._fs.get_file(self._at(name), str(target))

    def write(self, name: str, content: bytes | Path) -> None:
        with self._failing(f"write {name}"):
            self._prepare(name)
            if isinstance(content, bytes):
                self._fs.pipe_file(self._at(name), content)
            else:
                self._fs.put_file(str(content), self._at(name))

    def create(self, name: str, content: bytes) -> None:
        with self._failing(f"write {name}"):
            self._prepare(name)
            if self._conditional:
                self._fs.pipe_file(self._at(name), content, mode="create")
            elif self._fs.exists(self._at(name)):
                raise FileExistsError(name)
            else:
                self._fs.pipe_file(self._at(name), content)

    def move(self, name: str, to: str) -> None:
        self.copy(name, to)
        self.remove(name)

    def copy(self, name: str, to: str) -> None:
        with self._failing(f"copy {name}"):
            self._prepare(to)
            self._fs.cp_file(self._at(name), self._at(to))

    def remove(self, name: str) -> None:
        with self._failing(f"remove {name}"), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def size(self, name: str) -> int | None:
        try:
            with self._failing(f"read {name}"):
                return int(self._fs.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            with self._failing(f"list {folder}"):
                found = self._fs.ls(self._at(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return []
        return sorted(
            f"{folder}/{str(item['name']).rpartition('/')[2]}" for item in found if item["type"] == "file"
        )

    def local(self, name: str) -> Path | None:  # noqa: ARG002 - asked of every place
        return None

    @contextlib.contextmanager
    def writing(self, purpose: str) -> Iterator[bool]:  # noqa: ARG002 - asked of every place
        yield False

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _prepare(self, name: str) -> None:
        """Makes the folder, where the place has any."""
        with contextlib.suppress(FileExistsError):
            if not self._conditional or "memory" in self._fs.protocol:
                self._fs.makedirs(self._fs._parent(self._at(name)), exist_ok=True)

    @contextlib.contextmanager
    def _failing(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        # Each file system has errors of its own, of the library that it is made with.
        except Exception as error:
            raise StorageError(f"{self.where}: cannot {doing}: {one_line(error)}") from error


_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "skip_instance_cache": True},
}
"""By protocol: what others wrote meanwhile is seen."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
