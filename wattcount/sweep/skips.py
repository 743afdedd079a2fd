"""Points that cannot be measured, found before anything starts, with the arithmetic."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from wattcount.config import fit
from wattcount.config.schema import Device, EngineKind, RunConfig
from wattcount.sweep.machine import Here

NO_SUCH_GPU = "no_such_gpu"
DOES_NOT_FIT = "does_not_fit"
DTYPE_UNSUPPORTED = "dtype_unsupported"
QUANTIZATION_UNSUPPORTED = "quantization_unsupported"
INVALID_BEFORE = "invalid_before"

QUANTIZATION_CAPABILITY: Mapping[str, float] = {
    "awq": 7.5,
    "auto_awq": 7.5,
    "awq_marlin": 7.5,
    "gptq": 6.0,
    "auto_gptq": 6.0,
    "gptq_marlin": 7.5,
    "bitsandbytes": 7.0,
    "compressed-tensors": 7.0,
    "fp8": 7.5,
    "fbgemm_fp8": 8.0,
    "modelopt": 8.0,
    "modelopt_fp4": 7.5,
    "mxfp4": 8.0,
    "experts_int8": 8.0,
}
"""The least CUDA compute capability that vLLM 0.32 takes a method on (`QuantizationConfig.get_min_capability`).
On GPUs without tensor cores for FP8 it multiplies in 16 bit and only keeps the weights in 8."""


@dataclass(frozen=True)
class Skip:
    reason: str
    message: str


class Skips:
    """Says why points cannot be measured; what they share is worked out once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], tuple[RunConfig, Skip | None]] = {}

    def of(self, here: Here) -> Skip | None:
        cfg = here.cfg
        nodes = (cfg.model, cfg.gpu, cfg.scenario, cfg.engine)
        key = (*map(id, nodes), here.memory_bytes or 0)
        if key not in self._known:
            self._known[key] = (cfg, skip_of(here))
        return self._known[key][1]


def skip_of(here: Here) -> Skip | None:
    """Why a point cannot be measured on the machine it is for; None: nothing speaks against it."""
    cfg = here.cfg
    if here.problem is not None:
        return Skip(NO_SUCH_GPU, here.problem)
    if cfg.engine.name is EngineKind.tiny:
        return None
    if cfg.engine.device is not Device.cpu and (skip := _unsupported(cfg)) is not None:
        return skip
    if here.memory_bytes is None or cfg.model.name == "auto":
        return None
    # An emulated GPU too: a model that it could not hold would make a record of something impossible.
    on_gpu = dataclasses.replace(cfg, engine=dataclasses.replace(cfg.engine, device=Device.cuda))
    report = fit.estimate(on_gpu, here.memory_bytes)
    return None if report.fits else Skip(DOES_NOT_FIT, report.explain())


def _unsupported(cfg: RunConfig) -> Skip | None:
    if cfg.gpu.compute_capability is None:
        return None
    capability = float(cfg.gpu.compute_capability)
    has = f"{cfg.gpu.name} has compute capability {cfg.gpu.compute_capability}"
    if cfg.model.dtype == "bfloat16" and capability < 8.0:
        return Skip(
            DTYPE_UNSUPPORTED, f"{has}, bfloat16 begins at 8.0: model.dtype=float16 (another point) would do"
        )
    declared = cfg.model.hf_config.get("quantization_config")
    method = cfg.model.quantization or (
        declared.get("quant_method") if isinstance(declared, Mapping) else None
    )
    least = QUANTIZATION_CAPABILITY.get(str(method))
    if least is not None and capability < least:
        return Skip(QUANTIZATION_UNSUPPORTED, f"{has}, {method} begins at {least}")
    return None
