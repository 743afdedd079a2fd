"""Whether a model fits: weights + KV cache + activations against the memory of one GPU (or the host).

    usable = memory x gpu_memory_utilization                          (a CPU engine: the memory that is free)
    needed = weights / GPUs + KV cache of the longest request + activations + what the engine takes besides

of the GPU that has most to hold. Tensor parallelism splits each layer, pipeline parallelism deals out the layers
(the first stage holds the embeddings too, the last the output head), data parallelism makes whole replicas, which
share no more than the experts of a mixture of experts. A draft model of speculative decoding comes on top.

Engines start when the longest request alone fits and queue the rest, so that is what `fits` asks; how much
the scenario's requests would take all at once is reported beside it.

The context that an engine is set up for follows from the longest request that a scenario can send (`max_model_len`), and
`context_problems` says why requests do not fit it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from wattcount.config.model_shape import (
    context_tokens,
    count_parameters,
    expert_parameters,
    first_int,
    kv_bytes_per_token,
    kv_cache_bytes,
    state_bytes,
    text_config,
)
from wattcount.config.schema import (
    BatchConfig,
    ConcurrencyConfig,
    Device,
    LengthKind,
    ModelConfig,
    RunConfig,
    ScenarioConfig,
    ServerConfig,
)
from wattcount.engines import registry

GIB = 2**30
"""Bytes of a GiB: memory sizes of GPUs are given in it."""

DTYPE_BYTES = {"bfloat16": 2.0, "float16": 2.0, "float32": 4.0}
"""Bytes of one number, by the type's name [bytes]."""
QUANTIZED_BITS = {
    **dict.fromkeys(
        ("awq", "auto_awq", "gptq", "auto_gptq", "gptq_marlin", "awq_marlin", "bitsandbytes", "mxfp4"), 4.25
    ),
    **dict.fromkeys(("nvfp4", "modelopt_fp4"), 4.5),
    **dict.fromkeys(("fp8", "modelopt", "fbgemm_fp8", "experts_int8", "compressed-tensors"), 8.0),
}
"""Bits a weight of a linear layer, with one 16-bit scale and zero point a group of 128 for 4-bit methods."""


UNKNOWN_CONCURRENCY = 256
"""Requests at once of a trace at its own rate, where the engine tells no limit: what engines on most GPUs admit."""


@dataclass(frozen=True)
class FitReport:
    """Bytes are on one GPU of the `gpus` that share the model, or on the host for a CPU engine."""

    fits: bool
    memory_bytes: int
    usable_bytes: int
    needed_bytes: int
    weights_bytes: int
    kv_cache_bytes: int
    """KV cache of the longest request alone, with its recurrent state."""
    kv_cache_all_bytes: int
    """KV cache of `concurrency` requests of mean length at once, with their recurrent state."""
    state_bytes: int
    """Recurrent state of one request, in `kv_cache_bytes`; 0 without state-space layers."""
    activation_bytes: int
    overhead_bytes: int
    draft_bytes: int
    """Weights and KV cache of a draft model; `needed_bytes` has them."""
    parameters: int | None
    """None: not known, and nothing was concluded."""
    kv_bytes_per_token: int
    model_len: int
    concurrency: int
    """Requests that run at once on one replica."""
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
        draft = f" + draft model {gib(self.draft_bytes)}" if self.draft_bytes else ""
        state = f" + state {self.state_bytes / 2**20:.0f} MiB" if self.state_bytes else ""
        return (
            f"weights {gib(self.weights_bytes)} ({self.parameters / 1e9:.2f}e9 parameters x "
            f"{self.weight_bits:g} bit{share}) + KV cache {gib(self.kv_cache_bytes)} "
            f"({self.model_len} tokens x {self.kv_bytes_per_token / 1024:.0f} KiB{state}){draft} + activations "
            f"{gib(self.activation_bytes)} + engine {gib(self.overhead_bytes)} = "
            f"{gib(self.needed_bytes)} of {gib(self.usable_bytes)} usable"
        )


def estimate(cfg: RunConfig, memory_bytes: int) -> FitReport:
    """Whether `cfg.model` fits `memory_bytes`: all of one GPU's memory, or what is free on the host.

    Where neither `hf_config` nor `parameters_b` tells the size, `fits` is True and `parameters` None.
    """
    on_cpu = cfg.engine.device is Device.cpu
    plugin = registry.plugin(cfg.engine.name)
    settings = plugin.defaults(cfg, None if on_cpu else memory_bytes)
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
        experts = expert_parameters(hf, counted)
        layers = (counted.linear - experts) / tp + experts / (tp * dp)
        weights = int(layers * bits / 8 * _stage(hf, pp) + counted.other * element / tp / min(pp, 2))
    elif cfg.model.parameters_b is not None:
        parameters = int(cfg.model.parameters_b * 1e9)
        weights = int(parameters * bits / 8 / tp / pp)
    else:
        parameters, weights = None, 0

    length = max_model_len(cfg)
    at_once = math.ceil(concurrency(cfg, memory_bytes) / dp)
    stage = _stage(hf, pp)
    kv_element = 1.0 if cfg.engine.kv_cache_dtype.startswith("fp8") else element
    kv_token = int(kv_bytes_per_token(hf, kv_element, tp) * stage)
    state = int(state_bytes(hf, element, tp) * stage)
    kv_one = int(kv_cache_bytes(hf, length, kv_element, tp) * stage) + state
    mean_length = min(length, mean_request_tokens(cfg.scenario))
    kv_all = at_once * (int(kv_cache_bytes(hf, mean_length, kv_element, tp) * stage) + state)
    draft = _draft_bytes(cfg, length, kv_element)
    tokens = settings.max_num_batched_tokens or at_once * length
    activations = _activation_bytes(cfg, tokens, element, at_once, length)
    overhead = plugin.overhead_bytes(cfg.engine.device)
    usable = memory_bytes if on_cpu else int(memory_bytes * (settings.gpu_memory_utilization or 1.0))
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
    layers = first_int(text_config(hf_config), "num_hidden_layers", "n_layer") or pipeline_parallel
    return math.ceil(layers / pipeline_parallel) / layers


def _draft_bytes(cfg: RunConfig, length: int, kv_element: float) -> int:
    """Weights and KV cache of the draft model on one GPU; it is split over tensor parallelism only."""
    if cfg.engine.speculative.draft_model is None:
        return 0
    from wattcount.config.catalogue import catalogued_model

    draft = catalogued_model(cfg.engine.speculative.draft_model)
    counted = count_parameters(draft.hf_config) if draft is not None else None
    if draft is None or counted is None:
        return 0
    tp = cfg.engine.tensor_parallel_size
    weights = counted.total * DTYPE_BYTES.get(cfg.model.dtype, 2.0) / tp
    return int(weights) + kv_cache_bytes(draft.hf_config, length, kv_element, tp)


def _activation_bytes(cfg: RunConfig, tokens: int, element: float, at_once: int, length: int) -> int:
    """The largest step: residual stream, gate and up projections of all its tokens, logits of all its requests."""
    c = text_config(cfg.model.hf_config)
    d = first_int(c, "hidden_size", "n_embd") or 0
    inner = first_int(c, "intermediate_size", "n_inner") or 4 * d
    if first_int(c, "num_experts", "num_local_experts", "n_routed_experts"):
        inner = (first_int(c, "moe_intermediate_size") or inner) * (first_int(c, "num_experts_per_tok") or 1)
    vocab = first_int(c, "vocab_size") or 0
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
            group = first_int(declared, "group_size")
            if group is not None and group > 0:
                return bits + (16.0 + bits) / group  # a 16-bit scale and a zero point each
            return float(bits) + (0.25 if bits < 8 else 0.0)
        method = method or str(declared.get("quant_method", ""))
    return QUANTIZED_BITS.get(method, element * 8) if method else element * 8


def weight_bytes(model: ModelConfig) -> float:
    """All weights together; of a model of unknown size those of some 7e9 parameters."""
    counted = count_parameters(model.hf_config)
    parameters = counted.total if counted is not None else (model.parameters_b or 7.0) * 1e9
    return parameters * weight_bits(model) / 8


def mean_request_tokens(scenario: ScenarioConfig) -> int:
    return scenario.lengths.input_tokens + scenario.lengths.output_tokens


def concurrency(cfg: RunConfig, memory_bytes: int | None = None) -> int:
    """Requests that could run at once: no more than the scenario sends or the engine admits.

    memory_bytes  of one GPU, on which the engine's own limit depends; None: by the data sheet
    """
    admitted = registry.plugin(cfg.engine.name).defaults(cfg, memory_bytes).max_num_seqs or math.inf
    scenario = cfg.scenario
    if isinstance(scenario, BatchConfig):
        return int(min(scenario.num_requests, admitted))
    if isinstance(scenario, ConcurrencyConfig):
        return int(min(scenario.concurrency, admitted))
    assert isinstance(scenario, ServerConfig)
    if scenario.max_in_flight is not None:
        admitted = min(admitted, scenario.max_in_flight)
    sent = math.inf if scenario.rate_rps is None else math.ceil(scenario.rate_rps * scenario.window_s)
    at_once = min(sent, admitted)
    return max(1, int(at_once)) if math.isfinite(at_once) else UNKNOWN_CONCURRENCY


def gib(size_bytes: float) -> str:
    """`79.6 GiB`."""
    return f"{size_bytes / GIB:.1f} GiB"


MODEL_LEN_STEP = 256
"""The context is rounded up to a multiple of this [tokens], so that small changes of the lengths change nothing else."""


def longest_request_tokens(scenario: ScenarioConfig) -> int:
    """Prompt plus completion of the longest request that the scenario can send, whatever the seed.

    For lengths that vary it is the sum of their upper bounds in `scenario.lengths`.
    """
    lengths = scenario.lengths
    if lengths.kind is LengthKind.fixed:
        return lengths.input_tokens + lengths.output_tokens
    return lengths.input_tokens_max + lengths.output_tokens_max


def max_model_len(cfg: RunConfig, hf_config: Mapping[str, Any] | None = None) -> int:
    """The engine's `max_model_len`: as set, else the longest request rounded up, within the model's context.

    hf_config  the model's `config.json` where it is not `cfg.model.hf_config`
    """
    if cfg.engine.max_model_len is not None:
        return cfg.engine.max_model_len
    longest = longest_request_tokens(cfg.scenario)
    rounded = math.ceil(longest / MODEL_LEN_STEP) * MODEL_LEN_STEP
    limit = context_tokens(cfg.model.hf_config if hf_config is None else hf_config)
    return max(longest, rounded if limit is None else min(rounded, limit))


def context_problems(cfg: RunConfig, hf_config: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Why the scenario's requests do not fit the context, one line each; `hf_config` as for `max_model_len`."""
    lengths = cfg.scenario.lengths
    limit = context_tokens(cfg.model.hf_config if hf_config is None else hf_config)
    longest = longest_request_tokens(cfg.scenario)
    asked = cfg.engine.max_model_len
    hint = (
        "set scenario.lengths.input_tokens or output_tokens lower"
        if lengths.kind is LengthKind.fixed
        else "set scenario.lengths.input_tokens_max or output_tokens_max lower"
    )
    if asked is not None and longest > asked:
        yield (
            f"engine.max_model_len: {asked} is less than the longest request of the scenario, {longest} tokens; "
            f"raise it or {hint}"
        )
    if limit is not None and longest > limit:
        yield (
            f"scenario.lengths: requests of up to {longest} tokens do not fit the context of {cfg.model.name}, "
            f"{limit} tokens; {hint}"
        )
    if limit is not None and asked is not None and asked > limit:
        yield f"engine.max_model_len: {asked} is more than the context of {cfg.model.name}, {limit} tokens"
