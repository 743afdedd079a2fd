"""Points that cannot be measured, found before anything starts, with the arithmetic."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from wattcount.config import fit
from wattcount.config.schema import Device
from wattcount.engines import registry
from wattcount.sweep.machine import Here

NO_SUCH_GPU = "no_such_gpu"
DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True)
class Skip:
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
