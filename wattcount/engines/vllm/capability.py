"""What a GPU's compute capability allows vLLM: number formats of weights, activations and KV cache.

Least capabilities are those that it asks for (`get_min_capability` of its quantisation methods, as of 0.32).
"""

from __future__ import annotations

from collections.abc import Iterator

from wattcount.config.schema import RunConfig, Weights, has_bfloat16
from wattcount.engines.plugin import Unsupported

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
"""By `model.quantization`; methods that are not here are left to the engine."""

FP8_COMPUTE = 8.9
"""From here on `fp8` computes in 8 bit (W8A8). Below it only stores weights so, and computes in 16 (Marlin kernels)."""
FP8_KV_CACHE = 8.0

NEEDS_CHECKPOINT = frozenset(
    {"awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin", "compressed-tensors", "fbgemm_fp8"}
    | {"mxfp4", "gpt_oss_mxfp4", "modelopt", "modelopt_fp4", "quark"}
)
"""Methods whose weights are quantised beforehand, as `quantization_config` in the model's config.json says. `fp8`,
`bitsandbytes`, `experts_int8` and `torchao` can be applied to any weights as they are loaded."""


def unsupported(cfg: RunConfig, compute_capability: str | None) -> Iterator[Unsupported]:
    """What a GPU of this capability (`8.9`; None: not known) cannot do, and what the model lacks for it."""
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
    """Of random weights, and of those in a folder, config.json is known."""
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
