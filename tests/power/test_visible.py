from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.errors import NotStartedError
from wattcount.power.emulation import EmulatedGpu, EmulatedMachine
from wattcount.power.nvml import GpuFacts, open_session
from wattcount.power.visible import visible_gpus

NONE = dict.fromkeys(field.name for field in dataclasses.fields(GpuFacts))


def gpu(index: int, uuid: str) -> GpuFacts:
    return GpuFacts(**(NONE | {"uuid": uuid, "index": index, "name": "NVIDIA L4"}))


THERE = [gpu(0, "GPU-aa00"), gpu(1, "GPU-aa11"), gpu(2, "GPU-bb22")]


@pytest.mark.parametrize(
    ("environment", "indices"),
    [
        ({}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": ""}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa11"}, [1]),
        ({"CUDA_VISIBLE_DEVICES": "GPU-bb"}, [2]),
        ({"CUDA_VISIBLE_DEVICES": "MIG-0123"}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_GPUS": "2"}, [1]),
        ({"SLURM_JOB_GPUS": "2"}, [2]),
        ({"SLURM_JOB_GPUS": "1,2", "SLURM_STEP_GPUS": "1"}, [1]),
        # Of eight GPUs this job got three, and sees only those.
        ({"SLURM_JOB_GPUS": "5,6,7"}, [0, 1, 2]),
    ],
)
def test_the_environment_says_which_gpus_a_process_may_use(
    environment: dict[str, str], indices: list[int]
) -> None:
    assert [found.index for found in visible_gpus(THERE, environment)] == indices


@pytest.mark.parametrize("value", ["NoDevFiles", "-1"])
def test_a_job_that_got_no_gpu_is_told_to_ask_for_one(value: str) -> None:
    with pytest.raises(NotStartedError, match="gave this job no GPU: ask it for one"):
        visible_gpus(THERE, {"CUDA_VISIBLE_DEVICES": value})


def test_a_gpu_that_nvml_does_not_show_is_told_with_those_it_shows() -> None:
    with pytest.raises(NotStartedError, match="CUDA_VISIBLE_DEVICES=7: NVML shows 0: GPU-aa00"):
        visible_gpus(THERE, {"CUDA_VISIBLE_DEVICES": "7"})


def test_a_run_uses_the_gpu_its_job_got(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = PowerConfig(backend=PowerBackend.nvml)
    with EmulatedMachine([EmulatedGpu("l4"), EmulatedGpu("l4")], tmp_path) as machine:
        first, second = machine.live
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
        with open_session(nvml, GpuConfig()) as session:
            assert [found.uuid for found in session.select(GpuConfig())] == [second]
            with pytest.raises(NotStartedError, match="this process may only use 1: "):
                session.select(GpuConfig(count=2))
            # Whoever names a GPU gets that one.
            assert [found.uuid for found in session.select(GpuConfig(devices=[first]))] == [first]


def test_a_machine_that_was_made_for_a_run_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    emulated = GpuConfig(name="l4", nvml_names=["NVIDIA L4"])
    with open_session(PowerConfig(backend=PowerBackend.emulated), emulated) as session:
        assert len(session.select(emulated)) == 1
