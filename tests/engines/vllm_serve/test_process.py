"""The server's process: a port that is its own, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from waiting import has_ended

from wattcount.engines.vllm_serve.process import HeldPort, ServerProcess

HOST = "127.0.0.1"

PARENT = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(child.pid, flush=True)
signal.pause()
"""


def test_a_held_port_is_the_server_s_alone() -> None:
    held = HeldPort(HOST)
    with socket.socket() as stranger:
        try:
            stranger.bind((HOST, held.number))
            taken = False
        except OSError:
            taken = True
        assert taken
    with socket.socket() as server:  # as vLLM binds
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((HOST, held.number))
        server.listen()
        with socket.create_connection((HOST, held.number)):
            pass
        held.release()
        with socket.create_connection((HOST, held.number)):
            pass


def test_its_children_end_with_it(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("before\n")

    async def run() -> tuple[int, int]:
        server = ServerProcess()
        assert server.pid is None
        assert server.ended is None
        await server.start([sys.executable, "-c", PARENT], {}, log)
        assert server.pid is not None
        pid = server.pid
        while len(lines := log.read_text().split()) < 2:
            await asyncio.sleep(0.01)
        server.note_children()
        await server.stop(5.0)
        await server.stop(5.0)
        return pid, int(lines[1])

    pids = asyncio.run(run())
    assert all(has_ended(pid) for pid in pids)


def test_how_it_ended_is_told(tmp_path: Path) -> None:
    async def run() -> tuple[int, int | None]:
        server = ServerProcess()
        await server.start([sys.executable, "-c", "raise SystemExit(7)"], {}, tmp_path / "engine.log")
        return await server.wait(), server.ended

    assert asyncio.run(run()) == (7, 7)
