"""Records whose owners are gone, and those whose owners are not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from wattcount.records import Record, RecordWriter, packing
from wattcount.records.schema import RunInfo, Validity
from wattcount.records.writer import close_orphans, open_folders

MESSAGE = "the run and the process that watched it were killed"

DOOMED = """
import json, os, signal, sys
from pathlib import Path
from wattcount.records import RecordWriter
from wattcount.records.schema import RunInfo
info = RunInfo.from_json(json.loads(sys.argv[2]))
info.run_id = sys.argv[3]
writer = RecordWriter.create(Path(sys.argv[1]), info.point_id, info.run_id)
{before}
writer.save_draft(info)
writer.open_spool(["GPU-00000000-0000-0000-0000-000000000000"])
{after}
os.kill(os.getpid(), signal.SIGKILL)
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def killed(tmp_path: Path, info: RunInfo) -> Callable[..., Path]:
    """A process that makes a record in tmp_path and is killed; returns the folder it leaves."""

    def run(run_id: str = "one", before: str = "", after: str = "") -> Path:
        code = DOOMED.format(before=before, after=after)
        arguments = [str(tmp_path), json.dumps(asdict(info)), run_id]
        done = subprocess.run([sys.executable, "-c", code, *arguments], check=False, timeout=60)
        assert done.returncode == -9
        return tmp_path / info.point_id[:12] / f".tmp-{run_id}"

    return run


def left(records_dir: Path) -> list[str]:
    return sorted(path.name for path in records_dir.glob("*/*"))


def test_a_killed_run_is_closed_as_invalid(tmp_path: Path, killed: Any, info: RunInfo) -> None:
    folder = killed()
    assert open_folders(tmp_path) == {folder: "dead"}
    (closed,) = close_orphans(tmp_path)
    assert closed.path is not None
    record = Record.open(closed.path)
    record.verify()
    assert record.info.validity == Validity(False, ["worker_died"], [MESSAGE])
    # This clock may have been started anew since.
    assert record.info.clock_pairs == info.clock_pairs
    assert left(tmp_path) == ["r0-one"]
    assert close_orphans(tmp_path) == []
    assert open_folders(tmp_path) == {}


def test_one_that_had_measured_everything_stays_valid(tmp_path: Path, killed: Any) -> None:
    killed(before="info.complete = True")
    (closed,) = close_orphans(tmp_path)
    assert closed.path is not None
    found = Record.open(closed.path).info
    assert found.validity.valid
    assert MESSAGE in found.notes[-1]


@pytest.mark.parametrize("at", ["rmtree", "rename", "unlink"])
def test_one_killed_while_it_was_put_in_place(tmp_path: Path, killed: Any, at: str) -> None:
    """The record was whole: it is what it would have been."""
    deaths = {
        "rmtree": "import shutil; shutil.rmtree = lambda *a, **k: os.kill(os.getpid(), 9)",
        "rename": "Path.rename = lambda *a: os.kill(os.getpid(), 9)",
        "unlink": "Path.unlink = lambda *a, **k: os.kill(os.getpid(), 9)",
    }
    killed(after=f"info.notes.append('whole')\n{deaths[at]}\nwriter.finalise(info)")
    closed = close_orphans(tmp_path)
    assert len(closed) == (0 if at == "unlink" else 1)
    assert left(tmp_path) == ["r0-one"]
    (path,) = tmp_path.glob("*/r0-one")
    assert not (path / "spool").exists()
    record = Record.open(path)
    record.verify()
    assert record.info.validity.valid
    assert record.info.notes == ["whole"]


def test_one_that_had_not_begun_leaves_nothing(tmp_path: Path, killed: Any) -> None:
    killed(before=DIE)
    assert close_orphans(tmp_path) == []
    assert left(tmp_path) == []


def test_one_that_could_not_even_make_its_folder(tmp_path: Path, killed: Any) -> None:
    shutil.rmtree(killed())
    assert close_orphans(tmp_path) == []
    assert left(tmp_path) == []


def test_runs_that_go_on_are_left_alone(tmp_path: Path, killed: Any, info: RunInfo) -> None:
    running = RecordWriter.create(tmp_path, info.point_id, "two")
    running.save_draft(info)
    dead = killed("one")
    assert open_folders(tmp_path) == {running.folder: "running", dead: "dead"}
    (closed,) = close_orphans(tmp_path)
    assert closed.path is not None
    assert closed.path.name == "r0-one"
    path = running.finalise(replace(info, run_id="two"))
    assert Record.open(path).info.validity.valid
    assert left(tmp_path) == ["r0-one", "r0-two"]


def test_runs_of_other_hosts_are_left_alone(tmp_path: Path, killed: Any) -> None:
    folder = killed()
    lock = tmp_path / ".running" / "one.lock"
    owner = json.loads(lock.read_text())
    lock.write_text(json.dumps({**owner, "boot_id": "another", "hostname": "another"}))
    assert close_orphans(tmp_path) == []
    assert open_folders(tmp_path) == {folder: "elsewhere"}


def test_what_nobody_claimed_is_left_alone(tmp_path: Path, killed: Any) -> None:
    folder = killed()
    (tmp_path / ".running" / "one.lock").unlink()
    assert close_orphans(tmp_path) == []
    assert open_folders(tmp_path) == {folder: "unclaimed"}


def test_two_at_once_close_each_record_once(tmp_path: Path, killed: Any) -> None:
    for number in range(6):
        killed(f"run{number}")
    code = (
        "import sys; from pathlib import Path; from wattcount.records.writer import close_orphans\n"
        "print(len(close_orphans(Path(sys.argv[1]))))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in both]
    assert sum(counts) == 6
    assert left(tmp_path) == [f"r0-run{number}" for number in range(6)]


def test_one_that_cannot_be_closed_is_told_and_tried_again(
    tmp_path: Path, killed: Any, limit_file_size: Any
) -> None:
    folder = killed()
    with limit_file_size(2_000):
        (closed,) = close_orphans(tmp_path)
    assert closed.path is None
    assert str(folder) in closed.message
    assert "the disk is full" in closed.message
    (again,) = close_orphans(tmp_path)
    assert again.path is not None


def test_no_records_yet(tmp_path: Path) -> None:
    assert close_orphans(tmp_path / "nowhere") == []
    assert open_folders(tmp_path / "nowhere") == {}


def test_a_signal_while_a_record_is_closed_leaves_it_to_the_next_start(
    tmp_path: Path, killed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(before="info.complete = True")
    real, written = packing.write, []

    def interrupted(*arguments: Any) -> Any:
        written.append(real(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        close_orphans(tmp_path)
    assert len(written) == 1
    monkeypatch.setattr(packing, "write", real)
    (closed,) = close_orphans(tmp_path)
    assert closed.path is not None
    record = Record.open(closed.path)
    record.verify()
    assert record.info.complete
    assert record.info.validity.valid
    assert left(tmp_path) == ["r0-one"]
    assert list((tmp_path / ".running").iterdir()) == []
