"""Sessions, facts and the choice of GPUs, over the emulated library."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.errors import NotStartedError
from wattcount.gpu import _native
from wattcount.gpu.nvml import GpuFacts, attach_session, open_session, visible_gpus

Machines = Callable[..., EmulatedMachine]
EMULATED = PowerConfig(backend=PowerBackend.emulated)


def test_auto_without_a_driver_is_emulated_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", "/nonexistent/libnvidia-ml.so.1")
    with open_session(PowerConfig(), GpuConfig()) as session:
        assert session.evidence == "emulated"
        assert [gpu.name for gpu in session.gpus()] == ["NVIDIA H200"]


def test_auto_does_not_emulate_a_gpu_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", "/nonexistent/libnvidia-ml.so.1")
    with pytest.raises(NotStartedError, match="power=emulated gpu=a100"):
        open_session(PowerConfig(), GpuConfig(name="a100"))
    with pytest.raises(NotStartedError, match="could not be loaded"):
        open_session(PowerConfig(backend=PowerBackend.nvml), GpuConfig())


def test_evidence_comes_from_the_library_not_from_the_config(machine: Machines) -> None:
    machine()
    with open_session(PowerConfig(backend=PowerBackend.nvml), GpuConfig()) as session:
        assert session.evidence == "emulated"


def test_the_library_is_identified(machine: Machines) -> None:
    machine()
    with attach_session() as session:
        library = session.library
    assert Path(library["path"]).name == "libnvidia-ml.so.1"
    assert len(library["sha256"]) == 64
    assert library["driver_version"]
    assert library["missing_symbols"] == []


def test_facts_are_complete_and_absent_ones_are_none(machine: Machines) -> None:
    machine("v100")
    with attach_session() as session:
        (gpu,) = session.gpus()
    assert gpu.name == "Tesla V100-SXM2-32GB"
    assert gpu.architecture == "Volta"
    assert gpu.compute_capability == "7.0"
    assert gpu.power_limit_enforced_mw == 300_000
    assert gpu.serial is None
    assert not gpu.shares_power
    assert replace(gpu, mig_mode=1).shares_power
    assert replace(gpu, virtualization_mode=2).shares_power
    assert gpu.to_json()["memory_total_bytes"] == gpu.memory_total_bytes


def test_gpus_are_chosen_by_model_count_index_and_uuid(machine: Machines) -> None:
    machine("h200", "a100", "h200")
    h200 = GpuConfig(name="h200", nvml_names=["NVIDIA H200"])
    with attach_session() as session:
        first, second, third = session.gpus()
        assert session.select(GpuConfig()) == [first]
        assert session.select(replace(h200, count=2)) == [first, third]
        assert session.select(replace(h200, devices=["2"])) == [third]
        assert session.select(GpuConfig(devices=[second.uuid])) == [second]
        with pytest.raises(NotStartedError, match=r"gpu=h200 gpu\.count=3, but this machine has"):
            session.select(replace(h200, count=3))
        with pytest.raises(NotStartedError, match="use gpu=auto"):
            session.select(replace(h200, devices=["1"]))
        with pytest.raises(NotStartedError, match="no GPU '7' here"):
            session.select(GpuConfig(devices=["7"]))
        with pytest.raises(NotStartedError, match="twice"):
            session.select(GpuConfig(devices=["0", first.uuid]))


@pytest.mark.parametrize(
    ("code", "words"), [(9, "Load the NVIDIA driver"), (4, "read access"), (18, "reboot")]
)
def test_nvml_errors_at_the_start_say_what_to_do(machine: Machines, code: int, words: str) -> None:
    made = machine()
    config = json.loads(made.config_path.read_text())
    made.config_path.write_text(json.dumps({**config, "init_error": code}))
    with pytest.raises(NotStartedError, match=words):
        attach_session()
    with pytest.raises(_native.NvmlError) as caught:
        _native.Nvml()
    assert (caught.value.code, caught.value.function) == (code, "nvmlInit")


def test_a_machine_that_cannot_be_read_fails_before_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machines
) -> None:
    library = machine().library_path
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    monkeypatch.setenv("WATTCOUNT_NVML_EMULATOR", str(bad))
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", library)
    with pytest.raises(NotStartedError, match="nvmlInit failed"):
        attach_session()


def test_a_library_that_was_emulated_is_not_taken_for_the_real_one_afterwards() -> None:
    """Points of a sweep follow each other in one process; each has its own machine."""
    code = """
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.gpu import _native
from wattcount.gpu.nvml import open_session
seen = []
for name in ("a100", "l4", "a100"):
    with open_session(PowerConfig(backend=PowerBackend.emulated), GpuConfig(name=name)) as session:
        seen.append(session.gpus()[0].name)
print(seen)
try:
    print(_native.Nvml().emulated)
except (_native.NvmlLibraryNotFound, _native.NvmlError) as error:
    print(False)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WATTCOUNT_NVML")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    names, emulated = done.stdout.splitlines()
    assert names.count("A100") == 2
    assert "L4" in names
    assert emulated == "False"


def test_emulated_sessions_leave_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_PATH", raising=False)
    session = open_session(EMULATED, GpuConfig(name="l4", emulator_profile="l4"))
    assert session.gpus()[0].name == "NVIDIA L4"
    folder = session.machine.folder if session.machine else None
    assert os.environ["WATTCOUNT_NVML_PATH"]
    session.close()
    session.close()
    assert "WATTCOUNT_NVML_PATH" not in os.environ
    assert folder is not None
    assert not folder.exists()


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
