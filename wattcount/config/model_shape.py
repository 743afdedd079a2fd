"""What a model's `config.json` says: its kind and context, its parameters, and what a request takes of memory while it runs.

Parameters are counted for decoder-only transformers (grouped-query attention, mixture of experts, tied embeddings), for the
state-space model Mamba as FalconMamba has it, and for Nemotron-H, which mixes Mamba-2 layers with attention and experts; they agree
exactly with the models that transformers builds. Memory is that of the KV cache (grouped-query attention, sliding windows, MLA
caches) and of the recurrent state of state-space layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""Keys of `config.json` that say how many tokens of context a model has; the first that is there counts. Architectures name it
differently."""

KINDS = ("dense", "moe", "ssm", "hybrid")
"""Kinds of models, by what computes a token: all of the network, chosen experts, state-space layers, or those beside attention."""


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
    """Tokens that surely fit the model's context window, prompt and completion; None where its `config.json` does not tell.

    A scaled rotary embedding may reach further than what is stated; how far is the engine's to say.
    """
    if text_config(hf_config).get("rope_scaling") or hf_config.get("rope_scaling"):
        return None
    return stated_context_tokens(hf_config)


def stated_context_tokens(hf_config: Mapping[str, Any]) -> int | None:
    """The context that a `config.json` names, tokens: of several names the smallest value."""
    c = text_config(hf_config)
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


_UNGATED = {"gpt2", "gptj", "gpt_neox", "phi", "falcon", "opt", "bloom", "nemotron", "starcoder2", "mpt"}
"""Architectures whose feed-forward has two matrices. Others have three, one of them a gate. These tables are how the
`transformers` library builds each `model_type` whose `config.json` does not say."""
_QKV_BIAS = {"qwen2", "qwen2_moe"}
"""Those whose queries, keys and values have a bias, and the output of attention none."""
_QK_NORM_FULL = {"olmoe", "olmo2"}
"""Those with a norm over all heads of queries and keys together."""
_QK_NORM_HEAD = {"qwen3", "qwen3_moe", "gemma3", "gemma3_text"}
"""Those with a norm over each head of queries and keys."""
_FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
"""Those with a norm before and after attention, and before and after the feed-forward."""
_LAYER_NORM = {"gpt2", "gptj", "gpt_neox", "phi", "nemotron", "phimoe"}
"""Norms with a bias."""
_ONE_NORM = {"gptj", "phi"}
"""Attention and feed-forward side by side behind one norm."""
_ATTENTION_BIAS = {"gpt2", "gpt_neox", "phi"}
"""Those whose attention has a bias everywhere, unless `attention_bias` says otherwise."""
_MLP_BIAS = {"gpt2", "gptj", "gpt_neox", "phi"}
"""Those whose feed-forward has a bias."""
_HEAD_BIAS = {"gptj", "phi"}
"""Those whose output layer has a bias, unless `lm_head_bias` says otherwise."""
_TIED_BY_DEFAULT = {"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2"}
"""Those whose output layer is the embedding, unless `tie_word_embeddings` says otherwise."""
_NOT_A_PLAIN_TRANSFORMER = ("mamba", "nemotron_h", "jamba", "bamba", "falcon_h1", "rwkv", "zamba")
"""Beginnings of the `model_type` of those that are not built of attention and feed-forward alone: their parameters are not
counted here."""


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a decoder."""

    linear: int
    """Parameters in the matrices of the layers, which quantisation shrinks."""
    other: int
    """Embeddings, output head, norms, convolutions, which it mostly does not; attention where config.json says so."""
    inactive: int
    """Parameters of `linear` in experts that one token does not use."""

    @property
    def total(self) -> int:
        return self.linear + self.other

    @property
    def active(self) -> int:
        return self.total - self.inactive


def count_parameters(hf_config: Mapping[str, Any]) -> ParameterCount | None:
    """Parameters by the shape in `config.json`; None where it is of a kind that is not known here."""
    c = text_config(hf_config)
    kind = str(c.get("model_type", ""))
    if kind == "falcon_mamba":
        return _count_mamba(c)
    if kind == "nemotron_h":
        return _count_nemotron_h(c)
    if any(kind.startswith(name) for name in _NOT_A_PLAIN_TRANSFORMER):
        return None
    d = first_int(c, "hidden_size", "n_embd")
    layers = first_int(c, "num_hidden_layers", "n_layer")
    heads = first_int(c, "num_attention_heads", "n_head")
    vocab = first_int(c, "vocab_size")
    if d is None or layers is None or heads is None or vocab is None:
        return None
    inner = first_int(c, "intermediate_size", "n_inner", "ffn_dim") or 4 * d
    kv_heads = kv_head_count(c, heads)
    head = first_int(c, "head_dim") or d // heads
    q, kv = heads * head, kv_heads * head

    attention = d * q + 2 * d * kv + q * d
    if c.get("kv_lora_rank"):
        latent = _latent_attention(c, d, heads)
        if latent is None:
            return None
        attention = latent
    elif kind in _QKV_BIAS:
        attention += q + 2 * kv
    elif c.get("attention_bias", kind in _ATTENTION_BIAS):
        attention += q + 2 * kv + d
    if kind == "gpt_oss":
        attention += heads  # the attention sinks
    norm = 2 * d if kind in _LAYER_NORM else d
    norms = (4 if kind in _FOUR_NORMS else 1 if kind in _ONE_NORM else 2) * norm
    if kind in _QK_NORM_FULL:
        norms += q + kv
    elif kind in _QK_NORM_HEAD:
        norms += 2 * head

    matrices = 2 if kind in _UNGATED else 3
    dense = matrices * d * inner
    if kind in _MLP_BIAS:
        dense += inner + d
    experts = first_int(c, "num_experts", "num_local_experts", "n_routed_experts")
    inactive = 0
    if experts:
        expert_inner = first_int(c, "moe_intermediate_size") or inner
        expert = matrices * d * expert_inner
        router = d * experts
        if kind == "gpt_oss":
            expert += (matrices - 1) * expert_inner + d
            router += experts
        chosen = first_int(c, "num_experts_per_tok", "moe_top_k") or experts
        shared_inner = first_int(c, "shared_expert_intermediate_size")
        shared = matrices * d * shared_inner + d if shared_inner else 0
        shared += (first_int(c, "n_shared_experts") or 0) * expert
        dense_layers = first_int(c, "first_k_dense_replace") or 0
        moe = experts * expert + shared + router
        mlp = dense_layers * dense + (layers - dense_layers) * moe
        inactive = (layers - dense_layers) * (experts - chosen) * expert
    else:
        mlp = layers * dense
    tied = bool(c.get("tie_word_embeddings", hf_config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT)))
    embeddings = vocab * d * (1 if tied else 2)
    if kind == "gpt2":
        embeddings += (first_int(c, "n_positions", "max_position_embeddings") or 0) * d
    if c.get("lm_head_bias", kind in _HEAD_BIAS):
        embeddings += vocab
    linear, other = mlp, embeddings + layers * norms + norm
    if _attention_is_quantized(hf_config):
        linear += layers * attention
    else:
        other += layers * attention
    return ParameterCount(linear=linear, other=other, inactive=inactive)


def unfused_norms(hf_config: Mapping[str, Any]) -> int:
    """Kinds of norms of a layer beside the two that all have, for which engines have no fused kernel: around sublayers, over all heads."""
    kind = text_config(hf_config).get("model_type")
    return int(kind in _FOUR_NORMS) + int(kind in _QK_NORM_FULL)


def kv_head_count(c: Mapping[str, Any], heads: int) -> int:
    """Heads of keys and values. Falcon names them otherwise, and has one where all queries share it."""
    stated = first_int(c, "num_key_value_heads", "num_kv_heads")
    if c.get("model_type") == "falcon" and not c.get("new_decoder_architecture"):
        return 1 if c.get("multi_query", True) else heads
    return stated or heads


def _latent_attention(c: Mapping[str, Any], d: int, heads: int) -> int | None:
    """Weights of one layer's multi-head latent attention (DeepSeek V2 and V3), its two norms included."""
    kv_rank, rope = first_int(c, "kv_lora_rank"), first_int(c, "qk_rope_head_dim")
    nope, value = first_int(c, "qk_nope_head_dim"), first_int(c, "v_head_dim")
    if kv_rank is None or rope is None or nope is None or value is None:
        return None
    q_rank = first_int(c, "q_lora_rank")
    q = heads * (nope + rope)
    queries = d * q if q_rank is None else d * q_rank + q_rank + q_rank * q
    keys = d * (kv_rank + rope) + kv_rank + kv_rank * heads * (nope + value)
    return queries + keys + heads * value * d


def _attention_is_quantized(hf_config: Mapping[str, Any]) -> bool:
    declared = hf_config.get("quantization_config")
    kept = declared.get("modules_to_not_convert") if isinstance(declared, Mapping) else None
    return not any("self_attn" in str(module) for module in kept or [])


def _count_mamba(c: Mapping[str, Any]) -> ParameterCount | None:
    """FalconMamba: Mamba-1 layers (arXiv 2312.00752) and nothing else."""
    d, layers, vocab = (
        first_int(c, "hidden_size"),
        first_int(c, "num_hidden_layers"),
        first_int(c, "vocab_size"),
    )
    state, kernel = first_int(c, "state_size"), first_int(c, "conv_kernel")
    if d is None or layers is None or vocab is None or state is None or kernel is None:
        return None
    inner = first_int(c, "intermediate_size") or (first_int(c, "expand") or 2) * d
    rank = first_int(c, "time_step_rank") or math.ceil(d / 16)
    linear = 2 * d * inner + inner * (rank + 2 * state) + rank * inner + inner * d
    if c.get("use_bias"):
        linear += 2 * inner + d
    convolution = inner * kernel + (inner if c.get("use_conv_bias", True) else 0)
    other = convolution + inner + inner * state + inner + d  # step bias, A, D, norm
    embeddings = vocab * d * (1 if c.get("tie_word_embeddings", True) else 2)
    return ParameterCount(linear=layers * linear, other=layers * other + embeddings + d, inactive=0)


def _count_nemotron_h(c: Mapping[str, Any]) -> ParameterCount | None:
    """Nemotron-H: one letter of `hybrid_override_pattern` a layer, M Mamba-2, * attention, E experts, - dense."""
    pattern = str(c.get("hybrid_override_pattern", ""))
    d, vocab, heads = (
        first_int(c, "hidden_size"),
        first_int(c, "vocab_size"),
        first_int(c, "num_attention_heads"),
    )
    mamba = mamba2_shape(c)
    if (
        not pattern
        or set(pattern) - set("M*E-")
        or d is None
        or vocab is None
        or heads is None
        or mamba is None
    ):
        return None
    mamba_heads, inner, convolved, kernel = mamba
    mixer = d * (inner + convolved + mamba_heads) + inner * d
    mixer_other = convolved * (kernel + (1 if c.get("use_conv_bias", True) else 0)) + 3 * mamba_heads + inner

    head = first_int(c, "head_dim") or d // heads
    attention = 2 * d * head * (heads + (first_int(c, "num_key_value_heads") or heads))

    experts = first_int(c, "n_routed_experts") or 0
    chosen = first_int(c, "num_experts_per_tok") or experts
    expert = 2 * d * (first_int(c, "moe_intermediate_size") or 0)
    shared = (
        (first_int(c, "n_shared_experts") or 0)
        * 2
        * d
        * (first_int(c, "moe_shared_expert_intermediate_size") or 0)
    )
    moe = experts * expert + shared + experts * d

    count = pattern.count
    linear = count("M") * mixer + count("*") * attention + count("E") * moe
    linear += count("-") * 2 * d * (first_int(c, "intermediate_size") or 4 * d)
    embeddings = vocab * d * (1 if c.get("tie_word_embeddings", False) else 2)
    return ParameterCount(
        linear=linear,
        other=count("M") * mixer_other + len(pattern) * d + d + embeddings,
        inactive=count("E") * (experts - chosen) * expert,
    )


def expert_parameters(hf_config: Mapping[str, Any], counted: ParameterCount) -> float:
    """Parameters in routed experts, over which data parallelism is spread, too; 0 where each token uses all."""
    c = text_config(hf_config)
    experts = first_int(c, "num_experts", "num_local_experts", "n_routed_experts") or 0
    unused = experts - (first_int(c, "num_experts_per_tok", "moe_top_k") or experts)
    return counted.inactive * experts / unused if unused > 0 else 0.0


_ALTERNATING_WINDOWS = {"gemma2", "gpt_oss"}
"""Those of which every second layer attends to a sliding window only, where `layer_types` does not say."""


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
    kv_heads = kv_head_count(c, heads)
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
