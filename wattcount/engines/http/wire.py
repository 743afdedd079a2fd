"""What a client process and its parent say to each other: pickled frames on a pair of sockets that nobody else has."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.load.plan import LoadPlan

_LENGTH = struct.Struct("!I")
"""Length of the message that follows [bytes]: four bytes, the highest first."""


@dataclass(frozen=True)
class Load:
    """To the client: its share of a plan, to be got ready.

    phases       of each request of the plan: True, it is of the window
    share        every `share[1]`-th request from `share[0]` on
    slots_of     number of the load whose slots hold for this one too; -1: a descriptor comes along; None: no limit
    """

    number: int
    plan: LoadPlan
    window: NDArray[np.bool_]
    share: tuple[int, int]
    vocab_size: int
    hold_window: bool
    slots_of: int | None
    users: int = 0
    """Of a closed loop, over all processes; 0: it is an open one."""


@dataclass(frozen=True)
class Order:
    """To the client: `run` (t_ns: start), `release` (t_ns: later by), `stop` (from t_ns on; of a phase only), `halt`, `drain`,
    `cancel` one load."""

    what: str
    number: int
    t_ns: int = 0
    window: bool | None = None
    """Of `stop`: only requests of the window, or only the others; None: all, and then they were never planned."""


@dataclass(frozen=True)
class Ready:
    """To the parent: the load can be run; or the process, where it has no number."""

    number: int | None
    error: str | None = None


@dataclass(frozen=True)
class Told:
    """To the parent: `all_sent`, `drained` or `cancelled` of one load; `died`: nothing answers any more."""

    what: str
    number: int
    text: str = ""


@dataclass
class News:
    """To the parent: what happened to requests of one load since the last news. Times in CLOCK_MONOTONIC nanoseconds.

    sent        int64[requests, 4]: index, planned send, actual send, whether it had waited for a slot
    never       indices of requests that were never planned, as it turned out
    tokens_of   int32[requests, 2]: index, number of arrivals; the arrivals follow each other in `t_ns` and `count`
    """

    number: int
    sent: NDArray[np.int64]
    never: list[int]
    tokens_of: NDArray[np.int32]
    t_ns: NDArray[np.int64]
    count: NDArray[np.int32]
    ended: list[Ended]


@dataclass(frozen=True)
class Ended:
    """How one request ended. `error` None: it completed; `cancelled` goes before it."""

    index: int
    error: str | None
    cancelled: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    counted: str
    usage_missing: bool
    usage_wrong: bool


@dataclass
class Health:
    """To the parent, once a second while loads run: how the process itself does.

    cpu      [CLOCK_MONOTONIC ns, CPU ns of the process]
    stalls   [CLOCK_MONOTONIC ns, ns]: rounds of the loop that took longer than `sender.STALL_NS`
    """

    cpu: tuple[int, int]
    stalls: list[tuple[int, int]] = field(default_factory=list)
    connections: int = 0
    recounted: int = 0
    recounted_wrong: int = 0


def pack(message: object) -> bytes:
    data = pickle.dumps(message, protocol=5)
    return _LENGTH.pack(len(data)) + data


class Frames:
    """Puts frames together out of what a socket gives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` makes whole."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            message = pickle.loads(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield message


def send(sock: socket.socket, message: object, descriptor: int | None = None) -> None:
    """Sends all of it; raises OSError where the other side is gone, or takes nothing for as long as the socket's timeout."""
    data = pack(message)
    if descriptor is not None:
        sent = socket.send_fds(sock, [data], [descriptor])
        data = data[sent:]
    sock.sendall(data)
