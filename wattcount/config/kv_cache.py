"""What a request takes of a GPU's memory while it runs: KV cache, and recurrent state of state-space layers.

Grouped-query attention, sliding windows, MLA caches, Mamba and Nemotron-H, by the shape in `config.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wattcount.config.hf_config import first_int, mamba2_shape, text_config

_ALTERNATING_WINDOWS = {"gemma2", "gpt_oss"}


def kv_bytes_per_token(hf_config: Mapping[str, Any], element_bytes: float, tensor_parallel: int = 1) -> int:
    """Bytes one token takes in the KV cache of one GPU, all layers. 0 where the config does not tell.

    2 x layers x KV heads x head size x bytes; KV heads are spread over the GPUs and repeated where there are
    fewer of them. With multi-head latent attention (MLA) the compressed state instead.
    """
    return int(sum(_kv_layers(hf_config, element_bytes, tensor_parallel)))


def kv_cache_bytes(
    hf_config: Mapping[str, Any], tokens: int, element_bytes: float, tensor_parallel: int = 1
) -> int:
    """Bytes a request of `tokens` takes on one GPU, without recurrent state (`state_bytes`).

    Layers with a sliding window keep only the window.
    """
    full, sliding = _kv_layers(hf_config, element_bytes, tensor_parallel)
    window = first_int(text_config(hf_config), "sliding_window") or tokens
    return int(full * tokens + sliding * min(tokens, window))


def state_bytes(hf_config: Mapping[str, Any], element_bytes: float, tensor_parallel: int = 1) -> int:
    """Bytes of recurrent state a request takes on one GPU, however long it is: 0 without state-space layers.

    Each such layer keeps the last inputs of its convolution, channels x (kernel - 1), and its state,
    inner width x state size; the latter in 32 bit where `mamba_ssm_cache_dtype` says so.
    """
    c = text_config(hf_config)
    kind = c.get("model_type")
    ssm_element = 4.0 if c.get("mamba_ssm_cache_dtype") == "float32" else element_bytes
    if kind == "falcon_mamba":
        layers, state, kernel = (
            first_int(c, "num_hidden_layers"),
            first_int(c, "state_size"),
            first_int(c, "conv_kernel"),
        )
        inner = convolved = first_int(c, "intermediate_size") or (first_int(c, "expand") or 2) * (
            first_int(c, "hidden_size") or 0
        )
    elif kind == "nemotron_h":
        shape = mamba2_shape(c)
        if shape is None:
            return 0
        layers, state = str(c.get("hybrid_override_pattern", "")).count("M"), first_int(c, "ssm_state_size")
        _, inner, convolved, kernel = shape
    else:
        return 0
    if layers is None or state is None or kernel is None:
        return 0
    each = convolved * (kernel - 1) * element_bytes + inner * state * ssm_element
    return math.ceil(layers * each / tensor_parallel)


def _kv_layers(
    hf_config: Mapping[str, Any], element_bytes: float, tensor_parallel: int
) -> tuple[float, float]:
    """Bytes a token takes in the layers with full attention, and in those with a sliding window."""
    c = text_config(hf_config)
    layers = first_int(c, "num_hidden_layers", "n_layer")
    heads = first_int(c, "num_attention_heads", "n_head")
    d = first_int(c, "hidden_size", "n_embd")
    if layers is None or heads is None or d is None:
        return 0.0, 0.0
    if c.get("model_type") == "nemotron_h":
        layers = str(c.get("hybrid_override_pattern", "")).count("*")
    latent = first_int(c, "kv_lora_rank")
    if latent:
        return layers * (latent + (first_int(c, "qk_rope_head_dim") or 0)) * element_bytes, 0.0
    kv_heads = first_int(c, "num_key_value_heads") or heads
    head = first_int(c, "head_dim") or d // heads
    per_layer = 2 * max(1, math.ceil(kv_heads / tensor_parallel)) * head * element_bytes
    sliding = _sliding_layers(c, layers)
    return (layers - sliding) * per_layer, sliding * per_layer


def _sliding_layers(c: Mapping[str, Any], layers: int) -> int:
    if not c.get("sliding_window") or c.get("use_sliding_window") is False:
        return 0
    types = c.get("layer_types")
    if isinstance(types, list):
        return sum(kind == "sliding_attention" for kind in types)
    kind = c.get("model_type")
    if kind in _ALTERNATING_WINDOWS:
        return (layers + 1) // 2
    if kind in ("gemma3", "gemma3_text"):
        pattern = first_int(c, "sliding_window_pattern") or 6
        return layers - layers // pattern
    if kind == "qwen2":
        return max(0, layers - (first_int(c, "max_window_layers") or 0))
    return layers
