"""`wattcount doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from wattcount import __version__
from wattcount.cli import sensors
from wattcount.cli.findings import MISSING, NOTE, OK, Report, show
from wattcount.config import paths
from wattcount.config.fit import GIB, gib
from wattcount.config.schema import Device, GpuConfig, PowerBackend, PowerConfig
from wattcount.energy import rapl
from wattcount.engines import registry
from wattcount.errors import EXIT_FAILED, EXIT_OK, NotStartedError, WattcountError
from wattcount.gpu.settings import UndoError
from wattcount.records.writer import open_folders
from wattcount.run.gpu_settings import left_behind, restore_if_free
from wattcount.run.preflight import (
    MIN_DISK_BYTES,
    available_memory_bytes,
    check_folder,
    describe_process,
)

if TYPE_CHECKING:
    from wattcount.gpu.nvml import GpuFacts, NvmlSession

SAMPLE_S = 1.3
"""How long the sensors are sampled [s]: every source is read once at its own rate (the slowest, by default, every 1.0 s)."""
PCI = Path("/sys/bus/pci/devices")
"""Where Linux lists the devices of the PCI bus."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print it as JSON, or write it to a file"
    )
    parser.add_argument(
        "--server", metavar="URL", help="say what serves there, on which GPUs, and who else uses it"
    )
    parser.add_argument(
        "--remote", metavar="HOST:PORT", help="with --server: wattcount's listener on the server's machine"
    )
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="with --server: the environment variable that holds its API key"
    )
    parser.add_argument(
        "--ca-file",
        metavar="FILE",
        help="with --server: certificates (PEM) that an https server is checked against",
    )
    sensors.add_arguments(parser)


def main(args: argparse.Namespace) -> int:
    """0: this machine can measure, or emulate. 1: something is missing that measuring needs."""
    if args.sensors and args.server is not None:
        raise NotStartedError("--sensors and --server are two questions: ask one at a time")
    if args.sensors:
        return sensors.main(args)
    if args.load or args.plot or args.emulated:
        raise NotStartedError("--load, --plot and --emulated belong to --sensors")
    if args.server is not None:
        from wattcount.cli import server

        report = server.examine(args.server, args.api_key_env, args.remote, args.ca_file)
        told = server.conclusion(report)
    elif any(asked is not None for asked in (args.api_key_env, args.remote, args.ca_file)):
        raise NotStartedError("--api-key-env, --remote and --ca-file belong to --server")
    else:
        report = examine()
        told = conclusion(report)
    if args.json is not None:
        sensors.write_json(args.json, report.to_json())
    if args.json != "-":
        show(report, told)
    return EXIT_OK if report.ok else EXIT_FAILED


def examine() -> Report:
    report = Report()
    _program(report)
    _gpus(report)
    _engines(report)
    _host(report)
    _folders(report)
    _unfinished(report)
    _rapl(report)
    return report


def _program(report: Report) -> None:
    python = platform.python_version()
    report.facts["wattcount"] = {"version": __version__, "python": python}
    report.add(OK, "wattcount", f"{__version__}, Python {python}, {platform.system()} {platform.release()}")


def _gpus(report: Report) -> None:
    from wattcount.gpu import nvml

    report.facts["gpus"] = []
    report.facts["nvml"] = None
    try:
        session = nvml.open_session(PowerConfig(backend=PowerBackend.nvml), GpuConfig())
    except NotStartedError as error:
        on_the_bus = nvidia_on_pci()
        report.facts["nvml"] = {"error": str(error), "nvidia_devices_on_pci": on_the_bus}
        if on_the_bus:
            report.add(
                MISSING,
                "NVML",
                f"{len(on_the_bus)} NVIDIA device(s) on the PCI bus ({', '.join(on_the_bus)}), but: {error}",
                "install NVIDIA's driver (525 or newer); in a container, start it with --gpus all",
            )
        else:
            report.add(
                NOTE,
                "NVML",
                "no NVIDIA GPU on the PCI bus, and no NVML library",
                "runs use the emulated NVML library; their evidence is `emulated`",
            )
        return
    try:
        library = session.library
        report.facts["nvml"] = {**library, "evidence": session.evidence}
        text = f"{library.get('path')}, driver {library.get('driver_version')}"
        if session.evidence == "emulated":
            report.add(
                NOTE, "NVML", f"{text}: the emulated library", "unset WATTCOUNT_NVML_PATH to use a real one"
            )
        else:
            report.add(OK, "NVML", text)
        _left_settings(report, session)
        gpus = session.gpus()
        if not gpus:
            report.add(
                NOTE, "GPU", "NVML finds none", "check CUDA_VISIBLE_DEVICES and the container's --gpus option"
            )
        live = _sample(session, [gpu.uuid for gpu in gpus])
        for gpu in gpus:
            _gpu(report, session, gpu, live.get(gpu.uuid))
    finally:
        session.close()


def _left_settings(report: Report, session: NvmlSession) -> None:
    """Restores clocks and power limits that killed runs have left, unless another run uses the GPU."""
    there = {gpu.uuid: gpu for gpu in session.gpus()}
    left = report.facts["left_settings"] = {}
    for uuid in left_behind():
        if uuid not in there:
            continue
        topic = f"GPU {there[uuid].index}"
        try:
            restored = restore_if_free(session, uuid)
        except (UndoError, OSError) as error:
            left[uuid] = str(error)
            report.add(
                NOTE, topic, f"has the settings of a run that was killed: {error}", "sudo wattcount doctor"
            )
            continue
        if restored is not None:
            left[uuid] = restored
            report.add(NOTE, topic, f"restored what a run that was killed had left: {restored}")


def _gpu(report: Report, session: NvmlSession, gpu: GpuFacts, sensors: dict[str, Any] | None) -> None:
    from wattcount.config.catalogue import match_gpu

    option = match_gpu(gpu.name)
    facts: dict[str, Any] = dict(gpu.to_json())
    facts["option"] = option.name if option is not None else None
    facts["sensors"] = sensors
    topic = f"GPU {gpu.index}"
    memory = "" if gpu.memory_total_bytes is None else f", {gib(gpu.memory_total_bytes)}"
    called = f"gpu={option.name}" if option is not None else "gpu=auto; no data sheet in conf/gpu"
    limit = (
        "" if gpu.power_limit_enforced_mw is None else f", {gpu.power_limit_enforced_mw / 1e3:.0f} W limit"
    )
    report.add(OK, topic, f"{gpu.name} ({called}){memory}{limit}, {gpu.uuid}")
    for text, fix in _settings(gpu):
        report.add(NOTE, topic, text, fix)
    try:
        others = [
            (pid, used) for pid, used in session.native.compute_processes(gpu.uuid) if pid != os.getpid()
        ]
        facts["processes"] = [{"pid": pid, "used_bytes": used} for pid, used in others]
        if others:
            report.add(
                NOTE,
                topic,
                f"busy: {', '.join(describe_process(*other) for other in others)}",
                "wait for it; a run refuses a busy GPU unless allow_busy_gpu=true",
            )
    except RuntimeError as error:
        facts["processes"] = None
        report.add(NOTE, topic, f"does not tell which processes compute on it ({error})")
    if sensors is None:
        report.add(MISSING, topic, "no source could be read", "NVML must be readable: see the driver's log")
    else:
        _sensors(report, topic, sensors)
    report.facts["gpus"].append(facts)


def _settings(gpu: GpuFacts) -> list[tuple[str, str | None]]:
    """Settings of a GPU that change its power, and what to do about each."""
    found: list[tuple[str, str | None]] = []
    if gpu.persistence_mode == 0:
        found.append(("persistence mode is off: the driver unloads between runs", "sudo nvidia-smi -pm 1"))
    if gpu.mig_mode == 1:
        found.append(
            ("MIG is on: power is the whole board's, whoever else is on it", "sudo nvidia-smi -mig 0")
        )
    elif gpu.shares_power:
        found.append(("a vGPU: power is the whole board's, whoever else is on it", None))
    return found


def _sensors(report: Report, topic: str, sensors: dict[str, dict[str, Any]]) -> None:
    there = {name: found for name, found in sensors.items() if found["state"] == "ok"}
    absent = [name for name in sensors if name not in there]
    powers = [
        f"{name} ({found['call_p50_ns'] / 1e6:.2g} ms a call)"
        for name, found in there.items()
        if name.startswith(("energy", "power")) and name != "power_limit"
    ]
    others = len(there) - len(powers)
    text = f"reads {', '.join(powers) or 'no power'}; {others} others"
    if absent:
        text += f"; not {', '.join(absent)}"
    if "energy_counter" in there:
        report.add(OK, topic, text)
    elif powers:
        report.add(
            NOTE, topic, text, "no energy counter (before Volta, MIG, vGPU): energy comes from power readings"
        )
    else:
        report.add(MISSING, topic, text, "this GPU shows neither power nor energy (vGPU?); use another one")


def _sample(session: NvmlSession, uuids: list[str]) -> dict[str, Any]:
    """How each source works and what a call costs, by UUID, after a moment of sampling. Empty where that fails."""
    if not uuids:
        return {}
    from wattcount.gpu import PowerSampler

    try:
        with PowerSampler(gpus=uuids, session=session) as sampler:
            time.sleep(SAMPLE_S)
            return sampler.sensors()
    except (WattcountError, RuntimeError):
        return {}


def _engines(report: Report) -> None:
    """Findings of each engine's plug-in. The same checks refuse a run, which only has to pass those of its own engine."""
    nvml = report.facts["nvml"] or {}
    emulated = not (report.facts["gpus"] and nvml.get("evidence") == "measured")
    report.facts["engines"] = {}
    for name in registry.names():
        wrong = MISSING if name == registry.DEFAULT else NOTE
        try:
            plugin = registry.plugin(name)
            with registry.refusing_failures(name):
                there = dict(plugin.installation())
                checks = list(plugin.checks(Device.auto, emulated=emulated))
        except NotStartedError as error:
            report.add(wrong, name, str(error))
            continue
        report.facts["engines"][name] = there
        if checks and all(check.problem is None or check.remark for check in checks):
            report.add(OK, plugin.title, ", ".join(f"{what} {version}" for what, version in there.items()))
        for check in checks:
            if check.problem is not None:
                report.add(NOTE if check.remark else wrong, plugin.title, check.problem, check.advice)


def _host(report: Report) -> None:
    free, total = available_memory_bytes(), psutil.virtual_memory().total
    cores = len(os.sched_getaffinity(0))
    report.facts["memory"] = {"available_bytes": free, "total_bytes": total}
    report.facts["cores"] = cores
    text = f"{gib(free)} of {gib(total)} memory free, {cores} cores"
    if free < 3 * GIB:
        report.add(
            NOTE, "host", text, "an engine on the CPU needs some 3 GiB even for model=tiny; free some memory"
        )
    else:
        report.add(OK, "host", text)
    token = paths.has_hub_token()
    report.facts["hub_token"] = token
    if token:
        report.add(OK, "hub", "a Hugging Face token is set")
    else:
        report.add(
            NOTE,
            "hub",
            "no Hugging Face token",
            "gated weights need HF_TOKEN; model.weights=random needs none",
        )


def _folders(report: Report) -> None:
    folder = paths.data_home()
    facts: dict[str, Any] = {"path": str(folder), "writable": False, "free_bytes": None}
    report.facts["data_folder"] = facts
    try:
        check_folder(folder)
    except NotStartedError as error:
        what = str(error).removeprefix("records_dir: ")
        report.add(MISSING, "records", what, "set WATTCOUNT_HOME to a folder with room")
        return
    free = shutil.disk_usage(folder).free
    facts.update(writable=True, free_bytes=free)
    roomy = free > 16 * MIN_DISK_BYTES
    report.add(
        OK if roomy else NOTE,
        "records",
        f"{folder}, {gib(free)} free",
        None if roomy else "set WATTCOUNT_HOME to a folder with more room",
    )


def _unfinished(report: Report) -> None:
    """Unfinished records: those of runs that go on, and those that killed runs left."""
    records_dir = Path(paths.default_records_dir())
    found = open_folders(records_dir)
    report.facts["unfinished_records"] = {str(folder): whose for folder, whose in found.items()}
    for whose, text, fix in (
        ("running", "run(s) going on", None),
        ("dead", "run(s) were killed and left their records open", "the next run closes them"),
        ("elsewhere", "record(s) in the making on other hosts, or left there", None),
        (
            "unclaimed",
            "unfinished record(s) of an older version, or of a disk without locks",
            "rm -r them if no run goes on",
        ),
    ):
        folders = [folder for folder, of in found.items() if of == whose]
        if folders:
            report.add(
                NOTE, "records", f"{len(folders)} {text}: {folders[0]}{', ...' if folders[1:] else ''}", fix
            )


def _rapl(report: Report) -> None:
    host = rapl.find_rapl()
    report.facts["rapl"] = host.to_json()
    if host.state != rapl.OK:
        report.add(NOTE, "RAPL", f"no CPU energy: {host.detail}", host.fix)
        return
    sampler = rapl.RaplSampler(host)
    sampler.mark()
    slowest_us = sampler.health()["read_max_ns"] / 1e3
    names = ", ".join(domain.name for domain in host.readable)
    report.add(OK, "RAPL", f"reads {names} ({slowest_us:.0f} us a read)")
    kinds = {domain.kind for domain in host.readable}
    if rapl.DRAM not in kinds:
        report.add(
            NOTE, "RAPL", "no DRAM energy: this CPU has no readable counter of it (AMD, most desktops)"
        )


def nvidia_on_pci() -> list[str]:
    """PCI addresses of NVIDIA display and 3D controllers, whether or not a driver is loaded."""
    found = []
    with contextlib.suppress(OSError):
        for device in sorted(PCI.iterdir()):
            with contextlib.suppress(OSError):
                vendor = (device / "vendor").read_text(encoding="ascii").strip()
                kind = (device / "class").read_text(encoding="ascii").strip()
                if vendor == "0x10de" and kind.startswith("0x03"):
                    found.append(device.name)
    return found


def conclusion(report: Report) -> str:
    if not report.ok:
        return "Not ready: see what is missing above."
    nvml = report.facts["nvml"] or {}
    if report.facts["gpus"] and nvml.get("evidence") == "measured":
        return "Ready: `python -m wattcount` measures on this machine."
    return "Ready: `python -m wattcount` runs on the CPU, with an emulated GPU."
