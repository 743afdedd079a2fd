from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import has_ended, wait_until

from wattcount.run.process import SessionProcess


def python(code: str) -> Callable[[int], list[str]]:
    """A command that runs `code`, in which PIPE is the number of the pipe's writing end."""
    return lambda pipe: [sys.executable, "-c", f"import os, sys, time, signal\nPIPE = {pipe}\n{code}"]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_what_is_written_is_heard_to_the_last_byte(tmp_path: Path) -> None:
    code = "for i in range(2000): os.write(PIPE, b'x' * 1000)\nos.write(PIPE, b'end')"
    with SessionProcess(python(code), tmp_path / "log") as process:
        heard = b"".join(process.listen(5.0))
        assert process.exit_status() == 0
    assert len(heard) == 2_000_003
    assert heard.endswith(b"end")


def test_output_goes_to_the_log(tmp_path: Path) -> None:
    code = "print('out', flush=True); print('err', file=sys.stderr); os.system('echo child')"
    with SessionProcess(python(code), tmp_path / "log") as process:
        list(process.listen(5.0))
    assert sorted((tmp_path / "log").read_text().split()) == ["child", "err", "out"]


def test_it_leads_a_session_of_its_own(tmp_path: Path) -> None:
    with SessionProcess(python("os.write(PIPE, str(os.getsid(0)).encode())"), tmp_path / "log") as process:
        assert int(b"".join(process.listen(5.0))) == process.pid != os.getsid(0)


def test_silence_is_told_after_the_timeout_and_costs_no_cpu(tmp_path: Path) -> None:
    with SessionProcess(python("time.sleep(30)"), tmp_path / "log") as process:
        started, cpu = time.monotonic(), time.process_time()
        for count, chunk in enumerate(process.listen(0.1), start=1):
            assert chunk == b""
            if count == 5:
                break
        took_s = time.monotonic() - started
        assert took_s > 0.4
        assert time.process_time() - cpu < 0.5 * took_s


@pytest.mark.parametrize(
    ("code", "status"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", -9)]
)
def test_how_it_ended(tmp_path: Path, code: str, status: int) -> None:
    with SessionProcess(python(code), tmp_path / "log") as process:
        list(process.listen(5.0))
        assert process.has_ended()
        assert process.exit_status() == status


def test_a_grandchild_that_holds_the_pipe_does_not_keep_us(tmp_path: Path) -> None:
    code = "os.set_inheritable(PIPE, True)\nif os.fork() == 0: time.sleep(3600)\nos.write(PIPE, b'bye')"
    with SessionProcess(python(code), tmp_path / "log") as process:
        assert b"".join(process.listen(5.0)) == b"bye"


def test_nothing_of_the_session_is_left(tmp_path: Path) -> None:
    code = """
told, tell = os.pipe()
child = os.fork()
if child == 0:
    os.setpgid(0, 0)              # a process group of its own
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    grandchild = os.fork()
    if grandchild:
        os.write(PIPE, f"{os.getpid()} {grandchild}".encode())
        os.write(tell, b"+")
    time.sleep(3600)
os.read(told, 1)                  # dies when both are there
"""
    with SessionProcess(python(code), tmp_path / "log") as process:
        pids = [int(pid) for pid in b"".join(process.listen(5.0)).split()]
        assert len(pids) == 2
        assert all(psutil.pid_exists(pid) for pid in pids)
        assert process.kill() == []
        wait_until(lambda: all(has_ended(pid) for pid in pids))


def test_leaving_the_block_kills(tmp_path: Path) -> None:
    with SessionProcess(python("time.sleep(60)"), tmp_path / "log") as process:
        pid = process.pid
    assert not psutil.pid_exists(pid)


def test_a_moment_for_those_who_clean_up(tmp_path: Path) -> None:
    code = f"if os.fork() == 0:\n    time.sleep(0.3); open({str(tmp_path / 'done')!r}, 'w')"
    with SessionProcess(python(code), tmp_path / "log") as process:
        list(process.listen(5.0))
        assert process.kill(grace_s=3600.0) == []  # ends with the one that cleans up
    assert (tmp_path / "done").exists()


def test_signals_go_to_the_child_alone(tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (os.write(PIPE, b'T'), sys.exit(0)))\nos.write(PIPE, b'r')\ntime.sleep(60)"
    with SessionProcess(python(code), tmp_path / "log") as process:
        heard = b""
        for chunk in process.listen(1.0):
            heard += chunk
            if chunk == b"r":
                process.signal(signal.SIGTERM)
        assert heard == b"rT"
        process.signal(signal.SIGTERM)  # it has ended: nothing to tell


def test_a_byte_on_the_wakeup_descriptor_wakes(tmp_path: Path) -> None:
    with SessionProcess(python("time.sleep(60)"), tmp_path / "log") as process:
        os.write(process.wakeup_fd, b"x")
        assert next(process.listen(3600.0)) == b""


def test_what_cannot_be_started(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(OSError, match="nowhere"):
        SessionProcess(lambda _: ["/nowhere/python"], tmp_path / "log")
    assert open_descriptors() == before


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = open_descriptors()
    for _ in range(3):
        with SessionProcess(python("pass"), tmp_path / "log") as process:
            list(process.listen(5.0))
    assert open_descriptors() == before


def test_without_pidfd_it_is_noticed_at_the_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.run.process._pidfd", lambda _: None)
    code = "os.set_inheritable(PIPE, True)\nif os.fork() == 0: time.sleep(60)\nos.write(PIPE, b'bye')"
    with SessionProcess(python(code), tmp_path / "log") as process:
        assert b"".join(process.listen(0.1)) == b"bye"
