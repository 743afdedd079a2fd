"""Claims of processes that live, that were killed, and of other hosts."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wattcount import ownership

HOLDER = """
import sys, time
from pathlib import Path
from wattcount import ownership
held = ownership.{how}(Path(sys.argv[1]))
print("held", held is not None, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Another process that claims or joins `tmp_path/lock`."""

    def start(how: str = "claim") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(how=how), str(tmp_path / "lock")],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held True\n"
        process.stdout.close()
        return process

    return start


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_a_claim_holds_until_its_owner_is_killed(
    tmp_path: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    process = holder()
    try:
        assert ownership.take_over(tmp_path / "lock") is None
    finally:
        end(process)
    taken = ownership.take_over(tmp_path / "lock")
    assert taken is not None
    assert ownership.take_over(tmp_path / "lock") is None
    assert ownership.join(tmp_path / "lock") is None
    taken.release(remove=True)
    taken.release()
    assert not (tmp_path / "lock").exists()


def test_a_claim_holds_until_everyone_who_joined_is_gone(
    tmp_path: Path, holder: Callable[..., subprocess.Popen[str]]
) -> None:
    owner, other = holder(), holder("join")
    end(owner)
    assert ownership.take_over(tmp_path / "lock") is None
    end(other)
    taken = ownership.take_over(tmp_path / "lock")
    assert taken is not None
    taken.release()


def test_there_is_one_claim(tmp_path: Path) -> None:
    held = ownership.claim(tmp_path / "lock")
    assert held is not None
    with pytest.raises(FileExistsError):
        ownership.claim(tmp_path / "lock")
    held.release()


@pytest.mark.parametrize(
    ("change", "mine"),
    [
        ({}, True),
        ({"boot_id": "before"}, True),  # the machine was started again
        ({"hostname": "container", "machine_id": ""}, True),  # a container on the same kernel
        ({"boot_id": "another", "machine_id": "another"}, False),
        ({"boot_id": "another", "hostname": "another"}, False),  # an image that was copied
        ({"boot_id": "another", "machine_id": "", "hostname": "same"}, False),
    ],
)
def test_whose_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], mine: bool
) -> None:
    here = {"hostname": "node1", "machine_id": "m1", "boot_id": "b1"}
    monkeypatch.setattr(ownership, "_host", lambda: here)
    (tmp_path / "lock").write_text(json.dumps({**here, **change, "pid": 1}))
    assert ownership.is_of_this_host(tmp_path / "lock") is mine
    taken = ownership.take_over(tmp_path / "lock")
    assert (taken is not None) is mine
    if taken is not None:
        taken.release()


def test_hosts_that_do_not_tell_are_never_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"hostname": "localhost", "machine_id": "", "boot_id": ""}
    monkeypatch.setattr(ownership, "_host", lambda: nothing)
    (tmp_path / "lock").write_text(json.dumps(nothing))
    assert ownership.take_over(tmp_path / "lock") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_a_claim_that_is_being_made_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    assert ownership.take_over(tmp_path / "lock") is None


def test_nothing_to_take_over_or_join(tmp_path: Path) -> None:
    assert ownership.take_over(tmp_path / "lock") is None
    assert ownership.join(tmp_path / "lock") is None


def test_one_that_was_finished_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    held = ownership.claim(path)
    assert held is not None
    held.release()
    real = ownership.fcntl.flock

    def finished_just_before(descriptor: int, operation: int) -> None:
        path.unlink(missing_ok=True)
        real(descriptor, operation)

    monkeypatch.setattr(ownership.fcntl, "flock", finished_just_before)
    assert ownership.take_over(path) is None


def test_without_locks_nobody_is_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(ownership.fcntl, "flock", no_locks)
    assert ownership.claim(tmp_path / "lock") is None
    assert not (tmp_path / "lock").exists()


LOCKER = """
import sys, time
from pathlib import Path
from wattcount import ownership
print("held", ownership.lock(Path(sys.argv[1]), "llama3_8b") is not None, flush=True)
time.sleep(60)
"""


@pytest.fixture
def locker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock `tmp_path/lock`."""
    command = [sys.executable, "-c", LOCKER, str(tmp_path / "lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held True\n"
    process.stdout.close()
    yield process
    end(process)


def test_a_lock_is_held_until_its_owner_is_killed(tmp_path: Path, locker: subprocess.Popen[str]) -> None:
    path = tmp_path / "lock"
    assert ownership.lock(path, "another") is None
    assert ownership.holder(path) == f"pid {locker.pid} on {socket.gethostname()}, llama3_8b"
    end(locker)
    taken = ownership.lock(path, "")
    assert taken is not None
    assert ownership.holder(path) == f"pid {os.getpid()} on {socket.gethostname()}"
    assert ownership.lock(path, "once more") is None
    taken.release()
    with pytest.raises(RuntimeError, match="was released"):
        _ = taken.descriptor


def test_a_lock_is_held_by_a_child_that_inherits_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = ownership.lock(path, "")
    assert lock is not None
    child = subprocess.Popen(["sleep", "60"], pass_fds=[lock.descriptor])
    try:
        lock.release()
        assert ownership.lock(path, "") is None
    finally:
        child.kill()
        child.wait(10)
    assert ownership.lock(path, "") is not None


def test_a_lock_whose_file_was_removed_is_taken_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = ownership.lock(path, "")
    assert first is not None
    first.release(remove=True)
    assert not path.exists()
    assert ownership.holder(path) == "a process that has not said which"
    second = ownership.lock(path, "", for_everyone=True)
    assert second is not None
    assert path.stat().st_mode & 0o777 == 0o666


def test_of_many_that_lock_and_remove_one_holds_at_a_time(tmp_path: Path) -> None:
    """Removing lets a file be opened, removed and made anew in any order; still nobody holds it twice."""
    path, inside, most = tmp_path / "lock", [0], [0]
    guard = threading.Lock()

    def work() -> None:
        done = 0
        while done < 50:
            lock = ownership.lock(path, "")
            if lock is None:
                time.sleep(0.0001)
                continue
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0)
            with guard:
                inside[0] -= 1
            lock.release(remove=True)
            done += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1


@pytest.mark.parametrize("place", ["no-such-folder/lock", "link"])
def test_a_lock_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=r"lock|link"):
        ownership.lock(tmp_path / place, "")


def test_a_lock_can_be_asked_about_without_taking_it(tmp_path):
    file = tmp_path / "x.lock"
    held = ownership.lock(file, "")
    assert held is not None
    assert ownership.is_held(file) is True
    held.release()
    assert ownership.is_held(file) is False
    with pytest.raises(FileNotFoundError):
        ownership.is_held(tmp_path / "none")


def test_nobody_can_tell_where_there_are_no_locks(tmp_path, monkeypatch):
    def none(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    (tmp_path / "x").touch()
    monkeypatch.setattr(ownership.fcntl, "flock", none)
    assert ownership.is_held(tmp_path / "x") is None
