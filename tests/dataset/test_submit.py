"""Which records are submitted, and what is kept of who submits."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.edited_record import BATCH, SERVER, copied, edit_run
from wattcount.dataset.bundle import BundleError
from wattcount.dataset.public import Pseudonyms
from wattcount.dataset.submit import (
    KEY_BYTES,
    KEY_FILE,
    SUBMITTER_FILE,
    remember,
    remembered,
    select,
    submitter_key,
    told,
)
from wattcount.records import Record


def test_what_is_not_submitted_and_why(tmp_path: Path) -> None:
    broke_off = copied(SERVER, tmp_path / "a")
    edit_run(broke_off, lambda info: info.update(complete=False))
    damaged = copied(SERVER, tmp_path / "b")
    (damaged / "power.parquet").write_bytes(b"")
    twin = copied(BATCH, tmp_path / "c")
    chosen = select([BATCH, broke_off, damaged, twin, SERVER])
    assert chosen.records == (BATCH, SERVER)
    assert set(chosen.left_out) == {broke_off, damaged, twin}
    assert "broke off" in chosen.left_out[broke_off]
    assert "same run" in chosen.left_out[twin]
    assert chosen.cohort() is None
    assert chosen.emulated == 0
    assert [result.run_id for result in chosen.results] == [path.name[3:] for path in (BATCH, SERVER)]


def test_the_key_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    home = tmp_path / "home"
    old = os.umask(0)
    try:
        key = submitter_key(home)
    finally:
        os.umask(old)
    assert len(key) == KEY_BYTES
    assert submitter_key(home) == key
    assert stat.S_IMODE((home / KEY_FILE).stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == [KEY_FILE]
    assert submitter_key(tmp_path / "other") != key


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    submitter_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o640)
    with pytest.raises(BundleError, match="chmod 600"):
        submitter_key(tmp_path)


def test_the_cohort_of_a_bundle(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)
    edit_run(record, lambda info: info["config"].update(cohort="2026_q4"))
    assert select([record]).cohort() == "2026_q4"
    assert select([record]).cohort("2026_q4") == "2026_q4"
    assert select([record, BATCH]).cohort() is None
    with pytest.raises(BundleError, match="for no cohort"):
        select([record, BATCH]).cohort("2026_q4")


def test_what_is_told_of_records(tmp_path: Path) -> None:
    record = copied(SERVER, tmp_path)

    def change(info: dict[str, Any]) -> None:
        info["config"]["model"].update(name="/home/jdoe/mine")
        info["host"].update(hostname="node7.example.org")

    edit_run(record, change)
    found = told(select([record, BATCH]), b"k")
    names = Pseudonyms(b"k")
    assert list(found.names["models"]) == [
        names.text("/home/jdoe/mine"),
        Record.open(BATCH).info.resolved.model.name,
    ]
    assert found.pseudonyms["settings"] == {"/home/jdoe/mine": names.text("/home/jdoe/mine")}
    assert found.pseudonyms["hosts"]["node7.example.org"] == names.host("node7.example.org")
    board = Record.open(BATCH).info.gpus[0]["uuid"]
    assert found.pseudonyms["boards"][board] == names.board(board)
    assert found.left_out["gpus.serial"] == 2
    assert found.left_out["config.records_dir"] == 2
    assert not any(key.startswith(("sensors", "files", "phases", "cooldown")) for key in found.left_out)


@pytest.mark.parametrize("content", [b"", b"not hexadecimal", b"ab", b"\xff\xfe"])
def test_a_damaged_key_is_not_replaced_in_silence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(BundleError, match="is damaged: restore it, or remove the file"):
        submitter_key(tmp_path)
    assert (tmp_path / KEY_FILE).read_bytes() == content


def test_a_home_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="WATTCOUNT_HOME"):
        submitter_key(tmp_path / "file" / "home")


def test_who_submits_is_remembered(tmp_path: Path) -> None:
    assert remembered(tmp_path) == {"licence": "CC-BY-4.0"}
    who = {"handle": "alice", "contact": "alice@example.org", "licence": "CC0-1.0"}
    remember(who, tmp_path)
    assert remembered(tmp_path) == who
    (tmp_path / SUBMITTER_FILE).write_text('{"handle": 3, "contact": "a"}')
    assert remembered(tmp_path) == {"licence": "CC-BY-4.0", "contact": "a"}
    (tmp_path / SUBMITTER_FILE).write_text("[")
    assert remembered(tmp_path) == {"licence": "CC-BY-4.0"}
