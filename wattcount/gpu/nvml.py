"""What NVML says of this machine, which NVML library that was, and which of its GPUs this process may use."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.errors import NotStartedError
from wattcount.gpu import _native
from wattcount.gpu.library import Library, Threads
from wattcount.gpu.remote.client import RemoteNvml

if TYPE_CHECKING:
    from wattcount.emulation.machine import EmulatedMachine

ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper", 10: "Blackwell",
}  # fmt: skip
"""Names of architectures by their number (nvmlDeviceArchitecture_t)."""


@dataclass(frozen=True)
class GpuFacts:
    """One GPU as found; None where NVML does not say. Names carry the unit."""

    uuid: str
    index: int | None
    name: str
    serial: str | None
    vbios: str | None
    board_part_number: str | None
    inforom_version: str | None
    pci_bus_id: str | None
    pci_device_id: int | None
    pci_subsystem_id: int | None
    memory_total_bytes: int | None
    memory_free_bytes: int | None
    power_limit_enforced_mw: int | None
    power_limit_mw: int | None
    power_limit_default_mw: int | None
    power_limit_min_mw: int | None
    power_limit_max_mw: int | None
    max_sm_clock_mhz: int | None
    max_memory_clock_mhz: int | None
    applications_graphics_clock_mhz: int | None
    applications_memory_clock_mhz: int | None
    mig_mode: int | None
    mig_mode_pending: int | None
    ecc_mode: int | None
    ecc_mode_pending: int | None
    persistence_mode: int | None
    compute_mode: int | None
    virtualization_mode: int | None
    """nvmlGpuVirtualizationMode_t: 0 none, 1 passthrough, 2 vGPU, 3 host vGPU, 4 host vSGA."""
    architecture: str | None
    compute_capability: str | None

    @property
    def shares_power(self) -> bool:
        """MIG or vGPU: the board's power is not this tenant's alone."""
        return self.mig_mode == 1 or self.virtualization_mode in (2, 3, 4)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class NvmlSession:
    """A loaded NVML library and the GPUs it shows. `close` it, or use it as a context manager."""

    def __init__(self, native: _native.Nvml | RemoteNvml, machine: EmulatedMachine | None = None) -> None:
        self.native: Library = native
        self.remote = native if isinstance(native, RemoteNvml) else None
        """The library of another machine (`power.remote`), if it is one."""
        self.machine = machine
        """The emulated machine that was made for this session, if one was."""

    @property
    def evidence(self) -> str:
        """`emulated` if the library says it is the emulator, whatever the path; else `measured`."""
        return "emulated" if self.native.emulated else "measured"

    @property
    def library(self) -> dict[str, Any]:
        """path, sha256, driver_version, nvml_version, cuda_driver_version, missing_symbols; `remote` of another machine's."""
        if self.remote is not None:
            return self.remote.library
        path = Path(self.native.path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        return {
            "path": str(path),
            "sha256": digest,
            "driver_version": _or_none(lambda: self.native.driver_version),
            "nvml_version": _or_none(lambda: self.native.nvml_version),
            "cuda_driver_version": self.native.cuda_driver_version,
            "missing_symbols": self.native.missing_symbols(),
        }

    def gpus(self) -> list[GpuFacts]:
        """All GPUs, in NVML's order. Raises `NotStartedError` where they cannot be listed."""
        try:
            return [self._facts(uuid) for uuid in self.native.device_uuids()]
        except _native.NvmlError as error:
            raise NotStartedError(f"NVML cannot list the GPUs: {error}") from error

    def usable(self) -> list[GpuFacts]:
        """Those of `gpus` that this process may use, see `visible_gpus`; of a machine made for this session, all; of another
        machine, those that its listener may use."""
        there = self.gpus()
        if self.remote is not None:
            return [gpu for gpu in there if gpu.uuid in self.remote.usable_uuids]
        return there if self.machine is not None else visible_gpus(there, os.environ)

    def select(self, gpu: GpuConfig) -> list[GpuFacts]:
        """The GPUs a run is to use: `gpu.devices` where given, else the first `gpu.count` usable ones that match.

        Raises `NotStartedError` that says what is there.
        """
        there = self.gpus()
        if not there:
            raise NotStartedError("NVML finds no GPU; power=emulated tries things out without one")
        if gpu.devices:
            chosen = [_by_name(there, device) for device in gpu.devices]
            if len({facts.uuid for facts in chosen}) < len(chosen):
                raise NotStartedError(f"gpu.devices names a GPU twice: {', '.join(gpu.devices)}")
            if wrong := [facts for facts in chosen if not matches(gpu, facts)]:
                raise NotStartedError(
                    f"gpu={gpu.name}, but gpu.devices names {_listed(wrong)}: use gpu=auto or the GPU that is there"
                )
            return chosen
        usable = self.usable()
        matching = [facts for facts in usable if matches(gpu, facts)]
        if len(matching) < gpu.count:
            asked = f"gpu={gpu.name}" + (f" gpu.count={gpu.count}" if gpu.count > 1 else "")
            has = "this machine has" if len(usable) == len(there) else "this process may only use"
            raise NotStartedError(
                f"{asked}, but {has} {_listed(usable)}: use gpu=auto, "
                f"or power=emulated gpu={gpu.name} to try things out without one"
            )
        return matching[: gpu.count]

    def threads(self, uuids: Sequence[str], plan: dict[str, Any]) -> Threads:
        """What samples these GPUs; `plan` as `_native.Sampler` has it, and it raises the same."""
        if isinstance(self.native, _native.Nvml):
            return _native.Sampler(self.native, list(uuids), plan)
        assert self.remote is not None
        return self.remote.threads(list(uuids), plan)

    def close(self) -> None:
        """Lets go of NVML; may be called twice."""
        self.native.close()
        if self.machine is not None:
            self.machine.close()
            self.machine = None

    def __enter__(self) -> NvmlSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _facts(self, uuid: str) -> GpuFacts:
        info = self.native.device_info(uuid)
        names = {field.name for field in dataclasses.fields(GpuFacts)}
        facts = {name: value for name, value in info.items() if name in names}
        number = info.get("architecture")
        facts["architecture"] = (
            None if number is None else ARCHITECTURES.get(number, f"architecture {number}")
        )
        facts["name"] = info.get("name") or "unknown GPU"
        return GpuFacts(**facts)


def matches(gpu: GpuConfig, facts: GpuFacts) -> bool:
    """Whether a GPU is of the model asked for; no pattern matches every GPU."""
    return not gpu.nvml_names or any(re.fullmatch(pattern, facts.name) for pattern in gpu.nvml_names)


def open_session(power: PowerConfig, gpu: GpuConfig) -> NvmlSession:
    """The NVML library that `power.remote`, else `power.backend` and `gpu` ask for.

    `nvml`      the real one ($WATTCOUNT_NVML_PATH, else libnvidia-ml.so.1)
    `emulated`  an emulated machine with GPUs of the model asked for (an H200 for `gpu=auto`)
    `auto`      the real one if it shows a GPU; else, for `gpu=auto` only, an emulated machine

    Raises `NotStartedError`.
    """
    if power.remote is not None:
        return NvmlSession(RemoteNvml(power.remote))
    if power.backend is PowerBackend.emulated:
        return _emulated(gpu)
    try:
        native = _native.Nvml()
    except (_native.NvmlLibraryNotFound, _native.NvmlError) as error:
        if power.backend is PowerBackend.auto and gpu.name == "auto" and not _no_permission(error):
            return _emulated(gpu)
        hint = (
            ""
            if power.backend is PowerBackend.nvml
            else f"; power=emulated gpu={gpu.name} tries things out without"
        )
        raise NotStartedError(f"{error}{hint}") from error
    session = NvmlSession(native)
    with contextlib.suppress(NotStartedError):
        if power.backend is PowerBackend.auto and gpu.name == "auto" and not session.gpus():
            session.close()
            return _emulated(gpu)
    return session


def attach_session(remote: str | None = None) -> NvmlSession:
    """The library at `remote` (`power.remote`), else the one the environment names: how a run's own process joins the machine
    that its parent chose."""
    if remote is not None:
        return NvmlSession(RemoteNvml(remote))
    try:
        return NvmlSession(_native.Nvml())
    except (_native.NvmlLibraryNotFound, _native.NvmlError) as error:
        raise NotStartedError(str(error)) from error


def _emulated(gpu: GpuConfig) -> NvmlSession:
    from wattcount.emulation.machine import EmulatedMachine

    machine = EmulatedMachine.for_config(gpu, Path(tempfile.mkdtemp(prefix="wattcount-emulated-")))
    machine.open()
    try:
        return NvmlSession(_native.Nvml(machine.library_path), machine)
    except BaseException:
        machine.close()
        raise


def _no_permission(error: Exception) -> bool:
    # A GPU one may not read is a problem to be told of, not a machine without a GPU.
    return isinstance(error, _native.NvmlError) and error.code in (4, 18)


def _by_name(there: Sequence[GpuFacts], device: str) -> GpuFacts:
    for facts in there:
        if device in (facts.uuid, str(facts.index)):
            return facts
    raise NotStartedError(f"gpu.devices: no GPU {device!r} here; this machine has {_listed(there)}")


def _listed(gpus: Sequence[GpuFacts]) -> str:
    if not gpus:
        return "no GPU"
    return ", ".join(f"{facts.index}: {facts.name} ({facts.uuid})" for facts in gpus)


def _or_none(get: Any) -> Any:
    try:
        return get()
    except _native.NvmlError:
        return None


# Which GPUs this process may use: a batch system gives its jobs some of them. SLURM and Ray say so in `CUDA_VISIBLE_DEVICES`,
# which NVML knows nothing of: it shows all GPUs that the process can open. A run on the one beside its own would measure
# somebody else's energy. What CUDA makes of that variable was tried out with driver 580 on two H200 (`cuDeviceGetCount` under
# each value):
#
# ==================  ==========================================================================================
# value               GPUs that CUDA has
# ==================  ==========================================================================================
# empty, blanks       none
# `1,0`               1, then 0
# `0,-1,1`, `0,9,1`   0: the first entry that names no GPU ends the list; as the first one it leaves none
# `0,,1`, `0,none`    0, for the same reason
# `0,GPU-...`         0: numbers and UUIDs do not mix, the first entry decides; the same the other way round
# `0,0`, `0,1,0`      none, `cuInit` fails: a GPU may be named once
# `GPU-0d`, `GPU-0D`  the one whose UUID begins so
# ==================  ==========================================================================================
#
# It also takes `+1`, `01`, `1a`, `1.5` for 1 and `0x1` for 0, which is refused here: hardly anybody means that.

VISIBLE_ENV = "CUDA_VISIBLE_DEVICES"
"""Environment variable by which CUDA is told which GPUs there are."""
ORDER_ENV = "CUDA_DEVICE_ORDER"
"""Environment variable by which CUDA is told how to number them."""
SLURM_ENVS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Numbers of the GPUs that SLURM gave, on clusters that leave CUDA_VISIBLE_DEVICES alone."""


def visible_gpus(there: Sequence[GpuFacts], environment: Mapping[str, str]) -> list[GpuFacts]:
    """Those of `there` that the environment names, in its order; all where it names none.

    In CUDA_VISIBLE_DEVICES they are named as CUDA understands it, see above; a number is NVML's index.
    Raises `NotStartedError` where that leaves no GPU, and where it is not certain which GPU is meant: an ambiguous
    beginning of a UUID, an instance of MIG, the number of a GPU among different models in CUDA's own order, a GPU of
    SLURM's that NVML does not show.
    """
    if VISIBLE_ENV in environment:
        return _as_cuda(there, environment)
    name = next((name for name in SLURM_ENVS if environment.get(name)), None)
    if name is None:
        return list(there)
    words = [word.strip() for word in environment[name].split(",")]
    if len(words) == len(there):
        return list(there)  # it may have counted GPUs that it hides from this job
    chosen = []
    for word in words:
        found = [gpu for gpu in there if word == str(gpu.index)]
        if not found:
            raise _refused(name, environment, f"NVML shows {_uuids(there)}")
        chosen += found
    return chosen


def _as_cuda(there: Sequence[GpuFacts], environment: Mapping[str, str]) -> list[GpuFacts]:
    text = environment[VISIBLE_ENV]
    words = text.split(",")
    numbers = re.match(r"\s*[+-]?\d", text) is not None
    chosen: list[GpuFacts] = []
    for word in words:
        found = _by_number(word, there, environment) if numbers else _by_uuid(word, there, environment)
        if found is None:
            break
        chosen.append(found)
    if not chosen:
        said = text.strip().lower()
        if not said or said.startswith("-1") or said in ("nodevfiles", "none", "void"):
            raise _refused(
                VISIBLE_ENV,
                environment,
                "CUDA has no GPU: the batch system gave this job no GPU: ask it for one; or unset the variable",
            )
        raise _refused(VISIBLE_ENV, environment, f"CUDA has no GPU; NVML shows {_uuids(there)}")
    if len({gpu.uuid for gpu in chosen}) < len(chosen):
        raise _refused(VISIBLE_ENV, environment, "names a GPU twice, and CUDA then has none; name it once")
    return chosen


def _by_number(word: str, there: Sequence[GpuFacts], environment: Mapping[str, str]) -> GpuFacts | None:
    word = word.strip()
    if not re.fullmatch(r"-?(?:0|[1-9]\d*)", word):
        if re.match(r"[+-]?\d", word):
            raise _refused(VISIBLE_ENV, environment, f"{word!r} is no number of a GPU; write it as in 0,1")
        return None
    found = next((gpu for gpu in there if word == str(gpu.index)), None)
    kinds = {gpu.name for gpu in there}
    if found is not None and len(kinds) > 1 and environment.get(ORDER_ENV) != "PCI_BUS_ID":
        raise _refused(
            VISIBLE_ENV,
            environment,
            f"by a number CUDA may mean another GPU than NVML, as they are of different models ({_uuids(there)}); "
            f"name it by its UUID, or set {ORDER_ENV}=PCI_BUS_ID",
        )
    return found


def _by_uuid(word: str, there: Sequence[GpuFacts], environment: Mapping[str, str]) -> GpuFacts | None:
    if word.startswith("MIG-"):
        raise _refused(
            VISIBLE_ENV,
            environment,
            "an instance of MIG has no power of its own to be measured; name the whole GPU by its number or UUID",
        )
    word = word.rstrip()
    if not re.match("GPU-.", word):
        return None
    found = [gpu for gpu in there if gpu.uuid.lower().startswith(word.lower())]
    if len(found) > 1:
        raise _refused(VISIBLE_ENV, environment, f"{word} is the beginning of several UUIDs: {_uuids(found)}")
    return found[0] if found else None


def _refused(name: str, environment: Mapping[str, str], why: str) -> NotStartedError:
    return NotStartedError(f"{name}={environment[name]}: {why}")


def _uuids(there: Sequence[GpuFacts]) -> str:
    return ", ".join(f"{gpu.index}: {gpu.uuid}" for gpu in there) or "none"
