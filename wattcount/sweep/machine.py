"""What this machine knows about planned points: its GPUs, what `auto` will become, the evidence, and what cannot be measured."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from wattcount.config import fit
from wattcount.config.fields import FrozenDict
from wattcount.config.schema import (
    Device,
    GpuConfig,
    PowerBackend,
    PowerConfig,
    RunConfig,
    ServerConfig,
    Weights,
)
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, matches, open_session
from wattcount.result.result import fingerprints_of
from wattcount.run.claims import is_free
from wattcount.run.resolve import (
    Files,
    Machine,
    installed_engine,
    least_memory_bytes,
    nominal_bytes,
    resolve,
)

NO_SUCH_GPU, DOES_NOT_FIT = "no_such_gpu", "does_not_fit"
"""Reasons of points that cannot be measured here."""


@dataclass(frozen=True)
class Here:
    """A point as it would be on the machine that is to measure it; seed and repeat are left at their defaults.

    cfg         with what `auto` becomes there, as far as that is known
    facts       of `index.FACTS`, those that are known
    gpus        the GPUs of this machine that it may use, all of one model; none: emulated, or another machine
    problem     why it cannot be measured there, if that is known
    """

    cfg: RunConfig
    facts: FrozenDict
    gpus: tuple[GpuFacts, ...] = ()
    memory_bytes: int | None = None
    """Memory of one of its GPUs."""
    problem: str | None = None


@dataclass(frozen=True)
class _Gpus:
    """What `power` and `gpu` come to here."""

    evidence: str | None = None
    matching: tuple[GpuFacts, ...] = ()
    there: tuple[GpuFacts, ...] = ()
    """GPUs that a run may choose from; none where a machine would be emulated for it."""
    problem: str | None = None


class ThisMachine:
    """What is known of the machine for runs that are measured here. Looks at each kind of GPU, each engine and each file once."""

    def __init__(self) -> None:
        self._gpus = functools.cache(_look_for_gpus)
        self._engine = functools.cache(installed_engine)
        self._files = Files()
        self._resolved = functools.cache(self._look)

    def look(self, cfg: RunConfig) -> Here:
        """Raises nothing: what is wrong is in the answer, or will be said when the run is started."""
        return self._resolved(dataclasses.replace(cfg, seed=0, repeat=0))

    def _look(self, cfg: RunConfig) -> Here:
        found = self._gpus(cfg.power, cfg.gpu)
        engine = self._engine(cfg.engine.name, cfg.engine.device, found.evidence)
        run = resolve(cfg, Machine(found.evidence, found.matching, engine, self._files)).config
        memory_bytes = least_memory_bytes(found.matching) or nominal_bytes(run.gpu)
        return Here(run, _facts(run), found.there, memory_bytes, found.problem)


class AnotherMachine:
    """What is known of the machine for runs that a launcher sends elsewhere: only what the configuration says."""

    def __init__(self) -> None:
        self._resolved = functools.cache(self._look)

    def look(self, cfg: RunConfig) -> Here:
        return self._resolved(dataclasses.replace(cfg, seed=0, repeat=0))

    @staticmethod
    def _look(cfg: RunConfig) -> Here:
        evidence = None
        if cfg.power.backend is PowerBackend.emulated:
            evidence = "emulated"
        elif cfg.power.backend is PowerBackend.nvml or cfg.gpu.name != "auto":
            evidence = "measured"  # what was only tried out here is still to be measured there
        run = resolve(cfg, Machine(evidence)).config
        facts = FrozenDict({} if evidence is None else {"evidence": evidence})
        return Here(run, facts, memory_bytes=nominal_bytes(run.gpu))


def _facts(cfg: RunConfig) -> FrozenDict:
    """What a record of `cfg` would have for `index.FACTS`, as far as it is known."""
    arrivals = cfg.scenario.arrivals if isinstance(cfg.scenario, ServerConfig) else None
    read = [
        (cfg.model.path if cfg.model.weights is Weights.path else None, cfg.model.path_fingerprint),
        (arrivals.file, arrivals.fingerprint) if arrivals is not None else (None, None),
        (cfg.scenario.lengths.file, cfg.scenario.lengths.fingerprint),
    ]
    unread = any(file is not None and found is None for file, found in read)
    facts = {
        "evidence": cfg.evidence,
        "device": None if cfg.engine.device is Device.auto else cfg.engine.device.value,
        "version_minor": cfg.engine.version_minor,
        "found_name": cfg.gpu.found_name,
        "fingerprints": None if unread else fingerprints_of(cfg),
    }
    return FrozenDict({name: value for name, value in facts.items() if value is not None})


def _look_for_gpus(power: PowerConfig, gpu: GpuConfig) -> _Gpus:
    try:
        with open_session(power, gpu) as session:
            emulated_for_it = session.machine is not None
            there = () if emulated_for_it else tuple(session.usable())
            chosen = tuple(session.select(gpu))
            evidence = session.evidence
            free = {found.uuid for found in there if is_free(found.uuid, session.remote)}
    except NotStartedError as error:
        return _Gpus(problem=str(error))
    if gpu.devices:
        usable = chosen
    else:
        usable = tuple(found for found in there if matches(gpu, found))
        # Of several models the one that a run would get: that of the first GPU that is free.
        first = next((found for found in usable if found.uuid in free), None) or next(iter(usable), None)
        usable = tuple(found for found in usable if first is not None and found.name == first.name)
    if len(usable) < gpu.count and not emulated_for_it:
        name = (usable or chosen)[0].name
        problem = f"gpu.count={gpu.count}: only {len(usable)} {name} here"
        return _Gpus(evidence, chosen, (), problem)
    return _Gpus(evidence, usable or chosen, usable)


@dataclass(frozen=True)
class Skip:
    """Why a point cannot be measured: a stable code, and the arithmetic."""

    reason: str
    message: str


@functools.lru_cache(maxsize=4096)
def skip_of(here: Here) -> Skip | None:
    """Why a point cannot be measured on the machine it is for; None: nothing speaks against it."""
    cfg = here.cfg
    if here.problem is not None:
        return Skip(NO_SUCH_GPU, here.problem)
    plugin = registry.plugin(cfg.engine.name)
    capability = None if cfg.engine.device is Device.cpu else cfg.gpu.compute_capability
    for found in plugin.unsupported(cfg, capability):
        return Skip(found.code, found.message)
    if here.memory_bytes is None or cfg.model.name == "auto" or not plugin.capabilities.computes_model:
        return None
    # An emulated GPU too: a model that it could not hold would make a record of something impossible.
    on_gpu = dataclasses.replace(cfg, engine=dataclasses.replace(cfg.engine, device=Device.cuda))
    report = fit.estimate(on_gpu, here.memory_bytes)
    return None if report.fits else Skip(DOES_NOT_FIT, report.explain())
