"""Rules of physics: real records break none, forged ones do, and each for its own reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.dataset.forging import bench_forgers, forgers
from wattcount.dataset.checks_physics import KNOWN
from wattcount.dataset.rules import RULES, Severity, Submitted
from wattcount.records import Record

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "data/campaign/records/01ab58f309fb/r0-20261127-175358-013-5e17c9"
REAL = sorted(ROOT.glob("data/*/records/*/*/run.json"))[3::35]


@pytest.fixture
def server() -> Record:
    return Record.open(SERVER)


def forged(name: str, record: Record, other: Record | None = None) -> dict[str, Severity]:
    case = forgers.Case(record, other or record, np.random.default_rng(1))
    made = forgers.FORGERS[name].forge(case)
    assert made is not None
    found: dict[str, Severity] = bench_forgers.broken(made)
    return found


@pytest.mark.parametrize("file", REAL, ids=lambda file: file.parent.name)
def test_a_real_record_breaks_no_rule(file: Path) -> None:
    assert bench_forgers.broken(Record.open(file.parent)) == {}


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("scaled_counter_10", "physics/counter_against_ring"),
        ("scaled_counter_2", "physics/counter_against_ring"),
        ("scaled_all_10", "physics/converter_steps"),
        ("scaled_all_2", "physics/converter_gain"),
        ("stretched_5", "physics/ring_period"),
        ("stretched_resampled_5", "physics/converter_steps"),
        ("shifted_3s", "physics/power_follows_steps"),
        ("spliced_4s", "novelty/stretch_twice"),
        ("more_requests", "novelty/requests_twice"),
        ("smoothed", "physics/converter_steps"),
        ("emulator", "physics/converter_steps"),
        ("lower_board", "physics/idle_floor"),
        ("more_tokens", "physics/tokens_by_steps"),
    ],
)
def test_a_forger_is_caught(server: Record, name: str, code: str) -> None:
    assert forged(name, server).get(code) == Severity.reject


def test_idle_power_under_the_steps_of_a_large_model_is_caught() -> None:
    (batch,) = ROOT.glob("data/campaign/records/951d827561a4/r1-*")
    found = forged("spliced_4s", Record.open(batch))
    assert found["physics/idle_under_work"] == Severity.reject


def test_another_run_under_the_requests_of_this_one_is_caught(server: Record) -> None:
    other = Record.open(REAL[2].parent)
    assert forged("another_run", server, other)["physics/power_follows_steps"] == Severity.reject


def test_what_is_not_caught_is_known(server: Record) -> None:
    """Written down in docs/forgeries.md; a rule that catches one of these belongs there."""
    assert Severity.reject not in forged("scaled_onto_ladder_10", server).values()
    assert Severity.reject not in forged("more_requests_jittered", server).values()


def test_a_sensor_that_nobody_has_learnt_is_told_and_not_judged(server: Record) -> None:
    made = forgers.FORGERS["scaled_all_10"].forge(forgers.Case(server, server, np.random.default_rng(1)))
    made.info.gpus[0]["name"] = "NVIDIA B200"
    assert "NVIDIA B200" not in KNOWN
    assert bench_forgers.broken(made) == {"physics/unknown_sensor": Severity.warn}


def test_a_driver_that_the_sensor_was_not_seen_with_leaves_the_judgement_to_a_person(server: Record) -> None:
    made = forgers.FORGERS["scaled_all_10"].forge(forgers.Case(server, server, np.random.default_rng(1)))
    made.info.nvml["driver_version"] = "700.1"
    found = bench_forgers.broken(made)
    assert found["physics/converter_steps"] == Severity.flag
    assert Severity.reject not in found.values()


def test_what_does_not_claim_to_be_measured_has_nothing_to_prove(server: Record) -> None:
    made = forgers.FORGERS["emulator"].forge(forgers.Case(server, server, np.random.default_rng(1)))
    made.info.evidence = "emulated"
    assert bench_forgers.broken(made) == {}


def test_a_counter_that_falls_is_rejected(server: Record) -> None:
    events = server.power.events.copy()
    reads = np.flatnonzero(events["source"] == 0)
    reads = reads[np.argsort(events["t0_ns"][reads])]
    events["value"][reads[40]] = events["value"][reads[10]]
    found = bench_forgers.broken(forgers.with_events(server, events))
    assert found["physics/counter_monotone"] == Severity.reject


def test_calls_of_another_machine_are_flagged(server: Record) -> None:
    events = server.power.events.copy()
    reads = events["source"] == 0
    events["t1_ns"][reads] = events["t0_ns"][reads] + 30_000
    assert (
        bench_forgers.broken(forgers.with_events(server, events))["physics/call_durations"] == Severity.flag
    )


def test_requests_of_one_batch_that_are_stamped_once_a_step_are_no_copies(server: Record) -> None:
    requests = server.requests
    longest = int(np.argmax(requests["output_tokens"].to_numpy()))
    twice = requests.take([longest, longest])
    assert (
        bench_forgers.broken(forgers.with_tables(server, twice, server.steps)).get("novelty/requests_twice")
        is None
    )


def test_a_forged_record_is_whole_on_the_disk(server: Record, tmp_path: Path) -> None:
    """Its files agree with each other, so that only physics tells."""
    made = forgers.FORGERS["scaled_all_2"].forge(forgers.Case(server, server, np.random.default_rng(1)))
    there = forgers.written(made, tmp_path / "r0")
    there.verify()
    share = there.metrics["metrics"]["energy/gpu_j"] / server.metrics["metrics"]["energy/gpu_j"]
    assert share == pytest.approx(0.98, abs=0.002)
    rule = RULES["physics/converter_gain"]
    (breach,) = rule.check(Submitted(tmp_path / "r0"))
    assert "7.5" in breach.message
