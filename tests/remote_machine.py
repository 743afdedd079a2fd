"""Another machine, as far as one needs one: a listener in a process of its own, whose CLOCK_MONOTONIC is another one, and a slow
network in between."""

from __future__ import annotations

import contextlib
import functools
import heapq
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from waiting import commands

from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.engines.http.discovery import serving
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.remote import wire
from wattcount.gpu.remote.listener import Listener
from wattcount.run.claims import HostLocks

SECRET = "correct horse battery staple"
APART_S = 1000
"""By how much the clock of the other machine is ahead [s]."""
HIGH_W, LOW_W, HALF_S = 600.0, 100.0, 0.35
"""The power of its GPU: so much in turn, each for so long."""


@functools.cache
def time_namespace() -> tuple[str, ...]:
    """The command that runs another one with a clock of its own; skips the test where the kernel or a container forbids it."""
    command = ("unshare", "--time", "--monotonic", str(APART_S), "--boottime", str(APART_S), "--fork")
    for found in (command, (*command, "--user", "--map-root-user")):
        with contextlib.suppress(OSError):
            if subprocess.run([*found, "true"], capture_output=True, check=False).returncode == 0:
                return found
    pytest.skip("no time namespace can be made here")


class Elsewhere:
    """A machine with an emulated H200 whose power is a square wave, and a listener on it."""

    def __init__(self, folder: Path, *, gpus: int = 1, seconds: float = 120) -> None:
        self.epoch_ns = time.monotonic_ns() + APART_S * 10**9
        """Of its clock."""
        self.folder = folder
        folder.mkdir()
        starts_s = np.arange(-10, seconds, HALF_S)
        powers_w = np.where(np.arange(len(starts_s)) % 2, HIGH_W, LOW_W)
        lines = [f"{at},{power}\n" for at, power in zip(starts_s, powers_w, strict=True)]
        (folder / "curve.csv").write_text("t_s,power_w\n" + "".join(lines))
        self._edges_ns = self.epoch_ns + np.append(np.round(starts_s * 1e9), 10**15).astype(np.int64)
        self._powers_w = powers_w
        command = [*time_namespace(), sys.executable, "-m", "wattcount", "sampler", "--listen", "127.0.0.1:0"]
        # A host of its own: with its own locks, and its own file of the secret.
        (folder / "sampler.secret").write_text(SECRET)
        (folder / "sampler.secret").chmod(0o600)
        own = {"WATTCOUNT_HOME": str(folder), "WATTCOUNT_LOCK_DIR": str(folder / "locks")}
        with EmulatedMachine([EmulatedGpu("h200", truth="curve.csv")] * gpus, folder, epoch_ns=self.epoch_ns):
            environment = {key: text for key, text in os.environ.items() if key != wire.SECRET_ENV} | own
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if "listening at" in line:
                self.port = int(line.partition("127.0.0.1:")[2].split()[0])
                break
        self.address = f"127.0.0.1:{self.port}"

    def true_j(self, start_ns: int, end_ns: int) -> float:
        """What its GPU took from start to end, which are times of this machine."""
        edges = np.clip(self._edges_ns - APART_S * 10**9, start_ns, end_ns)
        return float(np.diff(edges / 1e9) @ self._powers_w)

    def listener(self) -> psutil.Process:
        parent = psutil.Process(self.process.pid)
        found = commands(parent.children(recursive=True))
        return next((child for child, command in found.items() if "sampler" in command), parent)

    def close(self) -> None:
        with contextlib.suppress(psutil.Error):
            self.listener().terminate()
        assert self.process.stdout is not None
        self.said += list(self.process.stdout)
        self.process.wait()
        self.process.stdout.close()


class Listening:
    """A listener in a thread of this process."""

    def __init__(self) -> None:
        self.session = attach_session()
        self.said: list[str] = []
        locks = HostLocks(self.session, self.said.append)
        self.listener = Listener(
            ("127.0.0.1", 0), SECRET.encode(), self.session, locks, serving, self.said.append
        )
        self.address = f"127.0.0.1:{self.listener.port}"
        self._thread = threading.Thread(target=self.listener.serve)
        self._thread.start()

    def stop(self) -> None:
        self.listener.stop()
        self._thread.join()
        self.session.close()


class Proxy:
    """A way to `port` that takes its time: so long there and back [s]."""

    def __init__(self, port: int, there_s: float = 0.0, back_s: float = 0.0) -> None:
        self._target, self.there_s, self.back_s = port, there_s, back_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Ends all connections."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                onward = socket.create_connection(("127.0.0.1", self._target))
                for connection in (client, onward):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._open.append(connection)
                for source, target, delay in (
                    (client, onward, lambda: self.there_s),
                    (onward, client, lambda: self.back_s),
                ):
                    thread = threading.Thread(target=self._copy, args=(source, target, delay))
                    self._threads.append(thread)
                    thread.start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket, delay_s: Callable[[], float]) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        number, ended = 0, False
        with contextlib.suppress(OSError):
            while not ended or waiting:
                now_s = time.monotonic()
                while waiting and waiting[0][0] <= now_s:
                    target.sendall(heapq.heappop(waiting)[2])
                if ended:
                    time.sleep(0.001)
                    continue
                source.settimeout(max(0.0005, waiting[0][0] - now_s) if waiting else None)
                try:
                    chunk = source.recv(65536)
                except TimeoutError:
                    continue
                ended = not chunk
                if chunk:
                    number += 1
                    heapq.heappush(waiting, (time.monotonic() + delay_s(), number, chunk))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    made = Elsewhere(tmp_path / "elsewhere")
    yield made
    made.close()
