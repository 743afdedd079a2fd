from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from wattcount.clock import now_ns
from wattcount.config.schema import GpuConfig
from wattcount.emulation import activity
from wattcount.emulation.activity import EmulatedActivity
from wattcount.engines.base import EngineStep

GPU = GpuConfig(name="h200", tdp_w=700.0, idle_w=80.0)


def step(running: int, *, prefill: int = 0, decode: int = 0, waiting: int = 0) -> EngineStep:
    return EngineStep(now_ns(), None, 1_000_000, prefill, decode, running, waiting, 0.1)


@pytest.fixture
def following(emulated: Any) -> EmulatedActivity:
    emulated()
    made = EmulatedActivity.attach(GPU)
    assert made is not None
    return made


def powers(of: EmulatedActivity, tmp_path: Path) -> list[float]:
    of.save(tmp_path / "truth.csv")
    lines = (tmp_path / "truth.csv").read_text().splitlines()
    assert lines[0] == "t_ns,power_mw"
    times = [int(line.split(",")[0]) for line in lines[1:]]
    assert times == sorted(times)
    return [int(line.split(",")[1]) / 1e3 for line in lines[1:]]


def test_power_rises_with_the_work_and_falls_when_it_is_done(
    following: EmulatedActivity, tmp_path: Path
) -> None:
    following.engine_up()
    following.on_step(step(1, decode=1))
    following.on_step(step(64, decode=64))
    following.on_step(step(64, prefill=4096, decode=64))
    following.on_step(step(0, decode=1))  # the last token of the last request
    *_, bare, loaded, one, many, prefill, after = powers(following, tmp_path)
    assert bare == 80.0
    assert bare < loaded < one < many < prefill < 700.0
    assert after == loaded


def test_waiting_requests_keep_it_busy(following: EmulatedActivity, tmp_path: Path) -> None:
    following.engine_up()
    following.on_step(step(0, decode=1, waiting=3))
    assert powers(following, tmp_path)[-1] > powers(following, tmp_path)[-2]


def test_an_engine_that_takes_no_step_idles(
    following: EmulatedActivity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following.engine_up()
    (*_, loaded) = powers(following, tmp_path)
    following.on_step(step(8, decode=8))
    following.check_stall()
    busy = powers(following, tmp_path)
    monkeypatch.setattr(activity, "STALL_NS", -1)
    following.check_stall()
    following.check_stall()
    assert powers(following, tmp_path) == [*busy, loaded]


def test_gpus_with_curves_of_their_own_are_left_alone(tmp_path: Path) -> None:
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    (tmp_path / "curve.csv").write_text("t_s,power_w\n0,100\n")
    with EmulatedMachine([EmulatedGpu("h200", truth=str(tmp_path / "curve.csv"))], tmp_path / "machine"):
        assert EmulatedActivity.attach(GPU) is None


def test_runs_on_two_gpus_of_one_machine_leave_each_other_alone(tmp_path: Path) -> None:
    from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine

    gpus = [EmulatedGpu("h200", uuid="GPU-a"), EmulatedGpu("h200", uuid="GPU-b")]
    with EmulatedMachine(gpus, tmp_path / "machine"):
        made = [EmulatedActivity.attach(dataclasses.replace(GPU, devices=[gpu.uuid])) for gpu in gpus]
        for following in made:
            assert following is not None
            following.engine_up()
            following.on_step(step(64, decode=64))


def test_without_an_emulated_machine_there_is_nothing_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_EMULATOR", raising=False)
    assert EmulatedActivity.attach(GPU) is None


def test_a_second_writer_goes_on_where_the_first_one_was(emulated: Any, tmp_path: Path) -> None:
    """Two runs on one emulated machine: what read the first one's curve reads the second one's too."""
    from wattcount.gpu.nvml import attach_session

    emulated()
    first = EmulatedActivity.attach(GPU)
    assert first is not None
    first.engine_up()
    with attach_session() as session:
        assert session.gpus()
        second = EmulatedActivity.attach(GPU)
        assert second is not None
        second.on_step(step(64, decode=64))
        assert powers(second, tmp_path)[-1] > powers(second, tmp_path)[-2] == 80.0
        from wattcount.gpu import PowerSampler

        with PowerSampler(session=session) as sampler:
            assert (sampler.latest_power_w() or 0) > 0
