"""Servers that do everything but their work, on real sockets of 127.0.0.1."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class BadServer:
    uri: str
    requests: list[str] = field(default_factory=list)
    """Method and path of each request, as they came."""
    arrived: threading.Event = field(default_factory=threading.Event)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def bad_server(how: str) -> Iterator[BadServer]:
    """`how`: `503` (with Retry-After: 3600), `hang` (accepts, never answers), `drip` (a byte now and then), `loop` (redirects to itself),
    `ok` (answers `{}` to everything)."""
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            server.requests.append(f"{self.command} {self.path}")
            server.headers.append(dict(self.headers.items()))
            server.arrived.set()
            if how == "hang":
                over.wait()
                return
            self.send_response({"503": 503, "loop": 307}.get(how, 200))
            if how == "503":
                self.send_header("Retry-After", "3600")
            if how == "loop":
                self.send_header("Location", self.path)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "100000" if how == "drip" else "2")
            self.end_headers()
            try:
                while how == "drip" and not over.wait(0.05):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                self.wfile.write(b"{}")
            except OSError:
                return

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server = BadServer(f"http://127.0.0.1:{listening.server_address[1]}")
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        over.set()
        listening.shutdown()
        listening.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
