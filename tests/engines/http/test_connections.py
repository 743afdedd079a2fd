"""Which connections are used for a second request."""

from __future__ import annotations

import select
import socket
import time

from wattcount.engines.http.client import Endpoint
from wattcount.engines.http.connections import AT_ONCE_NS, Connection, Connections
from wattcount.engines.http.sse import Reply


class Site:
    """A server that takes connections, and the client's connections to it."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.epoll = select.epoll()
        endpoint = Endpoint(f"http://127.0.0.1:{self.listening.getsockname()[1]}", "echo")
        self.connections = Connections(endpoint, self.epoll)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in list(self.connections.by_descriptor.values()):
            self.connections.close(connection)
        self.epoll.close()
        self.listening.close()

    def answered(self) -> Connection:
        """A connection on which an answer came."""
        connection = self.connections.take(time.monotonic_ns())
        connection.stage = "idle"
        connection.reply = Reply()
        self.connections.rest(connection)
        return connection


def test_a_connection_is_used_again() -> None:
    with Site() as site:
        first = site.answered()
        assert site.answered() is first


def test_a_server_that_closes_after_an_answer_gets_a_new_connection_each_time() -> None:
    """llama.cpp's says that it keeps them: a request that comes while it closes one is lost."""
    with Site() as site:
        first, second = site.connections.take(0), site.connections.take(0)
        for connection in (first, second):
            connection.stage = "idle"
            connection.reply = Reply()
            site.connections.rest(connection)
        site.connections.closed_by_server(first)
        assert site.connections.free() == 0
        assert site.answered() is not second
        assert site.connections.free() == 0


def test_one_that_was_idle_for_long_or_never_used_says_nothing_of_the_others() -> None:
    with Site() as site:
        old = site.answered()
        old.idle_ns -= 2 * AT_ONCE_NS
        site.connections.closed_by_server(old)
        fresh = site.connections.take(time.monotonic_ns())
        fresh.stage = "idle"
        site.connections.rest(fresh)
        site.connections.closed_by_server(fresh)
        kept = site.answered()
        assert site.answered() is kept
