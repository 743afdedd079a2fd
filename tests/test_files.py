"""Files come into place whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wattcount.files import replacing, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "ä")
    assert file.read_bytes() == "ä".encode()
    write_atomically(file, b"\xff")
    assert file.read_bytes() == b"\xff"
    assert names(tmp_path) == ["a.json"]


def test_an_error_half_way_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, "old")

    def interrupted() -> None:
        with replacing(file) as stream:
            stream.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_readers_see_the_old_content_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_atomically(file, "old")
    with replacing(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_the_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.is_dir(), (tmp_path / "a").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "a", "x")
    assert synced == [(False, False), (True, True)]


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a").symlink_to(victim)
    write_atomically(tmp_path / "a", "x")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a").is_symlink()


def test_where_it_cannot_be_written_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "a", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", "x")
    assert names(tmp_path) == ["folder"]
