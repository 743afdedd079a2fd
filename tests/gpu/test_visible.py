from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, open_session
from wattcount.gpu.visible import visible_gpus

NONE = dict.fromkeys(field.name for field in dataclasses.fields(GpuFacts))


def gpu(index: int, uuid: str) -> GpuFacts:
    return GpuFacts(**(NONE | {"uuid": uuid, "index": index, "name": "NVIDIA L4"}))


THERE = [gpu(0, "GPU-aa00"), gpu(1, "GPU-aa11"), gpu(2, "GPU-bb22")]


@pytest.mark.parametrize(
    ("environment", "indices"),
    [
        ({}, [0, 1, 2]),
        ({"SLURM_JOB_GPUS": "2"}, [2]),
        ({"SLURM_JOB_GPUS": "1,2", "SLURM_STEP_GPUS": "1"}, [1]),
        # Of eight GPUs this job got three, and sees only those.
        ({"SLURM_JOB_GPUS": "5,6,7"}, [0, 1, 2]),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_JOB_GPUS": "2"}, [1]),
    ],
)
def test_the_environment_says_which_gpus_a_process_may_use(
    environment: dict[str, str], indices: list[int]
) -> None:
    assert [found.index for found in visible_gpus(THERE, environment)] == indices


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        ("2,0", [2, 0]), (" 0", [0]), ("0 ,1", [0, 1]), ("0, 1", [0, 1]),
        ("0,-1", [0]), ("0,-1,1", [0]), ("0,9", [0]), ("0,9,1", [0]), ("0,,1", [0]), ("0,", [0]), ("0,none", [0]),
        ("0,GPU-aa11", [0]), ("GPU-aa11,0", [1]), ("0,MIG-x", [0]),
        ("GPU-aa11", [1]), ("GPU-AA11", [1]), ("GPU-bb", [2]), ("GPU-aa11 ", [1]), ("GPU-bb22,GPU-zz,GPU-aa00", [2]),
    ],
)  # fmt: skip
def test_cuda_visible_devices_means_what_cuda_makes_of_it(value: str, indices: list[int]) -> None:
    found = visible_gpus(THERE, {"CUDA_VISIBLE_DEVICES": value, "SLURM_JOB_GPUS": "0"})
    assert [gpu.index for gpu in found] == indices


@pytest.mark.parametrize("value", ["", " ", "NoDevFiles", "-1", "-1,0", "none", "void"])
def test_a_job_that_got_no_gpu_is_told_to_ask_for_one(value: str) -> None:
    with pytest.raises(NotStartedError, match="gave this job no GPU: ask it for one"):
        visible_gpus(THERE, {"CUDA_VISIBLE_DEVICES": value, "SLURM_JOB_GPUS": "2"})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("7", "CUDA has no GPU; NVML shows 0: GPU-aa00"), ("9,0", "CUDA has no GPU"), (",0", "CUDA has no GPU"),
        ("a", "CUDA has no GPU"), ("all", "CUDA has no GPU"), ("GPU-", "CUDA has no GPU"), (" GPU-aa11", "CUDA has no"),
        ("gpu-aa11", "CUDA has no GPU"), ("GPU-zz,GPU-aa11", "CUDA has no GPU"),
        ("0,0", "names a GPU twice"), ("0,1,0", "names a GPU twice"), ("GPU-aa11,GPU-aa1", "names a GPU twice"),
        ("GPU-aa", "GPU-aa is the beginning of several UUIDs: 0: GPU-aa00, 1: GPU-aa11"),
        ("GPU-bb22,GPU-aa", "is the beginning of several"),
        ("MIG-0123", "an instance of MIG has no power of its own"), ("MIG-GPU-aa11/1/0", "an instance of MIG"),
        ("GPU-aa11,MIG-0123", "an instance of MIG"),
        ("1a", "'1a' is no number of a GPU"), ("01", "is no number"), ("+1", "is no number"), ("0x1", "is no number"),
        ("1.5", "is no number"), ("0 1", "is no number"), ("0,1;2", "is no number"), ("4294967297", "CUDA has no GPU"),
    ],
)  # fmt: skip
def test_what_names_no_gpu_or_not_for_certain_is_refused(value: str, said: str) -> None:
    with pytest.raises(NotStartedError) as caught:
        visible_gpus(THERE, {"CUDA_VISIBLE_DEVICES": value})
    assert str(caught.value).startswith(f"CUDA_VISIBLE_DEVICES={value}: ")
    assert said in str(caught.value)


def test_a_gpu_of_slurm_that_nvml_does_not_show_is_told_with_those_it_shows() -> None:
    with pytest.raises(NotStartedError, match="SLURM_JOB_GPUS=7: NVML shows 0: GPU-aa00"):
        visible_gpus(THERE, {"SLURM_JOB_GPUS": "7"})


def test_numbers_among_different_models_must_be_in_the_order_of_nvml() -> None:
    mixed = [*THERE, GpuFacts(**(NONE | {"uuid": "GPU-cc33", "index": 3, "name": "NVIDIA H100"}))]
    with pytest.raises(NotStartedError, match="by a number CUDA may mean another GPU than NVML"):
        visible_gpus(mixed, {"CUDA_VISIBLE_DEVICES": "3"})
    in_order = {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert [found.index for found in visible_gpus(mixed, in_order)] == [3]
    assert [found.index for found in visible_gpus(mixed, {"CUDA_VISIBLE_DEVICES": "GPU-cc"})] == [3]


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
