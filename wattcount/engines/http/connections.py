"""Connections of one client process to the server: made ahead, kept, and given to one request after the other."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING

from wattcount.engines.http.client import Endpoint
from wattcount.engines.http.request import Server
from wattcount.engines.http.sse import Reply

if TYPE_CHECKING:
    from wattcount.engines.http.share import Share

KEEP_IDLE_NS = 2_000_000_000
"""A connection that was idle for longer is not used again [ns]: servers close them after 5 s (uvicorn), just when a request comes."""


AT_ONCE_NS = 1_000_000_000
"""A server that closes a connection sooner than this after an answer [ns] does so after each one: no server waits that short."""


class Connection:
    """One connection, and the request on it."""

    __slots__ = (
        "dirty", "fd", "idle_ns", "index", "load", "open", "out", "pieces", "reply", "sock", "stage", "times", "used",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.open = False
        """Connected, with TLS where it is asked for, and nothing left to send: what comes is an answer."""
        self.stage = "connect"
        self.load: Share | None = None
        self.index = -1
        self.reply: Reply | None = None
        self.times: list[int] = []
        self.pieces: list[bytes] = []
        self.dirty = False
        self.out: memoryview | None = None
        self.idle_ns = 0
        self.used = False
        """An answer came on it."""


class Connections:
    """All of one process. Raises `RunFailedError` (`no_server`) where the server cannot be connected to once.

    ::

        connect --> (handshake of TLS) --> idle --> open: a request on it --> idle ...
    """

    def __init__(self, endpoint: Endpoint, epoll: select.epoll) -> None:
        self._server = Server(endpoint)
        self._epoll = epoll
        self._idle: list[Connection] = []
        self._ahead: set[Connection] = set()
        """On their way, and no request waits for them."""
        self.by_descriptor: dict[int, Connection] = {}
        self.made = 0
        self._keeps = True
        """The server keeps connections after an answer. llama.cpp's says so and does not, and a request that comes just then is lost."""
        with self._server.connected() as sock:
            self._family, self._address = sock.family, sock.getpeername()

    @property
    def tls(self) -> bool:
        return self._server.tls is not None

    def free(self) -> int:
        """How many requests would find a connection."""
        return len(self._idle) + len(self._ahead)

    def connect_ahead(self, count: int) -> None:
        """Begins to make so many."""
        for _ in range(count):
            try:
                self._ahead.add(self._connect())
            except OSError:
                return  # the request itself will say

    def take(self, now_ns: int) -> Connection:
        """One for a request: idle, on its way, or made now. Raises OSError."""
        while self._idle:
            connection = self._idle.pop()
            if now_ns - connection.idle_ns <= KEEP_IDLE_NS:
                return connection
            self.close(connection)
        return self._ahead.pop() if self._ahead else self._connect()

    def _connect(self) -> Connection:
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        problem = sock.connect_ex(self._address)
        if problem not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(problem, os.strerror(problem))
        connection = Connection(sock)
        self.by_descriptor[connection.fd] = connection
        self._epoll.register(connection.fd, select.EPOLLOUT)
        self.made += 1
        return connection

    def establish(self, connection: Connection) -> None:
        """Goes on with one that is not idle yet, and writes the request that waits for it. Raises OSError."""
        if connection.stage == "connect":
            problem = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if problem:
                raise OSError(problem, os.strerror(problem))
            if self._server.tls is not None:
                connection.sock = self._server.tls.wrap_socket(
                    connection.sock, server_hostname=self._server.host, do_handshake_on_connect=False
                )
            connection.stage = "handshake"
        try:
            if isinstance(connection.sock, ssl.SSLSocket):
                connection.sock.do_handshake()
        except ssl.SSLWantReadError:
            self._epoll.modify(connection.fd, select.EPOLLIN)
            return
        except ssl.SSLWantWriteError:
            self._epoll.modify(connection.fd, select.EPOLLOUT)
            return
        connection.stage = "idle"
        if connection.load is None:
            self._ahead.discard(connection)
            self.rest(connection)
        else:
            self.write(connection)

    def write(self, connection: Connection) -> None:
        """Sends what is left of the request; what does not fit waits for epoll. Raises OSError."""
        connection.open = False
        assert connection.out is not None
        while connection.out:
            try:
                connection.out = connection.out[connection.sock.send(connection.out) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)
                return
        connection.out = None
        connection.open = True
        self._epoll.modify(connection.fd, select.EPOLLIN)

    def rest(self, connection: Connection) -> None:
        """Keeps a connection for the next request."""
        connection.used = connection.reply is not None
        if connection.used and not self._keeps:
            connection.load = connection.reply = None
            self.close(connection)
            return
        connection.idle_ns = time.monotonic_ns()
        connection.load = connection.reply = None
        connection.open = True
        self._epoll.modify(connection.fd, select.EPOLLIN)
        self._idle.append(connection)

    def closed_by_server(self, connection: Connection) -> None:
        """One that was idle. Where that was at once after an answer, none is used for a second request from now on."""
        self.close(connection)
        if connection.used and self._keeps and time.monotonic_ns() - connection.idle_ns < AT_ONCE_NS:
            self._keeps = False
            for used in [one for one in self._idle if one.used]:
                self.close(used)

    def close(self, connection: Connection) -> None:
        self.by_descriptor.pop(connection.fd, None)
        self._ahead.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        with contextlib.suppress(OSError):
            self._epoll.unregister(connection.fd)
        with contextlib.suppress(OSError):
            connection.sock.close()
        connection.pieces.clear()
        connection.times.clear()
