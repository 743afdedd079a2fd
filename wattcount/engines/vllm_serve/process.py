"""A server as a child process: a port that nobody else takes, its start, its end with all its children."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class HeldPort:
    """A free TCP port of an interface, kept from others until the server listens on it.

    The port is bound here and not listened on. vLLM binds with SO_REUSEADDR, as this does, which Linux allows as long as only
    one of the two listens; a program that asks for any free port is not given this one (socket(7), ip(7)).
    """

    def __init__(self, host: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.number: int = self._socket.getsockname()[1]

    def release(self) -> None:
        self._socket.close()


class ServerProcess:
    """One server; `ended` tells whether it has ended, and how."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._known: set[psutil.Process] = set()

    async def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """Starts it in this process' session, whose end is its end too; what it prints goes to the end of `log`."""
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                env=dict(environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    @property
    def gone(self) -> bool:
        """It was started and does not run any more, whether its exit status is known already or not."""
        if self._process is None:
            return False
        try:
            return not _is_there(psutil.Process(self._process.pid))
        except psutil.Error:
            return True

    async def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        return await self._process.wait()

    def note_children(self) -> None:
        """Remembers its descendants: those that outlive it have another parent then."""
        if self._process is not None:
            with contextlib.suppress(psutil.Error):
                self._known |= set(psutil.Process(self._process.pid).children(recursive=True))

    async def stop(self, grace_s: float) -> None:
        """Asks it to end, and kills what is left of it and of its descendants after `grace_s`."""
        process, self._process = self._process, None
        if process is None:
            return
        self._known |= _descendants(process.pid)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace_s)
        left = [child for child in self._known if child.is_running()]
        self._known = set()
        for child in left:
            with contextlib.suppress(psutil.Error):
                child.kill()
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        while any(_is_there(child) for child in left):
            await asyncio.sleep(0.02)


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()


def _is_there(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
