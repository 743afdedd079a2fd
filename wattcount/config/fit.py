"""Whether a model fits: weights + KV cache + activations against the memory of one GPU (or the host).

    usable = memory x gpu_memory_utilization                          (a CPU engine: the memory that is free)
    needed = weights / GPUs + KV cache of the longest request + activations + what the engine takes besides

of the GPU that has most to hold. Tensor parallelism splits each layer, pipeline parallelism deals out the layers
(the first stage holds the embeddings too, the last the output head), data parallelism makes whole replicas, which
share no more than the experts of a mixture of experts. A draft model of speculative decoding comes on top.

vLLM starts when the longest request alone fits and queues the rest, so that is what `fits` asks; how much
the scenario's requests would take all at once is reported beside it. The arithmetic is for decoder-only
transformers (grouped-query attention, mixture of experts, sliding windows, tied embeddings, MLA caches), for
the state-space model Mamba as FalconMamba has it, and for Nemotron-H, which mixes Mamba-2 layers with attention and
experts; it agrees exactly with the models that transformers builds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wattcount.config.schema import (
    BatchConfig,
    Device,
    LengthKind,
    ModelConfig,
    RunConfig,
    ScenarioConfig,
    ServerConfig,
)

GIB = 2**30

CUDA_OVERHEAD_BYTES = 1 * GIB
"""CUDA context, kernels, CUDA graphs and collectives, on each GPU."""
CPU_OVERHEAD_BYTES = 2 * GIB
"""vLLM's two processes with torch loaded, on the CPU."""
DEFAULT_BATCHED_TOKENS = 8192
"""vLLM's `max_num_batched_tokens` on data-centre GPUs, where it is not set."""
DEFAULT_MAX_SEQS = 256
"""A common `max_num_seqs` of vLLM, where it is not set."""
MODEL_LEN_STEP = 256

DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
QUANTIZED_BITS = {
    "awq": 4.25,
    "auto_awq": 4.25,
    "gptq": 4.25,
    "auto_gptq": 4.25,
    "gptq_marlin": 4.25,
    "awq_marlin": 4.25,
    "bitsandbytes": 4.25,
    "mxfp4": 4.25,
    "nvfp4": 4.5,
    "modelopt_fp4": 4.5,
    "fp8": 8.0,
    "modelopt": 8.0,
    "fbgemm_fp8": 8.0,
    "experts_int8": 8.0,
    "compressed-tensors": 8.0,
}
"""Bits a weight of a linear layer, with one 16-bit scale and zero point a group of 128 for 4-bit methods."""

_UNGATED = {"gpt2", "gptj", "gpt_neox", "phi", "falcon", "opt", "bloom", "nemotron", "starcoder2", "mpt"}
_QKV_BIAS = {"qwen2", "qwen2_moe"}
_QK_NORM_FULL = {"olmoe", "olmo2"}
_QK_NORM_HEAD = {"qwen3", "qwen3_moe", "gemma3", "gemma3_text"}
_FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
_ALTERNATING_WINDOWS = {"gemma2", "gpt_oss"}
_LAYER_NORM = {"gpt2", "gptj", "gpt_neox", "phi", "nemotron", "phimoe"}
"""Norms with a bias."""
_ONE_NORM = {"gptj", "phi"}
"""Attention and feed-forward side by side behind one norm."""
_ATTENTION_BIAS = {"gpt2", "gpt_neox", "phi"}
_MLP_BIAS = {"gpt2", "gptj", "gpt_neox", "phi"}
_HEAD_BIAS = {"gptj", "phi"}
_TIED_BY_DEFAULT = {"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2"}
_NOT_A_PLAIN_TRANSFORMER = ("mamba", "nemotron_h", "jamba", "bamba", "falcon_h1", "rwkv", "zamba")


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a decoder."""

    linear: int
    """In the matrices of the layers, which quantisation shrinks."""
    other: int
    """Embeddings, output head, norms, convolutions, which it mostly does not; attention where config.json says so."""
    inactive: int
    """Of `linear`: experts that one token does not use."""

    @property
    def total(self) -> int:
        return self.linear + self.other

    @property
    def active(self) -> int:
        return self.total - self.inactive


KINDS = ("dense", "moe", "ssm", "hybrid")


def model_kind(hf_config: Mapping[str, Any]) -> str:
    """One of `KINDS`: dense transformer, mixture of experts, state-space, or state-space with attention."""
    c = text_config(hf_config)
    if c.get("model_type") == "nemotron_h":
        return "hybrid"
    if c.get("model_type") == "falcon_mamba":
        return "ssm"
    return "moe" if _int(c, "num_experts", "num_local_experts", "n_routed_experts") else "dense"


def text_config(hf_config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a `config.json` (multimodal models nest it)."""
    inner = hf_config.get("text_config")
    return inner if isinstance(inner, Mapping) else hf_config


def count_parameters(hf_config: Mapping[str, Any]) -> ParameterCount | None:
    """Parameters by the shape in `config.json`; None where it is of a kind that is not known here."""
    c = text_config(hf_config)
    kind = str(c.get("model_type", ""))
    if kind == "falcon_mamba":
        return _count_mamba(c)
    if kind == "nemotron_h":
        return _count_nemotron_h(c)
    if any(kind.startswith(name) for name in _NOT_A_PLAIN_TRANSFORMER) or c.get("kv_lora_rank"):
        return None
    d = _int(c, "hidden_size", "n_embd")
    layers = _int(c, "num_hidden_layers", "n_layer")
    heads = _int(c, "num_attention_heads", "n_head")
    vocab = _int(c, "vocab_size")
    if d is None or layers is None or heads is None or vocab is None:
        return None
    inner = _int(c, "intermediate_size", "n_inner") or 4 * d
    kv_heads = _int(c, "num_key_value_heads") or heads
    head = _int(c, "head_dim") or d // heads
    q, kv = heads * head, kv_heads * head

    attention = d * q + 2 * d * kv + q * d
    if kind in _QKV_BIAS:
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
    experts = _int(c, "num_experts", "num_local_experts", "n_routed_experts")
    inactive = 0
    if experts:
        expert_inner = _int(c, "moe_intermediate_size") or inner
        expert = matrices * d * expert_inner
        router = d * experts
        if kind == "gpt_oss":
            expert += (matrices - 1) * expert_inner + d
            router += experts
        chosen = _int(c, "num_experts_per_tok", "moe_top_k") or experts
        shared_inner = _int(c, "shared_expert_intermediate_size")
        shared = matrices * d * shared_inner + d if shared_inner else 0
        shared += (_int(c, "n_shared_experts") or 0) * expert
        dense_layers = _int(c, "first_k_dense_replace") or 0
        moe = experts * expert + shared + router
        mlp = dense_layers * dense + (layers - dense_layers) * moe
        inactive = (layers - dense_layers) * (experts - chosen) * expert
    else:
        mlp = layers * dense
    tied = bool(c.get("tie_word_embeddings", hf_config.get("tie_word_embeddings", kind in _TIED_BY_DEFAULT)))
    embeddings = vocab * d * (1 if tied else 2)
    if kind == "gpt2":
        embeddings += (_int(c, "n_positions", "max_position_embeddings") or 0) * d
    if c.get("lm_head_bias", kind in _HEAD_BIAS):
        embeddings += vocab
    linear, other = mlp, embeddings + layers * norms + norm
    if _attention_is_quantized(hf_config):
        linear += layers * attention
    else:
        other += layers * attention
    return ParameterCount(linear=linear, other=other, inactive=inactive)


def _attention_is_quantized(hf_config: Mapping[str, Any]) -> bool:
    declared = hf_config.get("quantization_config")
    kept = declared.get("modules_to_not_convert") if isinstance(declared, Mapping) else None
    return not any("self_attn" in str(module) for module in kept or [])


def _count_mamba(c: Mapping[str, Any]) -> ParameterCount | None:
    """FalconMamba: Mamba-1 layers (arXiv 2312.00752) and nothing else."""
    d, layers, vocab = _int(c, "hidden_size"), _int(c, "num_hidden_layers"), _int(c, "vocab_size")
    state, kernel = _int(c, "state_size"), _int(c, "conv_kernel")
    if d is None or layers is None or vocab is None or state is None or kernel is None:
        return None
    inner = _int(c, "intermediate_size") or (_int(c, "expand") or 2) * d
    rank = _int(c, "time_step_rank") or math.ceil(d / 16)
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
    d, vocab, heads = _int(c, "hidden_size"), _int(c, "vocab_size"), _int(c, "num_attention_heads")
    mamba = _mamba2_shape(c)
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

    head = _int(c, "head_dim") or d // heads
    attention = 2 * d * head * (heads + (_int(c, "num_key_value_heads") or heads))

    experts = _int(c, "n_routed_experts") or 0
    chosen = _int(c, "num_experts_per_tok") or experts
    expert = 2 * d * (_int(c, "moe_intermediate_size") or 0)
    shared = (
        (_int(c, "n_shared_experts") or 0) * 2 * d * (_int(c, "moe_shared_expert_intermediate_size") or 0)
    )
    moe = experts * expert + shared + experts * d

    count = pattern.count
    linear = count("M") * mixer + count("*") * attention + count("E") * moe
    linear += count("-") * 2 * d * (_int(c, "intermediate_size") or 4 * d)
    embeddings = vocab * d * (1 if c.get("tie_word_embeddings", False) else 2)
    return ParameterCount(
        linear=linear,
        other=count("M") * mixer_other + len(pattern) * d + d + embeddings,
        inactive=count("E") * (experts - chosen) * expert,
    )


def _mamba2_shape(c: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Heads, inner width, convolved channels (inner, B and C) and kernel of a Mamba-2 layer."""
    heads, width = _int(c, "mamba_num_heads"), _int(c, "mamba_head_dim")
    groups, state, kernel = _int(c, "n_groups"), _int(c, "ssm_state_size"), _int(c, "conv_kernel")
    if heads is None or width is None or groups is None or state is None or kernel is None:
        return None
    return heads, heads * width, heads * width + 2 * groups * state, kernel


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
            _int(c, "num_hidden_layers"),
            _int(c, "state_size"),
            _int(c, "conv_kernel"),
        )
        inner = convolved = _int(c, "intermediate_size") or (_int(c, "expand") or 2) * (
            _int(c, "hidden_size") or 0
        )
    elif kind == "nemotron_h":
        shape = _mamba2_shape(c)
        if shape is None:
            return 0
        layers, state = str(c.get("hybrid_override_pattern", "")).count("M"), _int(c, "ssm_state_size")
        _, inner, convolved, kernel = shape
    else:
        return 0
    if layers is None or state is None or kernel is None:
        return 0
    each = convolved * (kernel - 1) * element_bytes + inner * state * ssm_element
    return math.ceil(layers * each / tensor_parallel)


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
    window = _int(text_config(hf_config), "sliding_window") or tokens
    return int(full * tokens + sliding * min(tokens, window))


def model_context_limit(model: ModelConfig) -> int | None:
    """Tokens in the model's context window, prompt and completion; None where the config does not tell."""
    c = text_config(model.hf_config)
    if c.get("rope_scaling"):
        return None  # a scaled rotary embedding reaches further; how far is the engine's to say
    return _int(c, "max_position_embeddings", "n_positions", "max_sequence_length")


def longest_request_tokens(scenario: ScenarioConfig) -> int:
    """Prompt plus completion of the longest request that the scenario can send."""
    lengths = scenario.lengths
    if lengths.kind is LengthKind.fixed:
        return lengths.input_tokens + lengths.output_tokens
    return lengths.input_tokens_max + lengths.output_tokens_max


def max_model_len(cfg: RunConfig) -> int:
    """The engine's `max_model_len`: as set, else the longest request rounded up, within the model's context."""
    if cfg.engine.max_model_len is not None:
        return cfg.engine.max_model_len
    longest = longest_request_tokens(cfg.scenario)
    rounded = math.ceil(longest / MODEL_LEN_STEP) * MODEL_LEN_STEP
    limit = model_context_limit(cfg.model)
    return max(longest, rounded if limit is None else min(rounded, limit))


def mean_request_tokens(scenario: ScenarioConfig) -> int:
    return scenario.lengths.input_tokens + scenario.lengths.output_tokens


def concurrency(cfg: RunConfig) -> int:
    """Requests that could run at once: no more than the scenario sends or the engine admits."""
    admitted = cfg.engine.max_num_seqs or DEFAULT_MAX_SEQS
    scenario = cfg.scenario
    if isinstance(scenario, BatchConfig):
        return min(scenario.num_requests, admitted)
    assert isinstance(scenario, ServerConfig)
    if scenario.max_in_flight is not None:
        admitted = min(admitted, scenario.max_in_flight)
    if scenario.rate_rps is None:
        return admitted
    return max(1, min(math.ceil(scenario.rate_rps * scenario.window_s), admitted))


@dataclass(frozen=True)
class FitReport:
    """Bytes are on one GPU of the `gpus` that share the model, or on the host for a CPU engine."""

    fits: bool
    memory_bytes: int
    usable_bytes: int
    needed_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    """Of the longest request alone, with its recurrent state."""
    kv_cache_all_bytes: int
    """Of `concurrency` requests of mean length at once, with their recurrent state."""
    state_bytes: int
    """Recurrent state of one request, in `kv_cache_bytes`; 0 without state-space layers."""
    activation_bytes: int
    overhead_bytes: int
    draft_bytes: int
    """Of `needed_bytes`: weights and KV cache of a draft model."""
    parameters: int | None
    """None: not known, and nothing was concluded."""
    kv_bytes_per_token: int
    model_len: int
    concurrency: int
    """Of one replica."""
    tensor_parallel: int
    pipeline_parallel: int
    data_parallel: int
    weight_bits: float
    device: str

    @property
    def all_at_once(self) -> bool:
        """The scenario's requests fit all at once; else the engine queues some."""
        return self.needed_bytes - self.kv_cache_bytes + self.kv_cache_all_bytes <= self.usable_bytes

    def explain(self) -> str:
        """The arithmetic, one line."""
        if self.parameters is None:
            return "the size of this model is not known; whether it fits shows when the engine starts"
        gpus = self.tensor_parallel * self.pipeline_parallel
        share = f" / {gpus} GPUs" if gpus > 1 else ""
        draft = f" + draft model {_gib(self.draft_bytes)}" if self.draft_bytes else ""
        state = f" + state {self.state_bytes / 2**20:.0f} MiB" if self.state_bytes else ""
        return (
            f"weights {_gib(self.weights_bytes)} ({self.parameters / 1e9:.2f}e9 parameters x "
            f"{self.weight_bits:g} bit{share}) + KV cache {_gib(self.kv_cache_bytes)} "
            f"({self.model_len} tokens x {self.kv_bytes_per_token / 1024:.0f} KiB{state}){draft} + activations "
            f"{_gib(self.activation_bytes)} + engine {_gib(self.overhead_bytes)} = "
            f"{_gib(self.needed_bytes)} of {_gib(self.usable_bytes)} usable"
        )


def estimate(cfg: RunConfig, memory_bytes: int) -> FitReport:
    """Whether `cfg.model` fits `memory_bytes`: all of one GPU's memory, or what is free on the host.

    Where neither `hf_config` nor `parameters_b` tells the size, `fits` is True and `parameters` None.
    """
    on_cpu = cfg.engine.device is Device.cpu
    tp, pp, dp = (
        cfg.engine.tensor_parallel_size,
        cfg.engine.pipeline_parallel_size,
        cfg.engine.data_parallel_size,
    )
    hf = cfg.model.hf_config
    counted = count_parameters(hf)
    element = DTYPE_BYTES.get(cfg.model.dtype, 2.0)
    bits = weight_bits(cfg.model)
    parameters: int | None
    if counted is not None:
        parameters = counted.total
        experts = _expert_parameters(hf, counted)
        layers = (counted.linear - experts) / tp + experts / (tp * dp)
        weights = int(layers * bits / 8 * _stage(hf, pp) + counted.other * element / tp / min(pp, 2))
    elif cfg.model.parameters_b is not None:
        parameters = int(cfg.model.parameters_b * 1e9)
        weights = int(parameters * bits / 8 / tp / pp)
    else:
        parameters, weights = None, 0

    length = max_model_len(cfg)
    at_once = math.ceil(concurrency(cfg) / dp)
    stage = _stage(hf, pp)
    kv_element = 1.0 if cfg.engine.kv_cache_dtype.startswith("fp8") else element
    kv_token = int(kv_bytes_per_token(hf, kv_element, tp) * stage)
    state = int(state_bytes(hf, element, tp) * stage)
    kv_one = int(kv_cache_bytes(hf, length, kv_element, tp) * stage) + state
    mean_length = min(length, mean_request_tokens(cfg.scenario))
    kv_all = at_once * (int(kv_cache_bytes(hf, mean_length, kv_element, tp) * stage) + state)
    draft = _draft_bytes(cfg, length, kv_element)
    activations = _activation_bytes(cfg, element, at_once, length)
    overhead = CPU_OVERHEAD_BYTES if on_cpu else CUDA_OVERHEAD_BYTES
    usable = memory_bytes if on_cpu else int(memory_bytes * cfg.engine.gpu_memory_utilization)
    needed = weights + kv_one + draft + activations + overhead
    return FitReport(
        fits=parameters is None or needed <= usable,
        memory_bytes=memory_bytes,
        usable_bytes=usable,
        needed_bytes=needed,
        weights_bytes=weights,
        kv_cache_bytes=kv_one,
        kv_cache_all_bytes=max(kv_one, kv_all),
        state_bytes=state,
        activation_bytes=activations,
        overhead_bytes=overhead,
        draft_bytes=draft,
        parameters=parameters,
        kv_bytes_per_token=kv_token,
        model_len=length,
        concurrency=at_once,
        tensor_parallel=tp,
        pipeline_parallel=pp,
        data_parallel=dp,
        weight_bits=bits,
        device="cpu" if on_cpu else "cuda",
    )


def _stage(hf_config: Mapping[str, Any], pipeline_parallel: int) -> float:
    """Share of the layers in the stage that has most of them."""
    layers = _int(text_config(hf_config), "num_hidden_layers", "n_layer") or pipeline_parallel
    return math.ceil(layers / pipeline_parallel) / layers


def _expert_parameters(hf_config: Mapping[str, Any], counted: ParameterCount) -> float:
    """Parameters in routed experts, over which vLLM spreads data parallelism, too; 0 where each token uses all."""
    c = text_config(hf_config)
    experts = _int(c, "num_experts", "num_local_experts", "n_routed_experts") or 0
    unused = experts - (_int(c, "num_experts_per_tok", "moe_top_k") or experts)
    return counted.inactive * experts / unused if unused > 0 else 0.0


def _draft_bytes(cfg: RunConfig, length: int, kv_element: float) -> int:
    """Weights and KV cache of the draft model on one GPU; it is split over tensor parallelism only."""
    if cfg.engine.speculative.draft_model is None:
        return 0
    from wattcount.config.composition import catalogued_model

    draft = catalogued_model(cfg.engine.speculative.draft_model)
    counted = count_parameters(draft.hf_config) if draft is not None else None
    if draft is None or counted is None:
        return 0
    tp = cfg.engine.tensor_parallel_size
    weights = counted.total * DTYPE_BYTES.get(cfg.model.dtype, 2.0) / tp
    return int(weights) + kv_cache_bytes(draft.hf_config, length, kv_element, tp)


def _activation_bytes(cfg: RunConfig, element: float, at_once: int, length: int) -> int:
    """The largest step: residual stream, gate and up projections of all its tokens, logits of all its requests."""
    c = text_config(cfg.model.hf_config)
    d = _int(c, "hidden_size", "n_embd") or 0
    inner = _int(c, "intermediate_size", "n_inner") or 4 * d
    if _int(c, "num_experts", "num_local_experts", "n_routed_experts"):
        inner = (_int(c, "moe_intermediate_size") or inner) * (_int(c, "num_experts_per_tok") or 1)
    vocab = _int(c, "vocab_size") or 0
    tokens = cfg.engine.max_num_batched_tokens or DEFAULT_BATCHED_TOKENS
    if cfg.engine.device is Device.cpu:
        tokens = min(tokens, at_once * length)
    per_token = (4 * d + 2 * inner / cfg.engine.tensor_parallel_size) * element
    logits = 2 * 4 * vocab * at_once  # float32, and a sorted copy for sampling
    return int(tokens * per_token + logits)


def weight_bits(model: ModelConfig) -> float:
    """Bits a weight of a quantised layer takes, its share of scales and zero points included; else the dtype's."""
    element = DTYPE_BYTES.get(model.dtype, 2.0)
    method = model.quantization
    declared = model.hf_config.get("quantization_config")
    if isinstance(declared, Mapping):
        bits = declared.get("bits")
        if isinstance(bits, int | float) and bits > 0:
            group = _int(declared, "group_size")
            if group is not None and group > 0:
                return bits + (16.0 + bits) / group  # a 16-bit scale and a zero point each
            return float(bits) + (0.25 if bits < 8 else 0.0)
        method = method or str(declared.get("quant_method", ""))
    return QUANTIZED_BITS.get(method, element * 8) if method else element * 8


def _kv_layers(
    hf_config: Mapping[str, Any], element_bytes: float, tensor_parallel: int
) -> tuple[float, float]:
    """Bytes a token takes in the layers with full attention, and in those with a sliding window."""
    c = text_config(hf_config)
    layers = _int(c, "num_hidden_layers", "n_layer")
    heads = _int(c, "num_attention_heads", "n_head")
    d = _int(c, "hidden_size", "n_embd")
    if layers is None or heads is None or d is None:
        return 0.0, 0.0
    if c.get("model_type") == "nemotron_h":
        layers = str(c.get("hybrid_override_pattern", "")).count("*")
    latent = _int(c, "kv_lora_rank")
    if latent:
        return layers * (latent + (_int(c, "qk_rope_head_dim") or 0)) * element_bytes, 0.0
    kv_heads = _int(c, "num_key_value_heads") or heads
    head = _int(c, "head_dim") or d // heads
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
        pattern = _int(c, "sliding_window_pattern") or 6
        return layers - layers // pattern
    if kind == "qwen2":
        return max(0, layers - (_int(c, "max_window_layers") or 0))
    return layers


def _int(c: Mapping[str, Any], *names: str) -> int | None:
    for name in names:
        value = c.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
