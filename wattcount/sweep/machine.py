"""What this machine knows about planned points: its GPUs, what `auto` will become, where the evidence comes from."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.config import fit
from wattcount.config.schema import (
    Device,
    EngineConfig,
    PowerBackend,
    RunConfig,
    ServerConfig,
    Weights,
)
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, matches, open_session
from wattcount.run import fingerprints, preflight
from wattcount.run.gpu_lock import is_free


@dataclass(frozen=True)
class Here:
    """A point as it would be on the machine that is to measure it.

    cfg         with what `auto` becomes there, as far as that is known
    facts       of `index.FACTS`, those that are known
    gpus        the GPUs of this machine that it may use, all of one model; none: emulated, or another machine
    problem     why it cannot be measured there, if that is known
    """

    cfg: RunConfig
    facts: Mapping[str, str | None]
    gpus: tuple[GpuFacts, ...] = ()
    memory_bytes: int | None = None
    """Of one of its GPUs."""
    problem: str | None = None


@dataclass(frozen=True)
class _Gpus:
    """What `power` and `gpu` come to here."""

    gpu: Any
    evidence: str | None
    matching: tuple[GpuFacts, ...]
    there: tuple[GpuFacts, ...]
    """For a run to choose from; none where a machine would be emulated for it."""
    problem: str | None


class ThisMachine:
    """For runs that are to be measured here. Looks at each kind of GPU and each model once."""

    def __init__(self) -> None:
        self._gpus: dict[tuple[int, int], tuple[Any, _Gpus]] = {}
        self._models: dict[tuple[int, ...], tuple[Any, Any]] = {}
        self._engines: dict[tuple[int, str | None], tuple[Any, Any]] = {}
        self._prints: dict[str, str | None] = {}
        self._chosen = _Chosen()
        self._facts_of_engines: dict[str, Mapping[str, str]] = {}

    def look(self, cfg: RunConfig) -> Here:
        """Raises nothing: what is wrong is in the answer, or will be said when the run is started."""
        key = (id(cfg.power), id(cfg.gpu))
        if key not in self._gpus:
            self._gpus[key] = ((cfg.power, cfg.gpu), _look_for_gpus(cfg))
        found = self._gpus[key][1]
        facts: dict[str, str | None] = {}
        if found.evidence is not None:
            facts["evidence"] = found.evidence
        if found.matching:
            facts["found_name"] = found.matching[0].name
        facts |= self._installed(cfg.engine.name)
        engine = self._engine(cfg, found.evidence)
        if engine.device is not Device.auto:
            facts["device"] = engine.device.value
        run = dataclasses.replace(cfg, gpu=found.gpu, engine=engine)
        run = dataclasses.replace(run, model=self._model(cfg, run, found.matching))
        if (prints := self._fingerprints(run)) is not None:
            facts["fingerprints"] = prints
        memory_bytes = preflight.least_memory_bytes(found.matching) or nominal_bytes(run)
        engine = self._chosen.of(run, memory_bytes, facts.get("version_minor"), facts.get("found_name"))
        run = dataclasses.replace(run, engine=engine)
        return Here(run, facts, found.there, memory_bytes, found.problem)

    def _installed(self, engine: str) -> Mapping[str, str]:
        if engine not in self._facts_of_engines:
            self._facts_of_engines[engine] = registry.plugin(engine).identity_facts()
        return self._facts_of_engines[engine]

    def _engine(self, cfg: RunConfig, evidence: str | None) -> EngineConfig:
        """With the device that `auto` becomes, where that is known."""
        key = (id(cfg.engine), evidence)
        if key not in self._engines:
            engine = cfg.engine
            device = registry.plugin(engine.name).device(engine.device, emulated=evidence == "emulated")
            # Kept with what the key stands for, so that no other node is made at its place in memory.
            self._engines[key] = (engine, dataclasses.replace(engine, device=device))
        found: EngineConfig = self._engines[key][1]
        return found

    def _model(self, asked: RunConfig, run: RunConfig, gpus: tuple[GpuFacts, ...]) -> Any:
        """What `auto` becomes, and with a path, the shape that is in its folder."""
        if asked.model.name != "auto" and asked.model.path is None:
            return asked.model
        key = (id(asked.model), id(asked.gpu), id(asked.power), id(asked.engine), id(asked.scenario))
        if key not in self._models:
            model = asked.model
            with contextlib.suppress(NotStartedError):  # said when the run is started
                model = preflight.resolved_model(run, gpus)
            self._models[key] = (asked, model)
        return self._models[key][1]

    def _fingerprints(self, cfg: RunConfig) -> str | None:
        """As `results.result.fingerprints_of` has them; None where a file cannot be read."""
        model = cfg.model.path if cfg.model.weights is Weights.path else None
        trace = cfg.scenario.arrivals.file if isinstance(cfg.scenario, ServerConfig) else None
        load = cfg.scenario.lengths.file
        try:
            found = [self._print(model, fingerprints.model_fingerprint)]
            found += [self._print(path, fingerprints.file_sha256) for path in (trace, load)]
        except (OSError, NotStartedError):
            return None
        return " ".join(text or "-" for text in found)

    def _print(self, path: str | None, read: Any) -> str | None:
        if path is None:
            return None
        if path not in self._prints:
            self._prints[path] = read(Path(path).expanduser())
        return self._prints[path]


class _Chosen:
    """Engine nodes with what was left to the engine filled in: one node for all points that get the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], tuple[EngineConfig, EngineConfig]] = {}

    def of(
        self, cfg: RunConfig, memory_bytes: int | None, version_minor: str | None, found_name: str | None
    ) -> EngineConfig:
        engine = dataclasses.replace(cfg.engine, version_minor=cfg.engine.version_minor or version_minor)
        gpu = dataclasses.replace(cfg.gpu, found_name=cfg.gpu.found_name or found_name)
        plugin = registry.plugin(engine.name)
        chosen = plugin.defaults(dataclasses.replace(cfg, engine=engine, gpu=gpu), memory_bytes)
        key = (id(cfg.engine), chosen)
        if key not in self._known:
            filled = plugin.filled(cfg.engine, chosen)
            # Kept with the node that the key stands for, so that no other one is made at its place in memory.
            self._known[key] = (cfg.engine, filled)
        return self._known[key][1]


class AnotherMachine:
    """For runs that a launcher sends elsewhere: nothing is known but what the configuration says."""

    def __init__(self) -> None:
        self._chosen = _Chosen()

    def look(self, cfg: RunConfig) -> Here:
        facts: dict[str, str | None] = {}
        if cfg.power.backend is PowerBackend.emulated:
            facts["evidence"] = "emulated"
        elif cfg.power.backend is PowerBackend.nvml or cfg.gpu.name != "auto":
            facts["evidence"] = "measured"  # what was only tried out here is still to be measured there
        memory_bytes = nominal_bytes(cfg)
        run = dataclasses.replace(cfg, engine=self._chosen.of(cfg, memory_bytes, None, None))
        return Here(run, facts, memory_bytes=memory_bytes)


def nominal_bytes(cfg: RunConfig) -> int | None:
    """The memory of one GPU by its data sheet."""
    return None if cfg.gpu.memory_gib is None else int(cfg.gpu.memory_gib * fit.GIB)


def _look_for_gpus(cfg: RunConfig) -> _Gpus:
    try:
        with open_session(cfg.power, cfg.gpu) as session:
            emulated_for_it = session.machine is not None
            there = () if emulated_for_it else tuple(session.usable())
            chosen = session.select(cfg.gpu)
            evidence = session.evidence
    except NotStartedError as error:
        return _Gpus(cfg.gpu, None, (), (), str(error))
    if cfg.gpu.devices:
        usable = tuple(chosen)
    else:
        usable = tuple(gpu for gpu in there if matches(cfg.gpu, gpu))
        # Of several models the one that a run would get: that of the first GPU that is free.
        free = [gpu for gpu in usable if is_free(gpu.uuid)] or list(usable)
        usable = tuple(gpu for gpu in usable if gpu.name == free[0].name) if free else ()
    name = (usable or tuple(chosen))[0].name
    gpu = preflight.described(cfg.gpu, name) if cfg.gpu.name == "auto" else cfg.gpu
    if len(usable) < cfg.gpu.count and not emulated_for_it:
        return _Gpus(
            gpu, evidence, tuple(chosen), (), f"gpu.count={cfg.gpu.count}: only {len(usable)} {name} here"
        )
    return _Gpus(gpu, evidence, usable or tuple(chosen), usable, None)
