"""A setting to predict, and what is known of it before anything is predicted: sizes, limits, memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from wattcount.config import fit
from wattcount.config.model_shape import context_tokens, kv_cache_bytes, state_bytes
from wattcount.config.schema import (
    BatchConfig,
    ConcurrencyConfig,
    Device,
    EngineConfig,
    GpuConfig,
    LengthConfig,
    ModelConfig,
    RunConfig,
    ServerConfig,
)
from wattcount.engines import registry
from wattcount.prediction.work import Facts, Gpu, gpu_facts, model_facts

ENDLESS_S = 1e6
"""Window of a load that just goes on [s], so that it has as many requests as the engine admits."""
CAPTURED_TOKENS = 512
"""Largest step for which vLLM captures a graph [tokens], where it admits 256 requests and more; else twice as many as it admits."""

FAMILIES = ("a100", "h100_nvl", "h100_pcie", "h100", "h200", "gh200", "v100", "a40", "b200", "rtx")
"""Beginnings of the options of GPUs whose variants are one GPU to a split; the first that fits counts."""


class Abstained(Exception):  # noqa: N818, it is what a prediction may do, and no failure
    """Nothing can be predicted of a setting, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class PredictionSetting:
    """What is to serve which load.

    num_gpus         all that serve; what tensor parallelism leaves over are replicas, which share the load
    concurrency      requests that are always in flight, of all replicas; None: as the rate makes it
    rate_rps         requests per second that arrive, of all replicas; None: there is always a next one
    bursts           requests of a batch begin and end together; False: each on its own
    real_weights     False: random ones
    dtype, quantization, max_num_seqs, max_num_batched_tokens   None: what the model and the engine bring
    """

    model: ModelConfig
    gpu: GpuConfig
    num_gpus: int = 1
    tensor_parallel: int = 1
    dtype: str | None = None
    quantization: str | None = None
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    enforce_eager: bool = False
    kv_cache_dtype: str = "auto"
    concurrency: int | None = None
    rate_rps: float | None = None
    input_tokens: int = 512
    output_tokens: int = 128
    bursts: bool = False

    @property
    def replicas(self) -> int:
        return max(1, self.num_gpus // self.tensor_parallel)

    def as_run(self) -> RunConfig:
        """The configuration of a run of it: the inverse of `of_run`."""
        lengths = LengthConfig(input_tokens=self.input_tokens, output_tokens=self.output_tokens)
        scenario: BatchConfig | ServerConfig | ConcurrencyConfig
        if self.rate_rps is not None:
            scenario = ServerConfig(
                name="server", lengths=lengths, rate_rps=self.rate_rps, max_in_flight=self.concurrency
            )
        elif self.bursts:
            scenario = BatchConfig(name="batch", lengths=lengths, num_requests=self.concurrency or 1)
        else:
            scenario = ConcurrencyConfig(
                name="concurrency", lengths=lengths, concurrency=self.concurrency or 1
            )
        model = replace(
            self.model,
            dtype=self.dtype or self.model.dtype,
            quantization=self.quantization or self.model.quantization,
        )
        engine = EngineConfig(
            device=Device.cuda,
            tensor_parallel_size=self.tensor_parallel,
            data_parallel_size=self.replicas,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            enforce_eager=self.enforce_eager,
            kv_cache_dtype=self.kv_cache_dtype,
        )
        return RunConfig(
            model=model, gpu=replace(self.gpu, count=self.num_gpus), scenario=scenario, engine=engine
        )

    @classmethod
    def of_run(cls, cfg: RunConfig) -> PredictionSetting:
        """The setting of a run, as it is composed or resolved."""
        scenario, engine = cfg.scenario, cfg.engine
        if isinstance(scenario, BatchConfig):
            in_flight: int | None = scenario.num_requests
        elif isinstance(scenario, ConcurrencyConfig):
            in_flight = scenario.concurrency
        else:
            in_flight = scenario.max_in_flight
        return cls(
            model=cfg.model,
            gpu=cfg.gpu,
            num_gpus=max(cfg.gpu.count, engine.tensor_parallel_size * engine.data_parallel_size),
            tensor_parallel=engine.tensor_parallel_size,
            max_num_seqs=engine.max_num_seqs,
            max_num_batched_tokens=engine.max_num_batched_tokens,
            enforce_eager=bool(engine.enforce_eager),
            kv_cache_dtype=engine.kv_cache_dtype,
            concurrency=in_flight,
            rate_rps=(scenario.rate_rps or 1.0) if isinstance(scenario, ServerConfig) else None,
            input_tokens=scenario.lengths.input_tokens,
            output_tokens=scenario.lengths.output_tokens,
            bursts=isinstance(scenario, BatchConfig),
        )


@dataclass(frozen=True)
class Prepared:
    """A setting with what follows from it. Facts hold for one GPU of a replica.

    at_once       requests that one replica admits
    step_tokens   tokens that one step may have
    kv_tokens     tokens that fit one replica's KV cache
    """

    setting: PredictionSetting
    facts: Facts
    gpu: Gpu
    at_once: int
    step_tokens: int
    kv_tokens: int
    captured_tokens: float


def prepared(setting: PredictionSetting) -> Prepared:
    """Raises `Abstained` for what cannot be served or is not known."""
    model = setting.model
    if setting.dtype is not None or setting.quantization is not None:
        model = replace(
            model,
            dtype=setting.dtype or model.dtype,
            quantization=setting.quantization or model.quantization,
        )
    gpu = gpu_facts(setting.gpu)
    if gpu is None:
        raise Abstained(
            f"the data sheet of GPU {setting.gpu.name} lacks bandwidth, peak, memory or power limit"
        )
    if setting.tensor_parallel < 1 or setting.num_gpus % setting.tensor_parallel:
        raise Abstained(
            f"{setting.num_gpus} GPUs are not a multiple of tensor_parallel {setting.tensor_parallel}"
        )
    limits = _sizes(
        model,
        setting.gpu,
        setting.tensor_parallel,
        setting.max_num_seqs,
        setting.max_num_batched_tokens,
        setting.kv_cache_dtype,
        setting.bursts,
        setting.input_tokens,
        setting.output_tokens,
    )
    if isinstance(limits, str):
        raise Abstained(limits)
    facts, at_once, step_tokens, kv_tokens = limits
    captured = min(CAPTURED_TOKENS, 2 * at_once)
    return Prepared(setting, facts, gpu, at_once, step_tokens, kv_tokens, float(captured))


@functools.lru_cache(maxsize=4096)
def _sizes(
    model: ModelConfig,
    gpu: GpuConfig,
    tensor_parallel: int,
    max_num_seqs: int | None,
    max_num_batched_tokens: int | None,
    kv_cache_dtype: str,
    bursts: bool,
    input_tokens: int,
    output_tokens: int,
) -> tuple[Facts, int, int, int] | str:
    """Facts, requests at once, tokens a step and tokens of KV cache; or why it cannot be served."""
    kv_element = 1.0 if kv_cache_dtype.startswith("fp8") else fit.DTYPE_BYTES.get(model.dtype, 2.0)
    facts = model_facts(model, tensor_parallel, kv_element)
    kind = model.hf_config.get("model_type")
    if facts is None:
        return (
            f"config.json of {model.name} is of an architecture that is not known here: model_type {kind!r}"
        )
    longest = input_tokens + output_tokens
    context = context_tokens(model.hf_config)
    if context is not None and longest > context:
        return f"requests of {longest} tokens do not fit the context of {model.name}, {context} tokens"
    lengths = LengthConfig(input_tokens=input_tokens, output_tokens=output_tokens)
    scenario: BatchConfig | ServerConfig = (
        BatchConfig(name="predicted", lengths=lengths, num_requests=10**5)
        if bursts
        else ServerConfig(name="predicted", lengths=lengths, rate_rps=1.0, window_s=ENDLESS_S)
    )
    cfg = RunConfig(
        model=model,
        gpu=replace(gpu, count=tensor_parallel),
        scenario=scenario,
        engine=EngineConfig(
            device=Device.cuda,
            tensor_parallel_size=tensor_parallel,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            kv_cache_dtype=kv_cache_dtype,
        ),
    )
    assert gpu.memory_gib is not None
    memory = int(gpu.memory_gib * fit.GIB)
    found = fit.estimate(cfg, memory)
    if not found.fits:
        return f"{model.name} does not fit {tensor_parallel} x {gpu.name}: {found.explain()}"
    chosen = registry.plugin(cfg.engine.name).defaults(cfg, memory)
    admitted = chosen.max_num_seqs or fit.UNKNOWN_CONCURRENCY
    free = found.usable_bytes - (found.needed_bytes - found.kv_cache_bytes)

    def holds(tokens: int) -> int:
        """Requests of so many tokens that the memory holds at once."""
        each = kv_cache_bytes(model.hf_config, tokens, kv_element, tensor_parallel) + state_bytes(
            model.hf_config, kv_element, tensor_parallel
        )
        return int(free // each) if each else admitted

    whole = holds(longest)
    if whole < 1:
        return f"no request of {longest} tokens fits the memory that {model.name} leaves on {gpu.name}"
    # Blocks are given as a request grows: those that run have half of their output in the mean.
    running = min(admitted, holds(input_tokens + output_tokens // 2))
    return facts, running, chosen.max_num_batched_tokens or admitted, int(min(whole * longest, 1e12))


def in_flight(at_once: float, setting: PredictionSetting) -> float:
    """Requests in flight of one replica at most."""
    asked = math.inf if setting.concurrency is None else max(1.0, setting.concurrency / setting.replicas)
    return min(at_once, asked)


def family_of(gpu: GpuConfig) -> str:
    """The GPU with all its variants."""
    return next((name for name in FAMILIES if gpu.name.startswith(name)), gpu.name)
