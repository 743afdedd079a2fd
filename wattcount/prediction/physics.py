"""Time and power of a step from its work: a roofline with shares of the peaks that are reached, and what the host adds.

    GPU time = ((moved bytes / bandwidth)^q + (operations / peak)^q)^(1/q) + attention + exchange between GPUs
    host time = what launching the step's kernels takes, where no captured graph does it
    step = max(GPU time, host time), rounded at the corner, or their sum where the engine does not prepare a step during the one before,
           + what each step and each sequence takes
    power = idle + share of the power limit by how busy memory and tensor cores are, no more than the limit

A step that would draw more than the limit is slowed until it does not. The coefficients are fitted by `wattcount.fitting`; those of a
device, a source and a model that was seen stand beside them as factors.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from wattcount.prediction.work import Facts, Gpu, Number, StepWork


@dataclass(frozen=True)
class Coefficients:
    """What is learned of all GPUs and models together. Shares are of the data sheet's peaks.

    memory, compute, kv, attention, experts   shares reached by weights, matrices, KV cache, prompts' attention, experts' weights
    eight_bit, four_bit, slow   further share of the operations in 8 bit, and of the bytes of weights in 4 bit and of slow kernels
    expert_compute              share of the peak that experts' matrices reach, of that of dense ones
    state                       share of the bandwidth that recurrent states reach, of that of the KV cache
    corner                      exponent of the roofline's corner
    step_s, layer_s, sequence_s, token_s   added by each step, layer, sampled sequence and token [s]
    expert_layer_s              added by each layer with experts: tokens are sorted by expert, and kernels are many [s]
    host_step_s, host_sequence_s  host's time of a step and of each sequence in it, while the GPU may still compute the step before [s]
    old_sequence_s              host's time of each sequence in a step of engines of 2023 and 2024, which wrote every token one by one [s]
    host_layer_s                host's time to launch a layer without a captured graph [s]
    host_experts, host_state, host_norms, host_four_bit   added for a layer with experts, with a recurrent state, for each kind of norm
                                that is not fused, and for experts in 4 bit, as factors of it
    eager                       of an engine that captures nothing and compiles nothing, as a factor of it
    exchange_s, link            latency of an exchange of all GPUs [s], share of the link's bandwidth
    loaded_idle                 power with an engine and no request, as a share of the power limit: clocks are high then, as while it computes
    gddr                        power of GDDR, of that of HBM, as a factor of what memory takes, and of that with an engine and no request
    active, by_memory, by_compute   power while computing, at full use of the bandwidth, at full use of the tensor cores, as shares of it
    bandwidth_power             how far by_memory follows bytes a second for each watt of the limit: 0 a share of the limit, 1 joules a byte
    limit                       share of the power limit that is reached
    throttled                   how far a step that would draw more is slowed: time x (excess)^throttled
    tail                        share of a batch's time that is not as full as the rest
    waiting                     share of the prompts of others for which a request waits after its own, where all begin together
    """

    memory: Number = 0.83
    compute: Number = 0.70
    kv: Number = 0.70
    attention: Number = 0.35
    experts: Number = 0.65
    expert_compute: Number = 0.35
    eight_bit: Number = 0.70
    four_bit: Number = 0.80
    slow: Number = 0.30
    state: Number = 0.50
    corner: Number = 2.3
    step_s: Number = 3e-4
    layer_s: Number = 3.5e-5
    expert_layer_s: Number = 4e-5
    sequence_s: Number = 3.0e-6
    token_s: Number = 2.0e-7
    host_step_s: Number = 2.0e-3
    host_sequence_s: Number = 1.5e-5
    old_sequence_s: Number = 2.5e-4
    host_layer_s: Number = 3.5e-4
    host_experts: Number = 1.5
    host_state: Number = 1.5
    host_norms: Number = 1.5
    host_four_bit: Number = 1.5
    eager: Number = 1.3
    exchange_s: Number = 1.2e-5
    link: Number = 0.5
    loaded_idle: Number = 0.165
    gddr: Number = 1.5
    active: Number = 0.16
    by_memory: Number = 0.45
    bandwidth_power: Number = 0.5
    by_compute: Number = 0.75
    limit: Number = 0.985
    throttled: Number = 0.4
    tail: Number = 0.05
    waiting: Number = 0.4


BYTES_PER_J = 5e9
"""Bandwidth for each watt of the power limit, of A100 and H100 [bytes/J], where `by_memory` is what it says."""
NAMES = tuple(field.name for field in dataclasses.fields(Coefficients))
"""All coefficients, in the order of their declaration."""


@dataclass(frozen=True)
class Step:
    """Seconds of a step and mean watts of one GPU in it."""

    time_s: Number
    power_w: Number


def step(
    work: StepWork,
    facts: Facts,
    gpu: Gpu,
    k: Coefficients,
    tensor_parallel: Number,
    captured: Number,
    captured_tokens: Number,
    serial: Number = 0.0,
) -> Step:
    """Time and power.

    captured         1 where the engine launches captured graphs, 0 where it launches each kernel
    captured_tokens  the largest step that has one
    serial           1 where the host prepares a step only when the one before has ended, as engines did of old
    """
    stored = np.where(np.asarray(facts.four_bit) > 0, k.four_bit, 1.0) * np.where(
        np.asarray(facts.slow) > 0, k.slow, 1.0
    )
    eight_bit = np.asarray(facts.eight_bit) > 0
    expert_peak = np.where(eight_bit, gpu.peak_8bit * k.eight_bit, gpu.peak) * k.expert_compute
    linear_s = _bound(
        work.weight_bytes / (k.memory * stored * gpu.bandwidth),
        (work.ops_16 / gpu.peak + work.ops_8 / (gpu.peak_8bit * k.eight_bit)) / k.compute,
        k.corner,
    ) + _bound(
        work.expert_bytes / (k.experts * stored * gpu.bandwidth),
        work.expert_ops / (expert_peak * k.compute),
        k.corner,
    )
    of_kv = np.where(np.asarray(facts.state_layers) > 0, k.state, 1.0) * k.kv
    attention_s = work.kv_bytes / (gpu.bandwidth * of_kv) + work.attention_ops / (gpu.peak * k.attention)
    shared = np.asarray(tensor_parallel) > 1
    exchange_s = np.where(
        shared,
        2 * facts.layers * k.exchange_s
        + work.reduced_bytes
        * 2
        * (tensor_parallel - 1)
        / np.maximum(tensor_parallel, 1)
        / (gpu.link * k.link),
        0.0,
    )
    gpu_s = (
        linear_s
        + attention_s
        + exchange_s
        + facts.layers * (k.layer_s + k.expert_layer_s * facts.expert_layers)
    )
    graphs = np.asarray(captured) * _soft_at_most(work.tokens, captured_tokens)
    heavier = (
        1
        + k.host_experts * facts.expert_layers
        + k.host_state * facts.state_layers
        + k.host_norms * facts.unfused_norms
        + k.host_four_bit * facts.four_bit * facts.expert_layers
    )
    launched = (1 - graphs) * np.where(np.asarray(captured) > 0, 1.0, k.eager)
    old = serial * (1 - np.asarray(captured))
    preparing_s = k.host_step_s + (k.host_sequence_s + old * k.old_sequence_s) * work.sequences
    launching_s = launched * k.host_layer_s * facts.layers * heavier
    after_s = preparing_s * serial
    bound_s = (gpu_s**4 + (preparing_s - after_s + launching_s) ** 4) ** 0.25
    time_s = bound_s + after_s + k.step_s + k.sequence_s * work.sequences + k.token_s * work.tokens

    moved = work.weight_bytes + work.expert_bytes + work.kv_bytes
    by_memory = moved / (gpu.bandwidth * time_s)
    by_compute = (
        work.ops_16 / gpu.peak
        + work.ops_8 / gpu.peak_8bit
        + work.expert_ops / np.where(eight_bit, gpu.peak_8bit, gpu.peak)
        + work.attention_ops / gpu.peak
    ) / time_s
    dense_bandwidth = (gpu.bandwidth / gpu.scale_w / BYTES_PER_J) ** k.bandwidth_power
    busy = gpu_s / time_s
    idle_w = loaded_idle_w(gpu, k)
    above_w = gpu.scale_w * (
        k.active * busy
        + k.by_memory * _of_memory(gpu, k) * dense_bandwidth * by_memory
        + k.by_compute * by_compute
    )
    room_w = k.limit * gpu.tdp_w - idle_w
    excess = (1 + (above_w / room_w) ** 8) ** 0.125
    return Step(time_s * excess**k.throttled, idle_w + above_w / excess)


def _bound(memory_s: Number, compute_s: Number, corner: Number) -> Number:
    """The longer of the two, rounded at the corner."""
    longer = np.maximum(np.maximum(memory_s, compute_s), 1e-12)
    return longer * ((memory_s / longer) ** corner + (compute_s / longer) ** corner) ** (1 / corner)


def loaded_idle_w(gpu: Gpu, k: Coefficients) -> Number:
    """Power of one GPU with an engine and no request [W]."""
    return np.maximum(gpu.idle_w, k.loaded_idle * gpu.scale_w * _of_memory(gpu, k))


def _of_memory(gpu: Gpu, k: Coefficients) -> Number:
    return np.where(np.asarray(gpu.gddr) > 0, k.gddr, 1.0)


def _soft_at_most(tokens: Number, most: Number) -> Number:
    return np.where(tokens <= most, 1.0, 0.0)
