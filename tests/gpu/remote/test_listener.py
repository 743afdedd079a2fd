"""Listener and client over a real socket, the emulated library behind them; both in this process, so they have one clock."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from remote_machine import SECRET, Listening
from waiting import wait_until

from wattcount.config.schema import GpuConfig, PowerConfig
from wattcount.emulation.machine import EmulatedMachine
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.errors import NotStartedError
from wattcount.gpu import PowerSampler, _native
from wattcount.gpu.nvml import NvmlSession, attach_session, open_session
from wattcount.gpu.remote import client, listener, wire
from wattcount.gpu.remote.client import CLOCKS, LOST, RemoteNvml
from wattcount.run.claims import gpus_locked, is_free

pytestmark = pytest.mark.timeout(120)
Machines = Callable[..., EmulatedMachine]
FAST = PowerConfig(
    energy_counter_period_ms=53.0, power_period_ms=5.0, samples_period_ms=50.0, status_period_ms=50.0
)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    monkeypatch.setattr(wire, "REFUSAL_S", 0.0)


@pytest.fixture
def listening(machine: Machines) -> Iterator[Listening]:
    machine("h200", "h200")
    there = Listening()
    yield there
    there.stop()


@pytest.fixture
def session(listening: Listening) -> Iterator[NvmlSession]:
    with open_session(PowerConfig(remote=listening.address), GpuConfig()) as found:
        yield found


def raw(listening: Listening) -> wire.Channel:
    return wire.connect("127.0.0.1", listening.listener.port, SECRET.encode())


def asked(channel: wire.Channel, **message: Any) -> dict[str, Any]:
    """The answer, whatever comes before it."""
    channel.send({"id": 1, **message})
    while True:
        header, _ = channel.receive()
        if header.get("id") == 1:
            return header


# -- NVML of another machine


def test_a_session_there_says_what_one_here_would(listening: Listening, session: NvmlSession) -> None:
    here = listening.session
    assert session.gpus() == here.gpus()
    assert session.usable() == here.usable()
    assert session.select(GpuConfig(count=2)) == here.select(GpuConfig(count=2))
    assert session.evidence == here.evidence == "emulated"
    remote = session.library["remote"]
    assert {**session.library} == {**here.library, "remote": remote}
    assert remote["address"] == listening.address
    assert abs(remote["clock"]["offset_ns"]) <= remote["clock"]["bound_ns"]
    uuid = here.gpus()[0].uuid
    assert session.native.compute_processes(uuid) == here.native.compute_processes(uuid)
    assert session.native.supported_sm_clocks_mhz(uuid) == here.native.supported_sm_clocks_mhz(uuid)
    for name in ("emulated", "driver_version", "nvml_version", "cuda_driver_version"):
        assert getattr(session.native, name) == getattr(here.native, name)
    assert session.native.missing_symbols() == here.native.missing_symbols()


def test_which_gpus_may_be_used_is_what_the_listeners_environment_says(
    listening: Listening, session: NvmlSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = session.gpus()
    with monkeypatch.context() as changed:
        changed.setenv("CUDA_VISIBLE_DEVICES", "1")
        with attach_session(listening.address) as narrow:
            changed.setenv("CUDA_VISIBLE_DEVICES", "0")  # of the client: of no meaning there
            assert narrow.usable() == [second]
    assert session.usable() == [first, second]


def test_an_error_of_nvml_there_is_one_here(session: NvmlSession) -> None:
    with pytest.raises(_native.NvmlError) as error:
        session.native.device_info("GPU-none")
    assert error.value.code == 6  # NVML_ERROR_NOT_FOUND
    assert "nvmlDeviceGetHandleByUUID" in error.value.function


def test_nothing_is_set_on_another_machine(session: NvmlSession) -> None:
    uuid = session.gpus()[0].uuid
    before = session.gpus()
    for change in (
        lambda: session.native.set_power_limit_mw(uuid, 300_000),
        lambda: session.native.lock_sm_clock_mhz(uuid, 1000),
        lambda: session.native.unlock_sm_clock(uuid),
    ):
        with pytest.raises(NotStartedError, match="nvidia-smi"):
            change()
    assert session.gpus() == before


# -- sampling


def test_a_sampler_of_another_machine_gives_the_energy_of_what_it_enclosed(machine: Machines) -> None:
    epoch_ns = time.monotonic_ns()
    machine(epoch_ns=epoch_ns)
    there = Listening()
    try:
        with attach_session(there.address) as session:
            with PowerSampler(session=session, config=FAST) as sampler:
                start_ns = epoch_ns + 700_000_000
                end_ns = start_ns + 1_500_000_000
                wait_until(lambda: time.monotonic_ns() > end_ns + 300_000_000)
                assert sampler.latest_power_w() is not None
                assert sampler.failure is None
            trace, clock = sampler.trace(), sampler.clock
    finally:
        there.stop()
    assert clock is not None
    assert abs(clock["offset_ns"]) <= clock["bound_ns"]
    assert trace.clock_bound_ns == clock["bound_ns"] > 0
    (uuid,) = trace.gpu_uuids
    estimate = trace.energy(start_ns, end_ns, uuid)
    assert estimate.basis == "energy_counter+power_samples"
    assert estimate.value_j is not None
    assert estimate.u95_j is not None
    assert estimate.value_j == pytest.approx(0.8 * 400 + 0.7 * 200, abs=1.5 * estimate.u95_j)
    assert estimate.budget_j["clock"] > 0
    assert {Source(number) for number in np.unique(trace.events["source"])} >= {
        Source.ENERGY_COUNTER, Source.POWER_SAMPLES, Source.POWER_INSTANT, Source.REALTIME, Source.TEMPERATURE_GPU,
    }  # fmt: skip
    health = sampler.health()[0]
    assert health["uuid"] == uuid
    assert health["events"] == len(trace)
    assert health["dropped_events"] == 0
    assert sampler.sensors()[uuid]["energy_counter"]["state"] == "ok"


def test_a_mark_has_every_source_read_there(session: NvmlSession) -> None:
    slow = PowerConfig(energy_counter_period_ms=60_000.0, status_period_ms=60_000.0, heartbeat_ms=60_000.0)
    with PowerSampler([0], session, slow) as sampler:
        seen = sampler.drain()

        def counter_reads() -> int:
            nonlocal seen
            seen = np.concatenate((seen, sampler.drain()))
            return int((seen["source"] == Source.ENERGY_COUNTER).sum())

        first = wait_until(counter_reads)
        sampler.mark()
        wait_until(lambda: counter_reads() > first)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (replace(FAST, power_period_ms=0.0), "power_period"),
        (replace(FAST, buffer_mib_per_gpu=2000), "1 GiB at most"),
    ],
)
def test_a_plan_that_cannot_be(plan: PowerConfig, said: str, session: NvmlSession) -> None:
    with pytest.raises(ValueError, match=said):
        PowerSampler([0], session, plan)
    with PowerSampler([0], session, FAST) as sampler:  # the connection is good for another one
        wait_until(lambda: len(sampler.drain()))


def test_two_clients_sample_at_once_and_one_that_takes_nothing_stops_nobody(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "TRANSFER_LIMIT_S", 1.0)
    accept = wire.accept

    def with_little_room(connection: socket.socket, *args: Any, **options: Any) -> wire.Channel:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return accept(connection, *args, **options)

    monkeypatch.setattr(wire, "accept", with_little_room)
    hanging = raw(listening)
    hanging._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    uuid = listening.session.gpus()[0].uuid
    with attach_session(listening.address) as session, PowerSampler([1], session, FAST) as sampler:
        plan = {
            "energy_counter_period_ns": 500_000, "power_period_ns": 500_000, "samples_period_ns": 500_000,
            "status_period_ns": 500_000, "heartbeat_ns": 500_000, "capacity_events": 100_000, "usage_beside_average": True,
        }  # fmt: skip
        asked(hanging, op="sample", uuids=[uuid], plan=plan)
        asked(hanging, op="start")
        wait_until(lambda: any("cannot send" in line for line in listening.said))
        seen_ns = time.monotonic_ns()
        wait_until(lambda: (sampler.drain()["t0_ns"] > seen_ns).any())
        assert sampler.failure is None
    hanging.close()
    assert sampler.health()[0]["dropped_events"] == 0


def test_what_nobody_fetches_is_dropped_and_counted(session: NvmlSession) -> None:
    sampler = PowerSampler([0], session, FAST)
    threads = sampler._native
    assert isinstance(threads, client.RemoteThreads)
    threads._capacity = 10
    with sampler:
        wait_until(lambda: threads._dropped > 10)
    trace, dropped = sampler.trace(), sampler.health()[0]["dropped_events"]
    assert len(trace) <= 10
    assert dropped > 10
    assert sampler.health()[0]["events"] == len(trace) + dropped


# -- the end of a connection


def test_a_listener_that_is_ended_is_told_with_what_came_until_then(listening: Listening) -> None:
    with attach_session(listening.address) as session:
        sampler = PowerSampler([0], session, FAST)
        sampler.start()
        wait_until(lambda: len(sampler.latest()[0]))
        listening.listener.stop()
        failure = wait_until(lambda: sampler.failure)
        assert failure.reason == LOST
        assert "the listener there was ended" in str(failure)
        assert not sampler.stop()
        assert len(sampler.drain())
        assert sampler.health()[0]["uuid"] == sampler.gpu_uuids[0]
        assert sampler.clock is not None
        sampler.mark()  # harms nobody
        with pytest.raises(NotStartedError, match="was lost: the listener there was ended"):
            session.gpus()


def test_a_silent_listener_is_given_up(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_LIMIT_S", 0.5)
    with attach_session(listening.address) as session:
        sampler = PowerSampler([0], session, FAST)
        sampler.start()
        assert sampler.failure is None
        silent = threading.Event()
        monkeypatch.setattr(listener._Client, "_answer", lambda *_: silent.wait(60))
        failure = wait_until(lambda: sampler.failure)
        silent.set()
        assert "nothing came for 0.5 s" in str(failure)


def test_a_clock_that_jumps_spoils_the_observations(
    session: NvmlSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where this machine was suspended for 10 s: CLOCK_MONOTONIC stands still meanwhile, and the other one's goes on."""
    with PowerSampler([0], session, FAST) as sampler:
        wait_until(lambda: len(sampler.drain()))
        assert sampler.failure is None
        answer = listener._Client._answer

        def later(self: Any, message: dict[str, Any]) -> None:
            if message.get("op") != "ping":
                answer(self, message)
                return
            stamps = {"s1_ns": self._channel.received_ns + 10**10, "s2_ns": time.monotonic_ns() + 10**10}
            self._channel.send({"id": message["id"], "c0_ns": message["c0_ns"], **stamps})

        monkeypatch.setattr(listener._Client, "_answer", later)
        failure = wait_until(lambda: sampler.failure)
        assert failure.reason == CLOCKS
        assert "suspended" in str(failure)


@pytest.mark.parametrize(
    ("changes", "payload"),
    [
        ({"events": 2}, np.zeros(1, EVENT_DTYPE)),
        ({"events": "many"}, np.zeros(1, EVENT_DTYPE)),
        ({"latest": None}, np.zeros(1, EVENT_DTYPE)),
        ({"end_ns": "now"}, np.zeros(1, EVENT_DTYPE)),
        ({}, np.array([(0, 0, 0, 0, 0, 0, 0, 7)], EVENT_DTYPE)),
        ({}, np.array([(0, 0, 0, 0, 0, 0, 99, 0)], EVENT_DTYPE)),
    ],
    ids=["fewer than it says", "no number", "no values", "no time", "another GPU", "another source"],
)
def test_a_batch_that_makes_no_sense_ends_the_connection(
    changes: dict[str, Any], payload: np.ndarray, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    with attach_session(listening.address) as session, PowerSampler([0], session, FAST) as sampler:

        def push(self: Any) -> None:
            header = {"events": 1, "end_ns": time.monotonic_ns(), "latest": [{}], **changes}
            self._channel.send(header, payload.tobytes())

        monkeypatch.setattr(listener._Client, "_push", push)
        failure = wait_until(lambda: sampler.failure)
        assert failure.reason == LOST


# -- who may come


def test_a_wrong_secret_is_refused_with_what_to_do(
    listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wire.SECRET_ENV, "not the right secret")
    with pytest.raises(NotStartedError, match=r"another secret; use the same sampler\.secret") as error:
        attach_session(listening.address)
    assert "not the right" not in str(error.value)
    wait_until(lambda: any("refused" in line for line in listening.said))
    assert not any(SECRET in line for line in listening.said)


def said_by_a_server(message: bytes) -> str:
    """What a session says where somebody answers with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(message)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NotStartedError) as error:
            attach_session(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
        return str(error.value)


def test_nobody_something_else_and_another_version_are_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NotStartedError, match=r"no wattcount sampler answers .* wattcount sampler --listen"):
        attach_session(f"127.0.0.1:{port}")
    assert "no greeting of a wattcount sampler" in said_by_a_server(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    newer = json.dumps({"wattcount": "sampler", "protocol": wire.PROTOCOL + 1, "nonce": "00" * 32}).encode()
    said = said_by_a_server(len(newer).to_bytes(4, "big") + newer)
    assert "install the same version of wattcount on both machines" in said


def test_more_clients_than_it_takes(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MOST_CLIENTS", 1)
    with attach_session(listening.address), pytest.raises(NotStartedError, match="as many clients"):
        attach_session(listening.address)
    wait_until(lambda: any("left" in line for line in listening.said))
    attach_session(listening.address).close()


def test_who_says_nothing_keeps_nobody_out(listening: Listening) -> None:
    silent = [
        socket.create_connection(("127.0.0.1", listening.listener.port)) for _ in range(listener.MOST_CLIENTS)
    ]
    attach_session(listening.address).close()
    for connection in silent:
        connection.close()


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"op": "unheard_of"},
        {"op": ["list"]},
        {"op": "device_info"},
        {"op": "device_info", "uuid": 5},
        {"op": "sample"},
        {"op": "sample", "uuids": 5, "plan": {}},
        {"op": "sample", "uuids": [], "plan": {"capacity_events": "x"}},
        {"op": "sample", "uuids": ["GPU-none"], "plan": {"capacity_events": 1}},
        {"op": "serving"},
        {"op": "serving", "url": "http://[::1"},
        {"op": "serving", "url": "http://here:99999999"},
        {"op": "start"},
        {"op": "mark"},
        {"op": "stop"},
        {"op": "stop", "limit_ns": 10**40},
        {"op": "lock", "uuid": "../../etc/passwd"},
        {"op": "lock", "uuid": "GPU-none", "purpose": {}},
        {"op": "is_free", "uuid": "../x"},
    ],
    ids=str,
)
def test_a_client_that_asks_for_nonsense_gets_an_error_and_may_go_on(
    message: dict[str, Any], listening: Listening
) -> None:
    channel = raw(listening)
    assert "error" in asked(channel, **message)
    assert asked(channel, op="device_uuids")["result"] == listening.session.native.device_uuids()
    channel.close()


# -- one run a GPU


def test_a_gpu_is_locked_there_for_runs_from_here_and_there(
    listening: Listening, session: NvmlSession
) -> None:
    gpus = session.gpus()
    told: list[str] = []
    with gpus_locked(gpus[:1], "first", 0.0, told.append, session.remote) as descriptors:
        assert descriptors == []
        assert not is_free(gpus[0].uuid)
        assert not is_free(gpus[0].uuid, session.remote)
        assert is_free(gpus[1].uuid, session.remote)
        with (
            pytest.raises(NotStartedError, match=r"measured by another run .*first, for another machine"),
            gpus_locked(gpus[:1], "on that host", 0.0, told.append),
        ):
            pass
        with attach_session(listening.address) as second:
            with (
                pytest.raises(NotStartedError, match=r"measured by another run .*first, for another machine"),
                gpus_locked(gpus, "second", 0.0, told.append, second.remote),
            ):
                pass
            with gpus_locked(gpus[1:], "second", 0.0, told.append, second.remote):
                pass
    assert is_free(gpus[0].uuid)


def test_a_lock_is_free_when_its_client_is_gone(listening: Listening) -> None:
    remote = RemoteNvml(listening.address)
    uuid = remote.device_uuids()[0]
    assert remote.lock(uuid, "a run that dies") is None
    assert remote.lock(uuid, "again, by the one that has it") is None
    assert not is_free(uuid)
    remote.close()
    wait_until(lambda: is_free(uuid))
    assert not remote.unlock(uuid)


def test_a_lock_that_was_lost_with_the_connection_is_told(session: NvmlSession) -> None:
    told: list[str] = []
    assert session.remote is not None
    with gpus_locked(session.gpus()[:1], "a run", 0.0, told.append, session.remote):
        session.remote.close()
    (line,) = told
    assert "was lost, and the lock with it" in line
