"""A server of fixed pages in a process of its own, with a worker: `python pages_server.py PAGES.json [HOW]`.

Prints its port and the worker's process id. HOW is where the worker stands: `child` of the server, `orphan` in the server's session.
Arguments after that are only there to be seen.
"""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
from pathlib import Path

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


main()
