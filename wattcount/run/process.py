"""A process in a session of its own: started, listened to without spinning, and ended with all its kin."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import psutil

CHUNK = 1 << 16
"""Bytes that are read of a pipe at once."""
REAP_LIMIT_S = 5.0
"""Most time from the kill of a process to its end [s]. A process that waits in the kernel for a broken device takes longer."""
TIMEOUT_SIGNAL = signal.SIGUSR1
"""Signal that tells a run's process to close its record, because it has taken too long."""


class SessionProcess:
    """A child that leads its own session, with a pipe that it writes to.

    ::

        with SessionProcess(make_command, log) as process:
            for chunk in process.listen(timeout_s):   # b"" on a timeout; ends when the child has ended
                ...
        # nothing of the session is left

    `make_command` gets the number of the pipe's writing end, which the child inherits. Standard output and
    error go to `log`, `environment` goes on top of this process' own, `inherited` are further descriptors for the
    child. Raises OSError if it cannot be started.
    """

    def __init__(
        self,
        make_command: Callable[[int], Sequence[str]],
        log: Path,
        environment: Mapping[str, str] | None = None,
        inherited: Sequence[int] = (),
    ) -> None:
        self._read_end, write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        try:
            with log.open("ab") as output:
                self._popen = subprocess.Popen(
                    make_command(write_end),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=(write_end, *inherited),
                    env=None if environment is None else {**os.environ, **environment},
                    start_new_session=True,
                )
        except BaseException:
            os.close(self._read_end)
            raise
        finally:
            os.close(write_end)
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._pidfd = _pidfd(self._popen.pid)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def wakeup_fd(self) -> int:
        """A byte written here makes `listen` yield at once; for `signal.set_wakeup_fd`."""
        return self._wake_write

    def listen(self, timeout_s: float) -> Iterator[bytes]:
        """What comes out of the pipe, and b"" after at most `timeout_s` of silence; ends with the child."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            if self._pidfd is not None:
                selector.register(self._pidfd, selectors.EVENT_READ)
            pipe_open = True
            while True:
                ready = {key.fd for key, _ in selector.select(timeout_s)}
                ended = self.has_ended()
                with contextlib.suppress(BlockingIOError):
                    while self._wake_read in ready and os.read(self._wake_read, CHUNK):
                        pass
                if pipe_open and (ended or self._read_end in ready):
                    with contextlib.suppress(BlockingIOError):
                        while chunk := os.read(self._read_end, CHUNK):
                            yield chunk
                        pipe_open = False
                        selector.unregister(self._read_end)
                if ended:
                    return
                yield b""

    def has_ended(self) -> bool:
        """Whether it has ended. It is not reaped: its number, which is the session's, must not be given to another process."""
        if self._popen.returncode is not None:
            return True
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is not None

    def signal(self, number: signal.Signals) -> None:
        """To the child alone."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def kill(self, grace_s: float = 0.0, wait_s: float = 15.0) -> list[int]:
        """Kills what is in the session after `grace_s` and waits; returns what is left after `wait_s` more."""
        started = time.monotonic()
        pause_s = 0.002
        while members := self._members():
            waited_s = time.monotonic() - started
            if waited_s > grace_s + wait_s:
                return members
            if waited_s >= grace_s:
                for pid in members:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.1)
        return []

    def exit_status(self) -> int | None:
        """Exit code, or minus the number of the signal that ended it; None where it has not ended within REAP_LIMIT_S."""
        try:
            return self._popen.wait(REAP_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        self.kill()
        self.exit_status()
        for descriptor in (self._read_end, self._wake_read, self._wake_write, self._pidfd):
            if descriptor is not None:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def __enter__(self) -> SessionProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _members(self) -> list[int]:
        """Live processes of the session."""
        if self._popen.returncode is not None:
            return []
        found = []
        for pid in psutil.pids():
            try:
                if os.getsid(pid) == self.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        return found


def _pidfd(pid: int) -> int | None:
    """Readable when the process has ended; None on kernels before 5.3."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None
