"""A server of fixed pages in a process of its own, with a worker: `python pages_server.py PAGES.json HOW`.

As a program it prints its port and the worker's process id. HOW is where the worker stands: `child` of the server, `orphan` in the server's session.
Arguments after that are only there to be seen.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLEEP = [sys.executable, "-c", "import sys; sys.stdin.read()"]


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers with the pages of the file, which is read anew for each request; 404 for the rest."""

    def do_GET(self) -> None:
        page = json.loads(Path(sys.argv[1]).read_text()).get(self.path)
        status, text = page if isinstance(page, list) else (404 if page is None else 200, page or "")
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    if sys.argv[2] == "orphan":
        os.setsid()
        starter = f"import subprocess, sys; print(subprocess.Popen({SLEEP!r}, stdout=-3).pid)"
        worker = int(subprocess.run([sys.executable, "-c", starter], stdout=-1, check=True).stdout)
    else:
        worker = subprocess.Popen(SLEEP, stdout=subprocess.DEVNULL).pid
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "0"))), Pages)
    print(server.server_port, worker, flush=True)
    server.serve_forever()


@dataclass
class Served:
    """A server that runs: its URL, its process, its worker's, and the file of its pages."""

    url: str
    pid: int
    worker: int
    pages: Path


Serve = Callable[..., Served]


@contextmanager
def serving(folder: Path) -> Iterator[Serve]:
    """Starts servers: of `pages`, with further arguments; `how`: where the worker stands; `before`: what starts Python."""
    started: list[subprocess.Popen[str]] = []

    def start(pages: dict[str, Any], *seen: str, how: str = "child", before: tuple[str, ...] = ()) -> Served:
        file = folder / f"pages-{len(started)}.json"
        file.write_text(json.dumps(pages))
        process = subprocess.Popen(
            [*before, sys.executable, __file__, str(file), how, *seen],
            stdin=subprocess.PIPE,  # the worker ends when it closes
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        port, worker = process.stdout.readline().split()
        return Served(f"http://127.0.0.1:{port}", process.pid, int(worker), file)

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
