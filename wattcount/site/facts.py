"""What the catalogue knows of the models and GPUs that results name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from wattcount.config import model_shape
from wattcount.config.catalogue import match_gpu, model_catalogue
from wattcount.config.schema import ModelConfig
from wattcount.site.shown import rounded, shown
from wattcount.site.tables import Setting
from wattcount.study.comparison import Cell

BILLION = 1e9

Facts = dict[str, dict[str, Any]]


def models(settings: Iterable[Setting]) -> Facts:
    """By the name of a model that is in the catalogue: how many parameters it has, and its id on the hub."""
    catalogue = model_catalogue()
    names = {setting.first.model for setting in settings}
    return {shown(name): _model(catalogue[name]) for name in sorted(filter(None, names)) if name in catalogue}


def _model(model: ModelConfig) -> dict[str, Any]:
    counted = model_shape.count_parameters(model.hf_config)
    found = {"hf_id": model.hf_id}
    if counted is None:
        return found
    return found | {
        "parameters_b": rounded(counted.total / BILLION, 4),
        "active_parameters_b": rounded(counted.active / BILLION, 4),
    }


def gpus(settings: Iterable[Setting]) -> Facts:
    """By the name of a GPU that is in the catalogue: its data sheet."""
    found: Facts = {}
    for setting in settings:
        run = setting.first
        names = sorted(set(run.gpus))
        if len(names) == 1 and (known := match_gpu(names[0])) is not None:
            found[shown(Cell(None, (run,)).gpu_model)] = {
                "memory_gib": known.memory_gib,
                "memory_bandwidth_gb_s": known.memory_bandwidth_gb_s,
                "fp16_dense_tflops": known.fp16_dense_tflops,
                "fp8_dense_tflops": known.fp8_dense_tflops,
                "tdp_w": known.tdp_w,
            }
    return dict(sorted(found.items()))
