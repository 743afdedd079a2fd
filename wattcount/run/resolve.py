"""What a configuration becomes on a machine: `resolve`, which a run asks before it starts, and a plan for each of its points.

What was `auto` becomes what the machine has, and the fields that wattcount fills in (device name, version of the engine,
fingerprints, evidence, settings left to the engine) get their values, so that the point has an identity.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from wattcount.config import fit, hub
from wattcount.config.catalogue import catalogued_model, match_gpu
from wattcount.config.loader import asked_otherwise, changed
from wattcount.config.schema import (
    Device,
    GpuConfig,
    ModelConfig,
    RunConfig,
    ServerConfig,
    Weights,
    has_bfloat16,
)
from wattcount.engines import registry
from wattcount.engines.plugin import refuse
from wattcount.errors import NotStartedError, one_line

if TYPE_CHECKING:
    from wattcount.gpu.nvml import GpuFacts

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
"""Names of files with weights."""

VERSION = "2"
"""Version of how weights are sampled, with which each fingerprint begins. Version 1 had none and knew only names and sizes."""
PLACES, PLACE_BYTES = 16, 2**20
"""Places at which a weight file is read, evenly from its begin to its end, and bytes read at each."""
TENSOR_BYTES = 2**14
"""Bytes that are read from the middle of each tensor of a safetensors file."""
MAX_HEADER_BYTES = 100 * 2**20
"""Largest header that the safetensors format allows [bytes]."""


def model_fingerprint(folder: Path) -> str:
    """`2:` and SHA-256 of a model's config.json and of samples of its weights.

    Of each weight file: name, size, 1 MiB from each of 16 places; of a safetensors file also its header and 16 KiB from
    the middle of each tensor. So two fine-tunes of one shape differ, and 140 GB take a second or two; a change to a
    part of a tensor that is not read is not seen. Raises `NotStartedError` where there are no weights or they cannot be
    read.
    """
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise NotStartedError(
            f"model.path: {folder} has no weight files ({', '.join(WEIGHT_FILES)}); use model.weights=random "
            "for the shape in its config.json"
        )
    try:
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for file in files:
            size = file.stat().st_size
            digest.update(f"\0{file.name}\0{size}\0".encode())
            with file.open("rb") as stream:
                for place, length in _samples(stream, size):
                    stream.seek(place)
                    digest.update(stream.read(length))
    except OSError as error:
        raise NotStartedError(f"model.path: cannot read {error.filename}: {error.strerror}") from None
    return f"{VERSION}:{digest.hexdigest()}"


def _samples(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Places to read: offset and number of bytes."""
    if size <= PLACES * PLACE_BYTES:
        yield 0, size
        return
    yield from ((number * (size - PLACE_BYTES) // (PLACES - 1), PLACE_BYTES) for number in range(PLACES))
    yield from _tensor_samples(stream, size)


def _tensor_samples(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Header and tensors of a safetensors file; nothing for another one."""
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        return
    try:
        header = json.loads(stream.read(length))
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        middles = sorted((int(begin) + int(end)) // 2 for begin, end in spans)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    yield 0, 8 + length
    for middle in middles:
        yield max(0, 8 + length + middle - TENSOR_BYTES // 2), TENSOR_BYTES


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


C = TypeVar("C", GpuConfig, ModelConfig)
"""A group whose options are files: GPUs or models."""

AUTO_MODELS = ("llama3_8b", "qwen2_5_0_5b")
"""What `model=auto` serves on a CUDA GPU: the first that fits."""
AUTO_MODEL_CPU = "tiny"
"""What `model=auto` serves on a CPU."""


@dataclass(frozen=True)
class InstalledEngine:
    """What an engine comes to on this machine.

    device   what `engine.device` becomes; `auto` where that is not known
    facts    see `EnginePlugin.identity_facts`
    problem  why a run would be refused; None: nothing speaks against it
    """

    device: Device
    facts: Mapping[str, str]
    problem: str | None


def installed_engine(name: str, asked: Device, evidence: str | None) -> InstalledEngine:
    """The engine `name` on this machine. Raises `NotStartedError` for one that is not registered."""
    plugin, emulated, problem = registry.plugin(name), evidence == "emulated", None
    device: Device = asked
    facts: Mapping[str, str] = {}
    try:
        with registry.refusing_failures(name):
            device, facts = plugin.device(asked, emulated=emulated), plugin.identity_facts()
            refuse(plugin.checks(asked, emulated=emulated))
    except NotStartedError as error:
        problem = str(error)
    return InstalledEngine(device, facts, problem)


class Files:
    """What is read of the files that configurations name: each of them once, as long as this lives."""

    def __init__(self) -> None:
        self.sha256 = functools.cache(file_sha256)
        self.weights = functools.cache(model_fingerprint)
        self.config_json = functools.cache(_read_json)


@dataclass(frozen=True)
class Machine:
    """What is known of the machine that a run is for.

    evidence  `measured` or `emulated`; None: not known
    gpus      of the run, or that it may choose from; none: not known. Those of a run may not be of different models
    engine    None: it is another machine, whose engine and files cannot be looked at
    """

    evidence: str | None
    gpus: tuple[GpuFacts, ...] = ()
    engine: InstalledEngine | None = None
    files: Files = field(default_factory=Files)


@dataclass(frozen=True)
class Resolved:
    """A configuration as asked, and as it is on a machine, as far as that is known.

    problems  why it cannot be measured there, of what was looked at; a line each
    """

    asked: RunConfig
    config: RunConfig
    problems: tuple[str, ...] = ()

    def with_devices(self, uuids: Sequence[str]) -> Resolved:
        """The same on these GPUs, which are of one model."""
        return dataclasses.replace(self, config=changed(self.config, {"gpu.devices": list(uuids)}))

    def asked_otherwise(self) -> dict[str, Any]:
        """What was asked and became something else, by dotted key: `run.json` keeps it as `asked`."""
        return asked_otherwise(self.asked, self.config)


def resolve(asked: RunConfig, machine: Machine) -> Resolved:
    """`asked` on `machine`. Raises nothing but for an engine that is not registered."""
    problems: list[str] = []
    cfg = dataclasses.replace(asked, evidence=machine.evidence)
    if machine.gpus:
        cfg = dataclasses.replace(cfg, gpu=_resolved_gpu(asked.gpu, machine.gpus, problems))
    if machine.engine is not None:
        if machine.engine.problem is not None:
            problems.append(machine.engine.problem)
        facts: dict[str, Any] = dict(machine.engine.facts)
        engine = dataclasses.replace(asked.engine, device=machine.engine.device, **facts)
        cfg = dataclasses.replace(cfg, engine=engine)
        for step in (_with_model, _with_fingerprints):
            try:
                cfg = step(cfg, machine)
            except NotStartedError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"cannot read {error.filename}: {error.strerror}")
    memory_bytes = least_memory_bytes(machine.gpus) or nominal_bytes(cfg.gpu)
    engine = registry.plugin(cfg.engine.name).resolved(cfg, memory_bytes)
    return Resolved(asked, dataclasses.replace(cfg, engine=engine), tuple(problems))


def least_memory_bytes(gpus: Sequence[GpuFacts]) -> int | None:
    """Memory of the GPU that has least; None where none tells."""
    known = [gpu.memory_total_bytes for gpu in gpus if gpu.memory_total_bytes is not None]
    return min(known, default=None)


def nominal_bytes(gpu: GpuConfig) -> int | None:
    """The memory of one GPU by its data sheet."""
    return None if gpu.memory_gib is None else int(gpu.memory_gib * fit.GIB)


def _resolved_gpu(asked: GpuConfig, gpus: Sequence[GpuFacts], problems: list[str]) -> GpuConfig:
    names = sorted({gpu.name for gpu in gpus})
    if len(names) > 1:
        problems.append(
            f"gpu.count: the {len(gpus)} GPUs of the run are of different kinds ({', '.join(names)}); "
            "choose some of one kind with gpu.devices=[UUID,...]"
        )
    found_name = gpus[0].name
    gpu = described(asked, found_name) if asked.name == "auto" else asked
    memory_gib = gpu.memory_gib
    if memory_gib is None and gpus[0].memory_total_bytes is not None:
        memory_gib = round(gpus[0].memory_total_bytes / fit.GIB, 1)
    devices = [found.uuid for found in gpus]
    return dataclasses.replace(gpu, found_name=found_name, devices=devices, memory_gib=memory_gib)


def described(asked: GpuConfig, found_name: str) -> GpuConfig:
    """The data-sheet facts of the GPU that is there, under what was set by hand."""
    known = match_gpu(found_name)
    if known is None:
        return dataclasses.replace(asked, name=re.sub(r"[^a-z0-9]+", "_", found_name.lower()).strip("_"))
    return _overlaid(known, asked, GpuConfig())


def _overlaid(base: C, asked: C, untouched: C) -> C:
    """`base` with the fields in which `asked` differs from `untouched`."""
    return dataclasses.replace(
        base,
        **{
            item.name: getattr(asked, item.name)
            for item in dataclasses.fields(asked)
            if getattr(asked, item.name) != getattr(untouched, item.name)
        },
    )


def _with_model(cfg: RunConfig, machine: Machine) -> RunConfig:
    """The configuration with the model that `auto` is on these GPUs, and the shape that lies at `model.path`."""
    model = cfg.model
    if model.name == "auto" and registry.plugin(cfg.engine.name).capabilities.owns_process:
        model = _auto_model(cfg, machine.gpus)  # of somebody else's server, it says what it serves
    if model.path is not None:
        path = Path(model.path).expanduser().absolute()
        # The folder's own config.json is what the engine will load.
        hf_config = machine.files.config_json(path / "config.json")
        model = dataclasses.replace(model, path=str(path), hf_config=hf_config)
    elif model.weights is Weights.hub and not model.hf_config and (known := hub.cached_config(model)):
        model = changed(model, {"hf_config": known})  # for the fit arithmetic; no part of the identity
    return dataclasses.replace(cfg, model=model)


def _auto_model(cfg: RunConfig, gpus: Sequence[GpuFacts]) -> ModelConfig:
    untouched = ModelConfig(name="auto", weights=Weights.random)
    names = AUTO_MODELS if cfg.engine.device is Device.cuda else (AUTO_MODEL_CPU,)
    for name in names:
        packaged = catalogued_model(name)
        assert packaged is not None
        model = dataclasses.replace(_overlaid(packaged, cfg.model, untouched), weights=cfg.model.weights)
        if cfg.model.dtype == untouched.dtype and not has_bfloat16(cfg.gpu.compute_capability):
            model = dataclasses.replace(model, dtype="float16")
        candidate = dataclasses.replace(cfg, model=model)
        if name == names[-1] or all(
            gpu.memory_total_bytes is None or fit.estimate(candidate, gpu.memory_total_bytes).fits
            for gpu in gpus
        ):
            return model
    raise AssertionError("the last of the models is always taken")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotStartedError(f"model.path: cannot read {file}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise NotStartedError(f"model.path: {file} holds no JSON object")
    return values


def _with_fingerprints(cfg: RunConfig, machine: Machine) -> RunConfig:
    found: dict[str, Any] = {}
    if cfg.model.weights is Weights.path and cfg.model.path is not None:
        found["model.path_fingerprint"] = machine.files.weights(Path(cfg.model.path))
    files = {"lengths": cfg.scenario.lengths.file}
    if isinstance(cfg.scenario, ServerConfig):
        files["arrivals"] = cfg.scenario.arrivals.file
    for name, path in files.items():
        if path is not None:
            file = Path(path).expanduser().absolute()
            found[f"scenario.{name}.path"] = str(file)
            found[f"scenario.{name}.fingerprint"] = machine.files.sha256(file)
    return changed(cfg, found) if found else cfg
