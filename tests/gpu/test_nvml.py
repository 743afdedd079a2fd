"""Sessions, facts and the choice of GPUs, over the emulated library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.emulation.machine import EmulatedMachine
from wattcount.errors import NotStartedError
from wattcount.gpu import _native
from wattcount.gpu.nvml import attach_session, open_session

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
