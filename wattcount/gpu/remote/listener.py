"""The end on the machine with the GPUs: answers calls of NVML and streams what the sampler's threads see.

Each client has a connection and a thread; the threads that sample are native and wait for nobody. A client that takes nothing any
more is dropped after `wire.TRANSFER_LIMIT_S`.
"""

from __future__ import annotations

import platform
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wattcount import __version__
from wattcount.energy.events import EVENT_DTYPE
from wattcount.errors import WattcountError, one_line
from wattcount.gpu import _native
from wattcount.gpu.remote import wire

if TYPE_CHECKING:
    from wattcount.gpu.nvml import NvmlSession

PUSH_S = 0.25
"""Time between two batches of events [s]. Chosen: a fraction of the second in which a run spools them."""
HEALTH_PUSHES = 10
"""Batches from one with the sampler's health to the next."""
MOST_CLIENTS = 16
"""Clients at a time: each run has two connections."""
MOST_HANDSHAKES = 32
"""Connections at a time that have not proved yet to know the secret."""
MOST_BUFFER_BYTES = 1 << 30
"""Largest buffer of observations that a client may ask for, all GPUs together [bytes]."""
STOP_POLL_S = 0.2
"""Time between two looks at whether the listener is to end [s]."""


class Locks(Protocol):
    """The locks of this host's GPUs, one run a GPU (`run.claims`)."""

    def take(self, uuid: str, purpose: str) -> Callable[[], None] | str:
        """What gives the lock back, or who holds it."""

    def is_free(self, uuid: str) -> bool: ...


class Listener:
    """Listens at `address` (host, port; port 0: any) once it is made. Raises OSError.

    session  an open session of this machine; its owner closes it after `serve` has returned
    serving  which processes serve at a URL (`engines.http.discovery.serving`)
    said     is told in a line of who comes and goes
    """

    def __init__(
        self,
        address: tuple[str, int],
        secret: bytes,
        session: NvmlSession,
        locks: Locks,
        serving: Callable[[str], dict[str, Any]],
        said: Callable[[str], object],
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family)
        self._socket.settimeout(STOP_POLL_S)
        self._secret, self._said = secret, said
        self._machine = session, locks, serving
        self._stopping = threading.Event()
        self._counting = threading.Lock()
        self._handshakes = 0
        self._clients: dict[threading.Thread, socket.socket] = {}

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def stop(self) -> None:
        """Has `serve` return; for a signal handler or another thread."""
        self._stopping.set()

    def serve(self) -> None:
        """Serves until `stop`. When it returns, all clients were told and their threads have ended."""
        try:
            while not self._stopping.is_set():
                try:
                    connection, peer = self._socket.accept()
                except OSError:  # its limit of time; or a connection that was gone again
                    continue
                self._admit(connection, f"{peer[0]}:{peer[1]}")
        finally:
            self._socket.close()
            with self._counting:
                threads = list(self._clients)
            for thread in threads:
                thread.join()

    def _admit(self, connection: socket.socket, peer: str) -> None:
        with self._counting:
            if self._handshakes >= MOST_HANDSHAKES:
                connection.close()
                return
            self._handshakes += 1
        thread = threading.Thread(
            target=self._meet, args=(connection, peer), name=f"wattcount-client-{peer}", daemon=True
        )
        thread.start()

    def _meet(self, connection: socket.socket, peer: str) -> None:
        channel, me = None, threading.current_thread()
        with connection:
            try:
                with self._counting:
                    full = len(self._clients) >= MOST_CLIENTS
                channel = wire.accept(connection, self._secret, full=full)
                with self._counting:
                    self._clients[me] = connection
            except (OSError, wire.WireError) as error:
                if isinstance(error, wire.RefusedError):
                    self._said(f"{peer}: refused: {error}")
            finally:
                with self._counting:
                    self._handshakes -= 1
            if channel is None:
                return
            self._said(f"{peer}: connected")
            client = _Client(channel, *self._machine)
            why = "left"
            try:
                client.serve(self._stopping)
            except wire.ClosedError:
                pass
            except wire.WireError as error:
                why = f"left ({error})"
            finally:
                client.close()
                with self._counting:
                    del self._clients[me]
                self._said(f"{peer}: {why}")


class _Client:
    """One client that has proved to know the secret; what it sends is looked at all the same."""

    def __init__(
        self,
        channel: wire.Channel,
        session: NvmlSession,
        locks: Locks,
        serving: Callable[[str], dict[str, Any]],
    ) -> None:
        self._channel, self._session, self._locks = channel, session, locks
        self._sampler: _native.Sampler | None = None
        self._sampling = False
        self._held: dict[str, Callable[[], None]] = {}
        self._pushes = 0
        self._operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "describe": self._describe,
            "device_uuids": lambda _: self._nvml.device_uuids(),
            "device_info": lambda asked: self._nvml.device_info(_uuid(asked)),
            "compute_processes": lambda asked: self._nvml.compute_processes(_uuid(asked)),
            "supported_sm_clocks_mhz": lambda asked: self._nvml.supported_sm_clocks_mhz(_uuid(asked)),
            "serving": lambda asked: serving(str(asked["url"])[: wire.HELLO_BYTES]),
            "sample": self._sample,
            "start": self._start,
            "mark": self._mark,
            "stop": self._stop,
            "lock": self._lock,
            "unlock": self._unlock,
            "is_free": lambda asked: self._locks.is_free(self._known(asked)),
        }

    def serve(self, stopping: threading.Event) -> None:
        """Serves the client until it leaves or the listener is to end. Raises `WireError`."""
        due_s = 0.0
        while not stopping.is_set():
            wait_s = min(STOP_POLL_S, due_s - time.monotonic()) if self._sampling else STOP_POLL_S
            if self._channel.wait(wait_s):
                header, _ = self._channel.receive()
                self._answer(header)
            if self._sampling and time.monotonic() >= due_s:
                due_s = time.monotonic() + PUSH_S
                self._push()
        self._channel.send({"said": "bye"})

    def close(self) -> None:
        """Ends the client's threads, and gives back its locks."""
        if self._sampler is not None:
            self._sampler.stop()
        for give_back in self._held.values():
            give_back()
        self._channel.close()

    @property
    def _nvml(self) -> Any:
        return self._session.native

    def _answer(self, asked: dict[str, Any]) -> None:
        received_ns = self._channel.received_ns
        answer: dict[str, Any] = {"id": asked.get("id", 0)}
        if asked.get("op") == "ping":
            answer |= {"c0_ns": asked.get("c0_ns"), "s1_ns": received_ns, "s2_ns": time.monotonic_ns()}
            self._channel.send(answer)
            return
        try:
            operation = self._operations.get(str(asked.get("op")))
            if operation is None:
                raise ValueError("an operation that is not known here")
            answer["result"] = operation(asked)
        except _native.NvmlError as error:
            answer["error"] = {
                "kind": "nvml",
                "message": str(error),
                "code": error.code,
                "function": error.function,
            }
        except WattcountError as error:
            answer["error"] = {"kind": "not_started", "message": str(error)}
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            answer["error"] = {"kind": "value", "message": one_line(error)}
        except (RuntimeError, OSError) as error:
            answer["error"] = {"kind": "runtime", "message": one_line(error)}
        if "id" in asked:
            self._channel.send(answer)

    def _known(self, asked: dict[str, Any]) -> str:
        uuid = _uuid(asked)
        if uuid not in self._nvml.device_uuids():
            raise ValueError(f"there is no GPU {one_line(uuid, 80)}")
        return uuid

    def _describe(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "library": self._session.library,
            "emulated": self._nvml.emulated,
            "usable": [gpu.uuid for gpu in self._session.usable()],
            "host": {"hostname": platform.node(), "kernel": platform.release(), "wattcount": __version__},
        }

    def _sample(self, asked: dict[str, Any]) -> None:
        if self._sampling:
            raise ValueError("this client samples already")
        plan, uuids = dict(asked["plan"]), [str(uuid) for uuid in asked["uuids"]]
        if int(plan["capacity_events"]) * EVENT_DTYPE.itemsize * len(uuids) > MOST_BUFFER_BYTES:
            raise ValueError("power.buffer_mib_per_gpu: the listener keeps 1 GiB at most")
        self._sampler = _native.Sampler(self._nvml, uuids, plan)

    def _start(self, _: dict[str, Any]) -> dict[str, Any]:
        sampler = self._made()
        sampler.start()
        self._sampling, self._pushes = True, 0
        return {"latest": sampler.latest(), "health": sampler.health()}

    def _mark(self, _: dict[str, Any]) -> None:
        self._made().mark()

    def _stop(self, asked: dict[str, Any]) -> bool:
        """The last events leave before the answer."""
        ended = self._made().stop(int(asked["limit_ns"]))
        if self._sampling:
            self._sampling, self._pushes = False, 0
            self._push()
        return ended

    def _made(self) -> _native.Sampler:
        if self._sampler is None:
            raise ValueError("this client has not said what to sample")
        return self._sampler

    def _push(self) -> None:
        sampler = self._made()
        arrays = sampler.drain()
        end_ns = time.monotonic_ns()
        payload = np.concatenate(arrays).tobytes()
        most = wire.PAYLOAD_BYTES // EVENT_DTYPE.itemsize * EVENT_DTYPE.itemsize
        for begin in range(0, max(len(payload), 1), most):
            part = payload[begin : begin + most]
            header: dict[str, Any] = {
                "events": len(part) // EVENT_DTYPE.itemsize,
                "end_ns": end_ns,
                "latest": sampler.latest(),
            }
            if self._pushes % HEALTH_PUSHES == 0:
                header["health"] = sampler.health()
            self._pushes += 1
            self._channel.send(header, part)

    def _lock(self, asked: dict[str, Any]) -> str | None:
        uuid = self._known(asked)
        if uuid not in self._held:
            taken = self._locks.take(uuid, f"{one_line(asked.get('purpose', ''), 100)}, for another machine")
            if isinstance(taken, str):
                return taken
            self._held[uuid] = taken
        return None

    def _unlock(self, asked: dict[str, Any]) -> bool:
        give_back = self._held.pop(_uuid(asked), None)
        if give_back is not None:
            give_back()
        return give_back is not None


def _uuid(asked: dict[str, Any]) -> str:
    uuid = asked["uuid"]
    if not isinstance(uuid, str):
        raise ValueError("a GPU is named by its UUID")
    return uuid
