"""Places: what each promises of a file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from wattcount.dataset.storage import Folder, Remote, Storage, StorageError, open_storage
from wattcount.errors import NotStartedError


@pytest.fixture(params=["folder", "file", "memory", "local"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """`local`: fsspec's own file system for this machine, for places that create without a condition."""
    where = {
        "folder": str(tmp_path / "a"),
        "file": f"file://{tmp_path}/a",
        "memory": f"memory://{abs(hash(tmp_path))}",
        "local": f"local://{tmp_path}/a",
    }[request.param]
    return open_storage(where)


def test_files_come_back(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"from a file")
    storage.write("x/one", b"1")
    storage.write("x/one", b"2")
    storage.write("x/two", tmp_path / "source")
    assert storage.read("x/one") == b"2"
    assert storage.names("x") == ["x/one", "x/two"]
    assert (storage.size("x/two"), storage.size("x/none")) == (11, None)
    storage.fetch("x/two", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"from a file"
    storage.copy("x/two", "y/two")
    storage.move("x/two", "y/one")
    assert storage.names("x") == ["x/one"]
    assert storage.names("y") == ["y/one", "y/two"]
    storage.remove("y/one")
    storage.remove("y/one")
    assert storage.names("y") == ["y/two"]
    assert storage.names("z") == []
    for missing in (lambda: storage.read("x/none"), lambda: storage.move("x/none", "x/a")):
        with pytest.raises(FileNotFoundError):
            missing()


def test_a_file_is_created_once(storage: Storage) -> None:
    storage.create("versions/1", b"first")
    with pytest.raises(FileExistsError):
        storage.create("versions/1", b"second")
    assert storage.read("versions/1") == b"first"
    assert storage.names("versions") == ["versions/1"]


def test_kinds_of_places(tmp_path: Path) -> None:
    assert isinstance(open_storage(tmp_path), Folder)
    assert isinstance(open_storage("memory://x"), Remote)
    assert open_storage("memory://x").local("a") is None
    with pytest.raises(NotStartedError, match="cannot be opened"):
        open_storage("nosuchthing://bucket/x")


def test_a_password_in_a_url_is_not_shown() -> None:
    assert "secret" not in Remote("memory://user:secret@host/x").where


def test_a_disk_without_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(tmp_path / "a")
    storage.write("x", b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="cannot write x: No space left on device"):
        storage.write("x", b"after")
    with pytest.raises(StorageError, match="No space left"):
        storage.create("y", b"new")
    assert storage.read("x") == b"before"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["x"]


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    storage = open_storage(tmp_path)
    storage.create("a", b"1")
    with pytest.raises(FileExistsError):
        storage.create("a", b"2")
    assert storage.read("a") == b"1"
