"""What a run's process and its parent tell each other.

The parent starts the process with a `Start` and gives it a `Job` for each run, on a socket. The process tells how the run stands:
JSON lines on a pipe that only the two of them hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import select
import socket
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.clock import now_ns
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress

ENGINE_STOP_LIMIT_S = 30.0
"""The longest that an engine may take to end [s]; its processes are killed then."""
LAST_WORD_LIMIT_S = 30.0
"""How long a run's process tries to tell its last message [s]. It fits into a pipe whose parent does not read; a
parent that missed it looks for the record itself."""
MOST_PATH_BYTES, MOST_LOCKS = 4096, 16
"""Longest path [bytes] and most locks in one message on the socket of jobs: PATH_MAX, and far more locks than a point has."""


@dataclass(frozen=True)
class Notice:
    """A line for a person."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The last message of a run: the record is in place, or could not be written (`record` None)."""

    record: str | None
    reason: str | None
    """None: the run is valid."""
    message: str | None
    goes_on: bool = False
    """The engine is up and well, and the process waits for its next run."""


Message = Progress | Notice | Ended
_KINDS: dict[str, type[Progress] | type[Notice] | type[Ended]] = {
    "progress": Progress,
    "notice": Notice,
    "ended": Ended,
}
"""Classes of messages by their names in a line."""


def encode(message: Message) -> bytes:
    """One line."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(message, cls))
    return json.dumps({"type": kind, **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises ValueError for what is no message."""
    try:
        data: dict[str, Any] = json.loads(line)
        kind = _KINDS[data.pop("type")]
        if data.get("phase") is not None:
            data["phase"] = Phase(data["phase"])
        return kind(**data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message of a run: {line[:200]!r}") from error


class Lines:
    """Puts a byte stream back together into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        yield from lines


@dataclass(frozen=True)
class Start:
    """What the process is started with, as JSON: where it gets its jobs and tells how it stands, and what it holds.

    jobs_fd  a socket (SOCK_SEQPACKET): each message is the path of a `Job` as JSON, with the descriptors of the locks of its point
    claims   files of the folders that the parent made (`wattcount.ownership`): held here too
    locks    inherited descriptors of locks on the GPUs, held here too until the process has ended
    """

    jobs_fd: int
    progress_fd: int
    parent_pid: int
    claims: list[str]
    locks: list[int]


@dataclass(frozen=True)
class Job:
    """A run that the parent asks for; times in CLOCK_MONOTONIC nanoseconds."""

    config: dict[str, Any]
    folder: str
    """The record in the making, with a draft."""
    log: str
    """What this process and the engine write to."""
    last: bool
    """No run follows on this engine."""
    started_ns: int
    """When the parent began with this run."""
    launched_ns: int
    """When it gave the run to this process."""


class Pipe:
    """The writing end of the pipe to the parent. Without a parent nobody is told.

    The parent may stand still: stopped by Ctrl-Z, say. The run must not, so progress is dropped while the pipe is
    more than half full. The other half is for the last message, which the parent must get.
    """

    def __init__(self, descriptor: int) -> None:
        # The engine's processes must not hold it open.
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._room_bytes = fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) // 2
        self._rest = b""
        """Rest of a message of which only the beginning went into the pipe."""

    def send(self, message: Message) -> bool:
        """Whether the message is in the pipe. Returns at once, but for the last message (`LAST_WORD_LIMIT_S`)."""
        last = isinstance(message, Ended)
        if not last and not (self._write(0.0) and self._unread_bytes() <= self._room_bytes):
            return False
        self._rest += encode(message)
        return self._write(LAST_WORD_LIMIT_S if last else 0.0)

    def _write(self, limit_s: float) -> bool:
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        deadline_ns = now_ns() + round(limit_s * 1e9)
        try:
            while self._rest:
                try:
                    self._rest = self._rest[os.write(self._descriptor, self._rest) :]
                except BlockingIOError:
                    left_ms = (deadline_ns - now_ns()) // 1_000_000
                    if left_ms <= 0 or not ready.poll(left_ms):
                        return False
        except BrokenPipeError:
            self._rest = b""
            return False
        return True

    def _unread_bytes(self) -> int:
        count = bytearray(4)
        fcntl.ioctl(self._descriptor, termios.FIONREAD, count)
        return int.from_bytes(count, sys.byteorder)


class Jobs:
    """The runs that the parent asks for, from its socket. The locks of a point are held until the next job comes."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._locks: list[int] = []

    async def next(self) -> Job | None:
        """None: there is none any more, or the parent has died."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._socket)
        path, locks, _, _ = socket.recv_fds(self._socket, MOST_PATH_BYTES, MOST_LOCKS)
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks = locks
        return Job(**json.loads(Path(os.fsdecode(path)).read_text(encoding="utf-8"))) if path else None
