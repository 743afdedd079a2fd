"""NVML and the sampler's threads of another machine, as a session and a `PowerSampler` use those of this one."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.config.fields import HostPort
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.errors import NotStartedError, RunFailedError, one_line
from wattcount.gpu import _native
from wattcount.gpu.remote import wire
from wattcount.gpu.remote.clock import ClockOffset

CALL_LIMIT_S = 30.0
"""Longest wait for an answer [s]: NVML may take seconds to wake a driver without persistence mode."""
PING_S = 0.1
"""Time between two pings while events come in [s]. Chosen: with `clock.DRIFTS` the clocks move apart by 10 us meanwhile."""
BURST = 32
"""Pings before the first event and after the last one. Chosen: some of them meet no queue."""
SILENCE_LIMIT_S = 10.0
"""Longest silence of a listener that samples, which sends four batches a second [s]."""
LOST = "sampler_lost"
"""Reason of a run whose listener was lost."""
CLOCKS = "sampler_clock"
"""Reason of a run whose listener's clock was set, or stood still."""


@dataclass
class _Call:
    done: threading.Event = field(default_factory=threading.Event)
    answer: dict[str, Any] | None = None


class Connection:
    """One connection to a listener, and the thread that hears it. Raises `NotStartedError`."""

    def __init__(self, address: str, secret: bytes) -> None:
        self.address = address
        self.clock = ClockOffset()
        self.lost: str | None = None
        """Why the connection is of no use any more."""
        self.threads: RemoteThreads | None = None
        self._channel = _connected(address, secret)
        self._calls: dict[int, _Call] = {}
        self._pings: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="wattcount-remote", daemon=True)
        self._thread.start()

    def call(self, operation: str, *, limit_s: float = CALL_LIMIT_S, **arguments: Any) -> Any:
        """The listener's answer. Raises `NvmlError`, ValueError, RuntimeError as the call there did, else `NotStartedError`."""
        number, call = next(self._numbers), _Call()
        self._calls[number] = call
        try:
            if self.lost is None:
                self._send({"id": number, "op": operation, **arguments})
            if self.lost is None and not call.done.wait(limit_s):
                raise NotStartedError(f"power.remote: {self.address} did not answer within {limit_s:g} s")
        finally:
            del self._calls[number]
        if call.answer is None:
            raise NotStartedError(f"power.remote: the connection to {self.address} was lost: {self.lost}")
        if "error" in call.answer:
            raise _raised(call.answer["error"], self.address)
        return call.answer.get("result")

    def tell(self, operation: str) -> None:
        """Asks for what has no answer; returns at once, also if the connection was lost."""
        self._send({"op": operation})

    def compare_clocks(self) -> None:
        """`BURST` pings, and the translation up to the last of them. Raises `NotStartedError`."""
        for _ in range(BURST):
            self.call("ping", c0_ns=time.monotonic_ns())
        self.clock.commit_last()

    @property
    def traffic(self) -> dict[str, int]:
        return {"received_bytes": self._channel.received_bytes, "sent_bytes": self._channel.sent_bytes}

    def close(self) -> None:
        """May be called twice."""
        self._closed = True
        self._channel.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _send(self, header: dict[str, Any]) -> None:
        try:
            self._channel.send(header)
        except wire.WireError as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        self.lost = self.lost or one_line(why)
        for call in list(self._calls.values()):
            call.done.set()

    def _listen(self) -> None:
        silent_s, pinged_s = 0.0, 0.0
        try:
            while True:
                sampling = self.threads is not None and self.threads.running
                if self._channel.wait(PING_S):
                    silent_s = 0.0
                    self._hear(*self._channel.receive())
                elif sampling:
                    # Time spent waiting, not time passed: this process may have been stopped.
                    silent_s += PING_S
                    if silent_s >= SILENCE_LIMIT_S:
                        raise wire.WireError(f"nothing came for {SILENCE_LIMIT_S:g} s")
                if sampling and time.monotonic() - pinged_s >= PING_S:
                    pinged_s = time.monotonic()
                    self._send({"id": 0, "op": "ping", "c0_ns": time.monotonic_ns()})
        except (wire.WireError, ValueError, TypeError, KeyError) as error:
            self._fail("it was closed here" if self._closed else str(error) or type(error).__name__)
        finally:
            self._channel.close()

    def _hear(self, header: dict[str, Any], payload: bytes) -> None:
        at_ns = self._channel.received_ns
        if "events" in header and self.threads is not None:
            self.threads.heard(header, payload)
            return
        if "s1_ns" in header:
            self.clock.add(int(header["c0_ns"]), int(header["s1_ns"]), int(header["s2_ns"]), at_ns)
        if header.get("said") == "bye":
            raise wire.WireError("the listener there was ended")
        call = self._calls.get(header.get("id", 0))
        if call is not None:
            call.answer = header
            call.done.set()


class RemoteNvml:
    """The NVML library that a listener has loaded. See `library.Library`."""

    def __init__(self, address: str) -> None:
        self.connection = Connection(address, wire.read_secret())
        try:
            self.connection.compare_clocks()
            self._facts: dict[str, Any] = self.connection.call("describe")
        except BaseException:
            self.connection.close()
            raise

    @property
    def library(self) -> dict[str, Any]:
        """As `NvmlSession.library` there, with `remote`: address, hostname, kernel, wattcount, and the clocks' difference."""
        remote = {**self._facts["host"], "address": self.connection.address, "clock": self.clock()}
        return {**self._facts["library"], "remote": remote}

    def clock(self) -> dict[str, Any]:
        """See `ClockOffset.to_json`."""
        return self.connection.clock.to_json()

    @property
    def usable_uuids(self) -> list[str]:
        """UUIDs of the GPUs that the listener itself may use."""
        return list(self._facts["usable"])

    @property
    def path(self) -> str:
        return f"{self._facts['library']['path']} on {self.connection.address}"

    @property
    def emulated(self) -> bool:
        return bool(self._facts["emulated"])

    @property
    def driver_version(self) -> str:
        return str(self._facts["library"]["driver_version"])

    @property
    def nvml_version(self) -> str:
        return str(self._facts["library"]["nvml_version"])

    @property
    def cuda_driver_version(self) -> int | None:
        version: int | None = self._facts["library"]["cuda_driver_version"]
        return version

    def missing_symbols(self) -> list[str]:
        return list(self._facts["library"]["missing_symbols"])

    def device_uuids(self) -> list[str]:
        return list(self.connection.call("device_uuids"))

    def device_info(self, uuid: str) -> dict[str, Any]:
        return dict(self.connection.call("device_info", uuid=uuid))

    def compute_processes(self, uuid: str) -> list[tuple[int, int | None]]:
        return [(pid, used) for pid, used in self.connection.call("compute_processes", uuid=uuid)]

    def supported_sm_clocks_mhz(self, uuid: str) -> list[int]:
        return list(self.connection.call("supported_sm_clocks_mhz", uuid=uuid))

    def set_power_limit_mw(self, uuid: str, limit_mw: int) -> None:
        raise _not_set(f"the power limit of {uuid} to {limit_mw} mW")

    def lock_sm_clock_mhz(self, uuid: str, clock_mhz: int) -> None:
        raise _not_set(f"the SM clock of {uuid} to {clock_mhz} MHz")

    def unlock_sm_clock(self, uuid: str) -> None:
        raise _not_set(f"the SM clock of {uuid}")

    def threads(self, uuids: list[str], plan: dict[str, Any]) -> RemoteThreads:
        """Raises as `_native.Sampler` does."""
        return RemoteThreads(self.connection, uuids, plan)

    def serving(self, url: str) -> dict[str, Any]:
        """The processes there that serve at a URL (`engines.http.discovery.serving`)."""
        return dict(self.connection.call("serving", url=url))

    def lock(self, uuid: str, purpose: str) -> str | None:
        """Takes the lock of a GPU there, until `unlock` or the end of this connection; who holds it, None: it is taken."""
        holder: str | None = self.connection.call("lock", uuid=uuid, purpose=purpose)
        return holder

    def unlock(self, uuid: str) -> bool:
        """Whether the lock was held until now; False: the end of the connection has freed it."""
        try:
            return bool(self.connection.call("unlock", uuid=uuid))
        except NotStartedError:
            return False

    def is_free(self, uuid: str) -> bool:
        """Whether no run there, or through a listener there, holds the GPU."""
        return bool(self.connection.call("is_free", uuid=uuid))

    def close(self) -> None:
        """May be called twice."""
        self.connection.close()


class RemoteThreads:
    """The sampling threads of GPUs of another machine, and their events in this one's time. See `library.Threads`."""

    def __init__(self, connection: Connection, uuids: list[str], plan: dict[str, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._fresh: list[NDArray[np.void]] = []
        self._fresh_events, self._dropped = 0, 0
        self._capacity = int(plan["capacity_events"]) * len(uuids)
        self._gpus = len(uuids)
        self._latest: list[dict[str, int]] = [{} for _ in uuids]
        self._health: list[dict[str, Any]] = []
        self.running = False
        """Whether events are to come."""
        self.clock = connection.clock
        connection.call("sample", uuids=uuids, plan=plan)
        connection.threads = self

    def start(self) -> None:
        self.clock = self._connection.clock = ClockOffset()
        self._connection.compare_clocks()
        first = self._connection.call("start")
        self._heard_latest(first["latest"])
        self._health = first["health"]
        self.running = True

    def stop(self, limit_ns: int) -> bool:
        """Whether the threads there have ended, and all they saw came here."""
        if not self.running:
            return True
        try:
            limit_s = limit_ns / 1e9 + CALL_LIMIT_S
            ended = self._connection.call("stop", limit_s=limit_s, limit_ns=limit_ns)
            self.running = False
            self._connection.compare_clocks()
        except (NotStartedError, RuntimeError):
            self.running = False
            return False
        return bool(ended)

    def mark(self) -> None:
        self._connection.tell("mark")

    def drain(self) -> list[NDArray[np.void]]:
        with self._lock:
            fresh, self._fresh, self._fresh_events = self._fresh, [], 0
        return [np.concatenate(fresh)] if fresh else [np.empty(0, EVENT_DTYPE)]

    def latest(self) -> list[dict[str, int]]:
        with self._lock:
            return list(self._latest)

    def health(self) -> list[dict[str, Any]]:
        """As it was some seconds ago; exact once `stop` has returned."""
        with self._lock:
            return [{**gpu, "dropped_events": gpu["dropped_events"] + self._dropped} for gpu in self._health]

    @property
    def failure(self) -> RunFailedError | None:
        """What has ended the observations, or spoilt them."""
        if self._connection.lost is not None:
            return RunFailedError(
                LOST,
                f"the connection to the sampler at {self._connection.address} was lost: {self._connection.lost}; what came "
                "until then is in the record",
            )
        if self.clock.contradicted:
            return RunFailedError(
                CLOCKS,
                f"the clock of {self._connection.address} and this one were moved against each other: one of the machines was "
                "suspended, or its clock was set; measure again",
            )
        return None

    def heard(self, header: dict[str, Any], payload: bytes) -> None:
        """A batch of events, from the connection's thread. Raises ValueError for one that makes no sense."""
        if len(payload) != header["events"] * EVENT_DTYPE.itemsize:
            raise ValueError("a batch of events of another length than it says")
        events = np.frombuffer(payload, EVENT_DTYPE).copy()
        if len(events) and (events["gpu"].max() >= self._gpus or events["source"].max() > max(Source)):
            raise ValueError("events of GPUs or sources that were not asked for")
        self.clock.commit(int(header["end_ns"]))
        for name in ("prev_t0_ns", "t0_ns", "t1_ns"):
            known = events[name] >= 0
            events[name][known] = self.clock.to_local(events[name][known])
        self._heard_latest(header["latest"])
        with self._lock:
            self._health = header.get("health") or self._health
            if self._fresh_events + len(events) > self._capacity:
                self._dropped += len(events)
            elif len(events):
                self._fresh.append(events)
                self._fresh_events += len(events)

    def _heard_latest(self, latest: Any) -> None:
        values = [{str(name): int(value) for name, value in gpu.items()} for gpu in latest]
        with self._lock:
            self._latest = values


def _connected(address: str, secret: bytes) -> wire.Channel:
    host, port = HostPort.parts(address, wire.DEFAULT_PORT)
    try:
        return wire.connect(host, port, secret)
    except wire.RefusedError as error:
        advice = {
            "secret": f"use the same {wire.secret_file().name} (or ${wire.SECRET_ENV}) on both machines",
            "protocol": "install the same version of wattcount on both machines",
            "full": "wait until other runs have ended",
        }
        raise NotStartedError(
            f"power.remote: {address}: {error}; {advice.get(error.why, 'install the same version on both')}"
        ) from None
    except (OSError, wire.WireError) as error:
        raise NotStartedError(
            f"power.remote: no wattcount sampler answers at {address}: {one_line(getattr(error, 'strerror', None) or error)}; start one on that machine with "
            f"wattcount sampler --listen (docs/remote.md)"
        ) from None


def _raised(error: dict[str, Any], address: str) -> Exception:
    kind, message = error.get("kind"), one_line(error.get("message", ""), 2000)
    if kind == "nvml":
        raised = _native.NvmlError(message)
        raised.code, raised.function = int(error["code"]), str(error["function"])
        return raised
    if kind == "value":
        return ValueError(message)
    if kind == "runtime":
        return RuntimeError(message)
    return NotStartedError(f"power.remote: {address}: {message}")


def _not_set(what: str) -> NotStartedError:
    return NotStartedError(
        f"power.remote: cannot set {what}: GPUs of another machine are set there, with nvidia-smi"
    )
