"""What one step of an engine has to compute and to move, by the model's `config.json`: operations, bytes, kernels.

All of it holds for one GPU of those that share the model by tensor parallelism. The fields of `Facts` and `Gpu` may be numbers or
NumPy arrays: arrays describe one setting an element, so that a whole table is computed at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wattcount.config import fit
from wattcount.config.model_shape import (
    count_parameters,
    expert_parameters,
    first_int,
    kv_bytes_per_token,
    kv_cache_bytes,
    model_kind,
    state_bytes,
    text_config,
    unfused_norms,
)
from wattcount.config.schema import GpuConfig, ModelConfig

Number = Any
"""A float, or a NumPy array of floats."""

WEIGHT_AND_ACTIVATION_METHODS = frozenset(
    {"fp8", "fbgemm_fp8", "modelopt", "compressed-tensors", "experts_int8"}
)
"""Quantisation in which tensor cores compute in 8 bit; others only store weights so, and compute in 16 bit."""
SLOW_METHODS = frozenset({"bitsandbytes"})
"""Quantisation whose kernels are far from what the memory could give."""


@dataclass(frozen=True)
class Facts:
    """Of a model as it is served: sizes that its work follows from. One token passes each dense weight once.

    dense_bytes, expert_bytes   weights of the layers that every token uses, and of all routed experts [bytes]
    head_bytes                  of the output layer [bytes]
    dense_weights, chosen_weights, head_weights   weights by number, of which a token uses each, and those of the experts it chooses
    experts, chosen             routed experts of a layer, and those that one token uses; 1 and 1 without
    attention_ops               operations a token needs for each token of its context, in layers with full attention
    sliding_ops                 the same in layers with a sliding window
    kv_bytes, sliding_kv_bytes  that a token takes in the KV cache, in either kind of layer, on one GPU [bytes]
    window                      of the sliding window [tokens]; 1e9 without
    state_bytes                 recurrent state of a request, on one GPU [bytes]
    layers, width               of the model; numbers of a token's hidden state
    expert_layers, state_layers share of the layers with routed experts, and with a recurrent state
    unfused_norms               of a layer, see `model_shape`
    element_bytes               of a number of the hidden state [bytes]
    eight_bit, four_bit, slow   1 where tensor cores compute in 8 bit, weights are stored in 4 bit, kernels are slow; else 0
    """

    dense_bytes: Number
    expert_bytes: Number
    head_bytes: Number
    dense_weights: Number
    chosen_weights: Number
    head_weights: Number
    experts: Number
    chosen: Number
    attention_ops: Number
    sliding_ops: Number
    kv_bytes: Number
    sliding_kv_bytes: Number
    window: Number
    state_bytes: Number
    layers: Number
    width: Number
    expert_layers: Number
    state_layers: Number
    unfused_norms: Number
    element_bytes: Number
    eight_bit: Number
    four_bit: Number
    slow: Number


@dataclass(frozen=True)
class Gpu:
    """Of one GPU, by its data sheet.

    bandwidth, peak, peak_8bit   bytes and operations a second, in 16 and in 8 bit
    tdp_w, idle_w                power limit and power without an engine [W]
    scale_w                      power limit that the chip has by itself, which its power while computing follows [W]
    gddr                         1 where the memory is GDDR, which takes more power a byte than HBM does; else 0
    link                         bytes a second to the other GPUs, in one direction
    memory_bytes                 of memory
    """

    bandwidth: Number
    peak: Number
    peak_8bit: Number
    tdp_w: Number
    scale_w: Number
    idle_w: Number
    gddr: Number
    link: Number
    memory_bytes: Number


@dataclass(frozen=True)
class StepWork:
    """Of one step on one GPU.

    ops_16, ops_8     operations of dense matrices in 16 and in 8 bit
    expert_ops        operations of experts' matrices
    attention_ops     operations of attention over prompts
    weight_bytes, expert_bytes, kv_bytes   moved: dense weights with the output layer, experts that are touched, KV cache and state
    tokens, sequences                      in the step, and whose next token is sampled
    reduced_bytes                          exchanged with the other GPUs
    """

    ops_16: Number
    ops_8: Number
    expert_ops: Number
    attention_ops: Number
    weight_bytes: Number
    expert_bytes: Number
    kv_bytes: Number
    tokens: Number
    sequences: Number
    reduced_bytes: Number


UNKNOWN_IDLE_SHARE = 0.09
"""Idle power of a GPU whose data do not tell it, as a share of its power limit: the median of those of the catalogue is 0.1."""
CHIP_W = {"gh200": 700.0, "gb200": 1000.0, "gb300": 1100.0}
"""Power limit of a chip whose board's limit is that of a processor beside it too [W]: the limits of H100, B200 and B300, which have the same chips."""
WITH_HBM = ("7.0", "8.0", "9.0", "10.0", "10.3")
"""Compute capabilities of chips whose boards have HBM."""
NVLINK_BYTES = {"Volta": 150e9, "Ampere": 300e9, "Hopper": 450e9, "Blackwell": 900e9}
"""Bandwidth of NVLink in one direction by architecture, for boards of 400 W and more and the V100 [bytes/s]; NVIDIA's data sheets."""
PCIE_BYTES = {"Volta": 16e9, "Turing": 16e9, "Ampere": 32e9, "Ada": 32e9, "Hopper": 64e9, "Blackwell": 64e9}
"""Bandwidth of PCIe x16 in one direction by architecture [bytes/s]."""


def gpu_facts(gpu: GpuConfig) -> Gpu | None:
    """None where the data sheet lacks a figure that all rests on."""
    bandwidth, peak, tdp = gpu.memory_bandwidth_gb_s, gpu.fp16_dense_tflops, gpu.tdp_w
    if bandwidth is None or peak is None or tdp is None or gpu.memory_gib is None:
        return None
    architecture = str(gpu.architecture)
    linked = tdp >= 400 or "SXM" in str(gpu.emulated_name) or architecture == "Volta"
    links = NVLINK_BYTES if linked and architecture in NVLINK_BYTES else PCIE_BYTES
    return Gpu(
        bandwidth=bandwidth * 1e9,
        peak=peak * 1e12,
        peak_8bit=(gpu.fp8_dense_tflops or peak) * 1e12,
        tdp_w=float(gpu.power_limit_w or tdp),
        scale_w=float(min(tdp, CHIP_W.get(gpu.name, tdp))),
        idle_w=gpu.idle_w or UNKNOWN_IDLE_SHARE * min(tdp, CHIP_W.get(gpu.name, tdp)),
        gddr=float(str(gpu.compute_capability) not in WITH_HBM),
        link=links.get(architecture, 32e9),
        memory_bytes=gpu.memory_gib * fit.GIB,
    )


def model_facts(model: ModelConfig, tensor_parallel: int, kv_element_bytes: float) -> Facts | None:
    """None where `config.json` is of an architecture whose parameters are not counted."""
    hf: Mapping[str, Any] = model.hf_config
    counted = count_parameters(hf)
    c = text_config(hf)
    layers, width = first_int(c, "num_hidden_layers", "n_layer"), first_int(c, "hidden_size", "n_embd")
    vocab = first_int(c, "vocab_size")
    if counted is None or not layers or not width or not vocab:
        return None
    element = fit.DTYPE_BYTES.get(model.dtype, 2.0)
    bits = fit.weight_bits(model)
    routed = expert_parameters(hf, counted)
    experts = first_int(c, "num_experts", "num_local_experts", "n_routed_experts") or 1
    chosen = first_int(c, "num_experts_per_tok", "moe_top_k") or experts
    head = float(vocab * width)
    # Of what quantisation leaves alone, embeddings are looked up and not read; the rest is attention, norms, convolutions.
    tied = counted.other < 2 * head
    kept = max(0.0, counted.other - head * (1 if tied else 2))
    heads = first_int(c, "num_attention_heads", "n_head") or 0
    head_width = first_int(c, "head_dim") or (width // heads if heads else 0)
    full = kv_bytes_per_token({**c, "sliding_window": None}, kv_element_bytes, tensor_parallel)
    long, short = 10**6, 10**6 + 1000
    growing = (
        kv_cache_bytes(c, short, kv_element_bytes, tensor_parallel)
        - kv_cache_bytes(c, long, kv_element_bytes, tensor_parallel)
    ) / 1000
    sliding = max(0.0, full - growing)
    attending = _attention_layers(c, layers)
    ops = 4.0 * heads * head_width * attending / tensor_parallel
    sliding_share = sliding / full if full else 0.0
    kind = model_kind(hf)
    method = _method(model)
    pattern = str(c.get("hybrid_override_pattern", ""))
    expert_layers = 0.0 if experts == 1 else (pattern.count("E") / len(pattern) if pattern else 1.0)
    state_layers = 1.0 if kind == "ssm" else pattern.count("M") / len(pattern) if pattern else 0.0
    return Facts(
        dense_bytes=((counted.linear - routed) * bits / 8 + kept * element) / tensor_parallel,
        expert_bytes=routed * bits / 8 / tensor_parallel,
        head_bytes=head * element / tensor_parallel,
        dense_weights=(counted.linear - routed + kept) / tensor_parallel,
        chosen_weights=routed * chosen / experts / tensor_parallel,
        head_weights=head / tensor_parallel,
        experts=float(experts),
        chosen=float(chosen),
        attention_ops=ops * (1 - sliding_share),
        sliding_ops=ops * sliding_share,
        kv_bytes=float(growing),
        sliding_kv_bytes=sliding,
        window=float(first_int(c, "sliding_window") or 10**9),
        state_bytes=float(state_bytes(hf, element, tensor_parallel)),
        layers=float(layers),
        width=float(width),
        expert_layers=expert_layers,
        state_layers=state_layers,
        unfused_norms=float(unfused_norms(hf)),
        element_bytes=element,
        eight_bit=float(method in WEIGHT_AND_ACTIVATION_METHODS),
        four_bit=float(bits < 8),
        slow=float(method in SLOW_METHODS),
    )


def _method(model: ModelConfig) -> str | None:
    declared = model.hf_config.get("quantization_config")
    stated = str(declared.get("quant_method", "")) if isinstance(declared, Mapping) else ""
    return model.quantization or stated or None


def _attention_layers(c: Mapping[str, Any], layers: int) -> int:
    if c.get("model_type") == "falcon_mamba":
        return 0
    pattern = str(c.get("hybrid_override_pattern", ""))
    return pattern.count("*") if pattern else layers


Kind = TypeVar("Kind", Facts, Gpu)


def stacked(each: Sequence[Kind]) -> Kind:
    """One of arrays, an element of each of `each`."""
    kind = type(each[0])
    return kind(
        **{
            field.name: np.array([getattr(one, field.name) for one in each], dtype=float)
            for field in dataclasses.fields(kind)
        }
    )


def touched_share(facts: Facts, tokens: Number) -> NDArray[np.float64] | float:
    """Share of the experts that `tokens` tokens use, each choosing its own at random."""
    share: NDArray[np.float64] | float = 1.0 - np.power(
        np.clip(1.0 - facts.chosen / facts.experts, 0.0, 1.0), tokens
    )
    return np.where(np.asarray(facts.experts) > 1, share, 0.0)


def step_work(
    facts: Facts,
    prefill_tokens: Number,
    prefill_context: Number,
    decode_sequences: Number,
    decode_context: Number,
    prompts: Number,
) -> StepWork:
    """Of a step.

    prefill_context, decode_context  sums of the tokens that the prompts' tokens, and the decoding sequences, attend to
    prompts                          whose first token the step samples
    """
    tokens = prefill_tokens + decode_sequences
    sampled = decode_sequences + prompts
    matrices = 2.0 * facts.dense_weights * tokens
    head = 2.0 * facts.head_weights * sampled
    mean_prefill = prefill_context / np.maximum(prefill_tokens, 1e-9)
    attention = facts.attention_ops * prefill_context + facts.sliding_ops * prefill_tokens * np.minimum(
        mean_prefill, facts.window
    )
    mean_decode = decode_context / np.maximum(decode_sequences, 1e-9)
    kv = facts.kv_bytes * decode_context
    kv = kv + facts.sliding_kv_bytes * decode_sequences * np.minimum(mean_decode, facts.window)
    kv = kv + 2.0 * facts.state_bytes * (decode_sequences + prompts)
    kv = kv + (facts.kv_bytes + facts.sliding_kv_bytes) * tokens
    return StepWork(
        ops_16=matrices * (1 - facts.eight_bit) + head,
        ops_8=matrices * facts.eight_bit,
        expert_ops=2.0 * facts.chosen_weights * tokens,
        attention_ops=attention,
        weight_bytes=facts.dense_bytes + facts.head_bytes,
        expert_bytes=facts.expert_bytes * touched_share(facts, tokens),
        kv_bytes=kv,
        tokens=tokens,
        sequences=sampled,
        reduced_bytes=2.0 * facts.layers * tokens * facts.width * facts.element_bytes,
    )
