"""What a configuration becomes on a machine, as a value beside what was asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config import changed, compose
from wattcount.config.schema import Device
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.gpu.nvml import GpuFacts, attach_session
from wattcount.run.resolve import Files, InstalledEngine, Machine, resolve

TINY = InstalledEngine(Device.cpu, {}, None)


@pytest.fixture
def gpus(tmp_path: Path) -> tuple[GpuFacts, ...]:
    kinds = [EmulatedGpu("h100"), EmulatedGpu("l4")]
    with EmulatedMachine(kinds, tmp_path / "machine"), attach_session() as session:
        return tuple(session.usable())


def test_what_was_asked_stays_as_it_was(gpus: tuple[GpuFacts, ...]) -> None:
    asked = compose(["engine=tiny", "model=auto"])
    found = resolve(asked, Machine("emulated", gpus[:1], TINY))
    assert found.asked is asked
    assert found.problems == ()
    assert (asked.model.name, found.config.model.name) == ("auto", "tiny")
    assert found.config.gpu.name.startswith("h100")
    otherwise = found.asked_otherwise()
    assert otherwise["model.name"] == otherwise["gpu.name"] == otherwise["engine.device"] == "auto"
    assert otherwise["evidence"] is None
    assert "scenario.window_s" not in otherwise


def test_of_another_machine_only_what_the_data_sheet_says_is_known() -> None:
    asked = compose(["model=llama3_8b", "gpu=h100", "engine=vllm", "scenario=server"])
    found = resolve(asked, Machine("measured")).config
    assert found.engine.max_num_seqs == 1024
    assert "max_num_seqs" in found.engine.unset
    assert found.engine.device is Device.auto
    assert found.gpu == asked.gpu


def test_gpus_of_two_models_are_a_problem_and_no_error(gpus: tuple[GpuFacts, ...]) -> None:
    found = resolve(compose(["engine=tiny", "model=tiny"]), Machine("emulated", gpus, TINY))
    assert [problem.split(":")[0] for problem in found.problems] == ["gpu.count"]


def test_an_engine_that_is_not_installed_is_a_problem_and_no_error() -> None:
    lacking = InstalledEngine(Device.auto, {}, "it is not installed")
    found = resolve(compose(["model=llama3_8b"]), Machine("measured", (), lacking))
    assert found.problems == ("it is not installed",)
    assert found.config.engine.device is Device.auto


def test_a_file_is_read_once_for_all_points_of_a_plan(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.0000000,10,5\n")
    asked = compose(
        ["engine=tiny", "model=tiny", "scenario.arrivals.kind=trace", f"scenario.arrivals.path={trace}"]
    )
    machine = Machine("emulated", (), TINY, Files())
    first = resolve(asked, machine).config.scenario.arrivals
    assert first.fingerprint is not None
    trace.unlink()
    again = resolve(changed(asked, {"seed": 1}), machine)
    assert again.config.scenario.arrivals == first
    gone = resolve(asked, Machine("emulated", (), TINY))
    assert [str(trace) in problem for problem in gone.problems] == [True]
