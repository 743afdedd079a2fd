"""What a `config.json` says of a model: its kind, and the values that go by several names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")

KINDS = ("dense", "moe", "ssm", "hybrid")


def model_kind(hf_config: Mapping[str, Any]) -> str:
    """One of `KINDS`: dense transformer, mixture of experts, state-space, or state-space with attention."""
    c = text_config(hf_config)
    if c.get("model_type") == "nemotron_h":
        return "hybrid"
    if c.get("model_type") == "falcon_mamba":
        return "ssm"
    return "moe" if first_int(c, "num_experts", "num_local_experts", "n_routed_experts") else "dense"


def text_config(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a `config.json` (multimodal models nest it)."""
    inner = hf_config.get("text_config")
    return inner if isinstance(inner, Mapping) else hf_config


def context_tokens(hf_config: Mapping[str, Any]) -> int | None:
    """Tokens in the model's context window, prompt and completion; None where its `config.json` does not tell.

    Of several names the smallest value. A scaled rotary embedding reaches
    further than that; how far is the engine's to say.
    """
    c = text_config(hf_config)
    if c.get("rope_scaling") or hf_config.get("rope_scaling"):
        return None
    return min((value for key in _CONTEXT_KEYS if (value := first_int(c, key)) is not None), default=None)


def first_int(c: Mapping[str, Any], *names: str) -> int | None:
    """The first of `names` that is an integer; None where none is."""
    for name in names:
        value = c.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def mamba2_shape(c: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Heads, inner width, convolved channels (inner, B and C) and kernel of a Mamba-2 layer."""
    heads, width = first_int(c, "mamba_num_heads"), first_int(c, "mamba_head_dim")
    groups, state, kernel = (
        first_int(c, "n_groups"),
        first_int(c, "ssm_state_size"),
        first_int(c, "conv_kernel"),
    )
    if heads is None or width is None or groups is None or state is None or kernel is None:
        return None
    return heads, heads * width, heads * width + 2 * groups * state, kernel
