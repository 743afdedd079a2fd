"""Whole runs whose GPU is another machine's: two processes, two clocks, one socket between them."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from echo_server import Behaviour, EchoServer
from remote_machine import APART_S, HIGH_W, LOW_W, SECRET, Elsewhere, Proxy, elsewhere
from witness import Witness

from wattcount.config.loader import changed
from wattcount.config.schema import EngineConfig, ModelConfig, PowerBackend, RunConfig, Weights
from wattcount.errors import NotStartedError, WattcountError
from wattcount.gpu.remote import wire
from wattcount.gpu.remote.client import LOST, RemoteNvml
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.run.orchestrate import Outcome, run_point

__all__ = ["elsewhere"]
pytestmark = pytest.mark.timeout(180)
Tiny = Callable[..., RunConfig]


@pytest.fixture
def proxy(elsewhere: Elsewhere) -> Iterator[Proxy]:
    made = Proxy(elsewhere.port)
    yield made
    made.close()


def measured(cfg: RunConfig, address: str, witness: Witness, **changes: Any) -> Outcome:
    return run_point(changed(cfg, {"power.remote": address, **changes}), witness)


def check_energy(record: Record, elsewhere: Elsewhere) -> None:
    """The window's energy is the truth within its interval, and the clocks' difference within its bound."""
    clock = record.info.nvml["remote"]["clock"]
    assert abs(clock["offset_ns"] - APART_S * 10**9) <= clock["bound_ns"]
    assert all(abs(apart - APART_S * 10**9) <= bound for _, apart, bound in clock["knots"])
    (window,) = [span for span in record.info.phases if span.phase is Phase.WINDOW]
    assert window.end_ns is not None
    estimate = record.power.energy(window.start_ns, window.end_ns, record.power.gpu_uuids[0])
    true_j = elsewhere.true_j(window.start_ns, window.end_ns)
    assert estimate.value_j is not None
    assert estimate.u95_method_j is not None
    assert abs(estimate.value_j - true_j) <= 1.5 * estimate.u95_method_j
    # At most what the largest step of power makes of the bound.
    assert 0 < estimate.budget_j["clock"] <= 1.96 * clock["bound_ns"] / 1e9 * (HIGH_W - LOW_W)


def test_a_run_measures_the_gpu_of_another_machine(
    elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness
) -> None:
    outcome = measured(tiny_run(window_s=2.0), elsewhere.address, witness)
    assert (outcome.exit_code, outcome.reason) == (0, None)
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    record.verify()
    info = record.info
    assert info.evidence == "emulated"
    assert info.validity.valid
    check_energy(record, elsewhere)
    remote = info.nvml["remote"]
    assert remote["address"] == elsewhere.address
    assert remote["clock"]["drift_bound"] == 1e-4
    assert f"power was read on {remote['hostname']} ({elsewhere.address}); its clock is known to " in "".join(
        info.notes
    )
    assert any("does not follow this run's load" in note for note in info.notes)
    # Readings lie in this machine's time, around the phases.
    events = record.power.events
    first = info.phases[0].start_ns
    assert first - 30 * 10**9 < events["t0_ns"].min() < first
    assert events["t1_ns"].max() > (info.phases[-1].end_ns or 0)
    metrics = record.metrics
    assert metrics is not None
    assert metrics["null_reasons"]["energy/cpu_package_j"] == "rapl_elsewhere"
    health = info.sampler[record.power.gpu_uuids[0]]
    assert (health["events"], health["dropped_events"]) == (len(events), 0)
    for file in outcome.record_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    assert not (elsewhere.listener().children())


def test_a_server_there_is_loaded_from_here(elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness) -> None:
    """What this is for: `engine=openai engine.base_url=... power.remote=...`."""
    with EchoServer(Behaviour(between_s=0.005)) as server:
        cfg = changed(
            tiny_run(window_s=2.0),
            {
                "engine": EngineConfig(name="openai", base_url=server.url, client_processes=1),
                "model": ModelConfig(name="auto", weights=Weights.random),
            },
        )
        outcome = measured(cfg, elsewhere.address, witness)
    assert (outcome.exit_code, outcome.reason) == (0, None), outcome.message
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    check_energy(record, elsewhere)
    found = record.info.engine["details"]["server"]
    assert (found["local"], found["pid"]) == (False, os.getpid())  # as the listener told
    assert record.metrics is not None
    assert record.metrics["null_reasons"]["host/spin_ms"] == "server_elsewhere"
    assert len(record.requests)


def test_a_way_that_is_slow_in_one_direction_is_within_the_bound(
    elsewhere: Elsewhere, proxy: Proxy, tiny_run: Tiny, witness: Witness
) -> None:
    proxy.there_s = 0.03
    outcome = measured(tiny_run(window_s=2.0), proxy.address, witness)
    assert outcome.exit_code == 0
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    clock = record.info.nvml["remote"]["clock"]
    assert clock["round_trip_min_ns"] > 30e6
    assert clock["bound_ns"] > 15e6
    check_energy(record, elsewhere)


def test_a_connection_that_breaks_in_the_window_leaves_an_invalid_record(
    elsewhere: Elsewhere, proxy: Proxy, tiny_run: Tiny, witness: Witness
) -> None:
    witness.when(Phase.WINDOW, lambda _: proxy.cut())
    outcome = measured(tiny_run(window_s=30.0), proxy.address, witness)
    assert (outcome.exit_code, outcome.reason) == (1, LOST)
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    record.verify()
    assert not record.info.validity.valid
    assert record.info.validity.reasons == [LOST]
    assert proxy.address in record.info.validity.messages[0]
    assert record.info.phases[-1].phase is Phase.WINDOW
    assert record.info.phases[-1].end_ns is None
    assert len(record.power.events)
    assert len(record.requests)
    clock = record.info.nvml["remote"]["clock"]
    assert abs(clock["offset_ns"] - APART_S * 10**9) <= clock["bound_ns"]
    # The listener goes on, and its GPU is free for the next run.
    assert measured(tiny_run(), elsewhere.address, Witness()).exit_code == 0


def test_a_listener_that_is_killed_in_the_window(
    elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness
) -> None:
    witness.when(Phase.WINDOW, lambda _: elsewhere.listener().kill())
    outcome = measured(tiny_run(window_s=30.0), elsewhere.address, witness)
    assert (outcome.exit_code, outcome.reason) == (1, LOST)
    assert outcome.record_path is not None
    assert not Record.open(outcome.record_path).info.validity.valid


def test_a_second_run_on_its_gpu_is_refused(elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness) -> None:
    other = RemoteNvml(elsewhere.address)
    (uuid,) = other.device_uuids()
    assert other.lock(uuid, "the first run") is None
    with pytest.raises(
        NotStartedError, match=r"measured by another run .*the first run, for another machine"
    ):
        measured(tiny_run(), elsewhere.address, witness, gpu_lock_timeout_s=0.0)
    other.close()
    assert measured(tiny_run(), elsewhere.address, witness).exit_code == 0


def test_what_does_not_go_with_another_machine_is_refused(
    elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(NotStartedError) as error:
            measured(tiny_run(), elsewhere.address, witness, **changes)
        return str(error.value)

    assert "no GPU 'GPU-none' here" in refused(**{"gpu.devices": ["GPU-none"]})
    assert "gpu.count=2" in refused(**{"gpu.count": 2})
    assert "gpu.power_limit_w: is not set on another machine" in refused(**{"gpu.power_limit_w": 300.0})
    assert "gpu.sm_clock_mhz: is not set on another machine" in refused(**{"gpu.sm_clock_mhz": 1000})
    assert "the listener there says" in refused(**{"power.backend": PowerBackend.emulated})
    monkeypatch.setenv(wire.SECRET_ENV, "guessed, and wrongly")
    assert "another secret" in refused()
    assert witness.cfg is None


def test_where_power_is_read_is_no_part_of_a_points_identity(tiny_run: Tiny) -> None:
    from wattcount.config.identity import planned_point

    assert planned_point(changed(tiny_run(), {"power.remote": "gpu7:9470"})) == planned_point(tiny_run())


def test_a_record_of_another_machine_must_say_how_well_its_clock_is_known(
    elsewhere: Elsewhere, tiny_run: Tiny, witness: Witness
) -> None:
    outcome = measured(tiny_run(), elsewhere.address, witness)
    assert outcome.record_path is not None
    file: Path = outcome.record_path / "run.json"
    content = json.loads(file.read_text())
    info = Record.open(outcome.record_path).info
    assert info.clock_bound_ns == content["nvml"]["remote"]["clock"]["bound_ns"] > 0
    assert dataclasses.replace(info, nvml={}).clock_bound_ns == 0
    for damaged in (
        None,
        {},
        {"clock": None},
        {"clock": {}},
        {"clock": {"bound_ns": "little"}},
        {"clock": {"bound_ns": None}},
    ):
        content["nvml"]["remote"] = damaged
        file.write_text(json.dumps(content))
        with pytest.raises(WattcountError, match="is damaged"):
            Record.open(outcome.record_path)
