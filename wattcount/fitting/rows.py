"""Results as rows that a prediction learns from: a setting to predict beside what was measured.

Of each source only what a prediction can say is taken. What a source leaves open, as the length of its prompts, is filled in by what
is known of its task. Repeats of a setting are one row of means.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from wattcount.config.schema import GpuConfig, ModelConfig
from wattcount.prediction.names import find_dtype, find_gpu, find_method, find_model
from wattcount.prediction.setting import Abstained, PredictionSetting, Prepared, family_of, prepared
from wattcount.records.schema import Evidence
from wattcount.result import Result

PROMPT_TOKENS = {
    "chat": 150,
    "chat-concise": 150,
    "instruct": 100,
    "instruct-concise": 100,
    "code": 180,
    "lm-arena-chat": 120,
    "gpqa": 280,
    "sourcegraph-fim": 1000,
    "code_simple": 40,
    "qa_factual": 40,
}
"""Tokens of a prompt of ML.ENERGY's and JouleBench's tasks, where a source does not tell [tokens]: of the size that these data sets have.
Prompts are a small part of what such a request takes."""
UNTOLD_OUTPUT = 256
"""Tokens of an answer that a source does not tell, where energy and time of a token hardly depend on it."""
REQUESTS = {"chat": 3000, "code": 820}
"""Requests of ML.ENERGY 2's tasks, all sent at once, as the mean lengths of outputs show: HumanEval five times, and some thousands of chats."""
ENGINES = ("vllm", "vllm_serve", "tensorrt-llm", "trt-llm", "sglang")
"""Engines that batch continuously."""
LAUNCHED = ("mlenergy v2 vllm", "splitwise")
"""Sources of engines of 2023 and 2024 whose steps take as long as if the host launched each kernel: a fit is far likelier so."""
KINDS = ("batch", "server", "concurrency")
"""Kinds of loads whose figures a prediction can say."""


@dataclass(frozen=True)
class Row:
    """One setting and what was measured of it. None: not measured.

    family     GPUs of one kind; shape: models of one shape
    source     origin with its kind of engine: rows of one source share what that source does otherwise
    served     by an engine that batches continuously
    gaps       its time per token is the median gap between tokens, not the mean of a request
    power_w, tpot_s, output_rate   of all GPUs
    """

    prepared: Prepared
    model: str
    family: str
    shape: str
    source: str
    served: bool
    power_w: float | None
    tpot_s: float | None
    output_rate: float | None
    gaps: bool = False
    repeats: int = 1

    @property
    def launched(self) -> bool:
        """Whether the host launches each kernel, whatever the setting says."""
        return not self.served or self.source in LAUNCHED

    @property
    def j_per_token(self) -> float | None:
        return None if self.power_w is None or not self.output_rate else self.power_w / self.output_rate


def shape_of(known: Prepared) -> str:
    """The same for models that are the same to a GPU, whatever their names, contexts and vocabularies."""
    c = known.facts
    gpus = known.setting.tensor_parallel
    return f"{c.layers:g}x{c.width:g} {c.dense_weights * gpus / 1e9:.2f} {c.experts:g}/{c.chosen:g}"


def rows(results: Iterable[Result]) -> list[Row]:
    """Those that can be used, repeats pooled, in an order that does not depend on that of `results`."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for result in results:
        row = row_of(result)
        if row is not None:
            found.setdefault(_key(row), []).append(row)
    return [_pooled(found[key]) for key in sorted(found)]


def row_of(result: Result) -> Row | None:
    """None where the result has nothing that a prediction could be compared with."""
    if not result.valid or result.evidence is not Evidence.MEASURED:
        return None
    try:
        known = prepared(_setting(result))
        if running := _running(result):
            known = replace(known, at_once=max(1, round(running / known.setting.replicas)))
    except (Abstained, _LeftOut):
        return None
    power, tpot, gaps, rate = _measured(result)
    if power is None and tpot is None:
        return None
    engine = str(result.engine or _part(result, "engine").get("name") or "")
    # Splitwise and ML.ENERGY 2 and 3 do not always name the engine; version 1 of the latter is plain Transformers.
    edition = str(_part(result, "scenario").get("edition", ""))
    served = engine in ENGINES or (not engine and edition != "v1")
    source = " ".join(filter(None, (result.origin.removeprefix("imported:"), edition, engine)))
    if result.origin == "wattcount":
        source = "wattcount"
    setting = known.setting
    return Row(
        prepared=known,
        model=str(result.model),
        family=family_of(setting.gpu),
        shape=shape_of(known),
        source=source,
        served=served,
        power_w=power,
        tpot_s=tpot,
        output_rate=rate,
        gaps=gaps,
    )


class _LeftOut(Exception):  # noqa: N818, no failure
    """A result that tells nothing of what is predicted."""


def _running(result: Result) -> float | None:
    """Requests that ran in the mean, where a source of others tells: what its engine admitted is not known otherwise."""
    return None if result.origin == "wattcount" else result.value("engine/running_mean")


def _part(result: Result, name: str) -> Mapping[str, Any]:
    part = result.setting.get(name, {})
    return part if isinstance(part, Mapping) else {}


def _setting(result: Result) -> PredictionSetting:
    engine, scenario = _part(result, "engine"), _part(result, "scenario")
    task = str(scenario.get("task", ""))
    if task in ("image-chat", "video-chat") or engine.get("pipeline_parallel_size", 1) not in (None, 1):
        raise _LeftOut
    if "power capped" in result.levers or engine.get("speculative") or result.kind not in KINDS:
        raise _LeftOut
    gpus = max(1, len(result.gpus))
    parallel = int(engine.get("tensor_parallel_size") or 1)
    experts = int(engine.get("expert_parallel_size") or 1)
    if parallel == 1 and experts > 1:
        parallel = experts  # experts are spread over the GPUs as weights are
    if gpus % parallel:
        raise _LeftOut
    dtype, by_type = find_dtype(engine.get("dtype"))
    stated = engine.get("quantization") or engine.get("quantization_mode")
    method = find_method(None if stated is None else str(stated)) or by_type
    model = _model(result, dtype, method)
    lengths = scenario.get("lengths", {})
    told_in = result.value("tokens/input_per_request")
    told_out = result.value("tokens/output_per_request")
    context = scenario.get("context_tokens")
    inputs = result.input_tokens or lengths.get("input_tokens") or told_in or context
    outputs = (
        result.output_tokens or lengths.get("output_tokens") or told_out or scenario.get("max_output_tokens")
    )
    inputs = inputs or PROMPT_TOKENS.get(task, 128)
    outputs = outputs or UNTOLD_OUTPUT
    if outputs < 4:
        raise _LeftOut
    own = result.origin == "wattcount"
    limit = engine.get("max_num_seqs")
    waiting = REQUESTS.get(task) if scenario.get("edition") == "v2" else None
    at_once = waiting or _running(result) or (result.num_requests if own else limit)
    if result.kind == "concurrency":
        at_once = scenario.get("concurrency")
    if result.kind != "server" and not at_once:
        raise _LeftOut
    return PredictionSetting(
        model=model,
        gpu=_gpu(result),
        num_gpus=gpus,
        tensor_parallel=parallel,
        max_num_seqs=limit if own else None,
        max_num_batched_tokens=engine.get("max_num_batched_tokens"),
        enforce_eager=bool(engine.get("enforce_eager")),
        kv_cache_dtype=str(engine.get("kv_cache_dtype") or "auto"),
        concurrency=None if result.kind == "server" else max(1, round(float(at_once or 1))),
        rate_rps=result.rate_rps if result.kind == "server" else None,
        input_tokens=max(1, round(float(inputs))),
        output_tokens=max(1, round(float(outputs))),
        bursts=(own and result.kind == "batch") or waiting is not None,
    )


def _model(result: Result, dtype: str | None, method: str | None) -> ModelConfig:
    part = _part(result, "model")
    own = part.get("hf_config")
    if isinstance(own, Mapping) and own:
        model = ModelConfig(name=str(result.model), hf_config=dict(own))
    else:
        model = find_model(str(result.model), files=False)
    kind = part.get("dtype")
    return replace(
        model,
        dtype=dtype or (kind if isinstance(kind, str) else model.dtype),
        quantization=method or part.get("quantization") or model.quantization,
    )


def _gpu(result: Result) -> GpuConfig:
    names = set(result.gpus)
    if result.gpu is None and len(names) != 1:
        raise _LeftOut
    return find_gpu(result.gpu or next(iter(names)))


def _measured(result: Result) -> tuple[float | None, float | None, bool, float | None]:
    """Power of all GPUs, seconds per output token of a request, whether these are the median gap, output tokens per second."""
    value = result.value
    power = value("power/gpu_mean_w")
    if power is None:
        power = value("power/gpu_readings_mean_w")
    rate = value("throughput/output_tokens_per_s")
    tpot = value("latency/tpot_p50_ms")
    if tpot is None:
        tpot = value("latency/tpot_mean_ms")
    gaps = tpot is None and (result.origin or "").endswith("mlenergy")
    if gaps:
        tpot = value("latency/itl_p50_ms")
    if result.kind == "server" and result.rate_rps is None:
        rate = None
    return power, None if tpot is None else tpot / 1e3, gaps, rate


LENGTHS_POOLED = ("mlenergy v1", "joulebench", "tokenpowerbench")
"""Sources whose rows differ in tasks and lengths where these hardly matter: they are pooled, so that they do not outweigh the rest."""


def _key(row: Row) -> tuple[str, ...]:
    setting = row.prepared.setting
    pooled = row.source.startswith(LENGTHS_POOLED)
    return (
        row.source,
        row.family,
        row.model,
        setting.gpu.name,
        str(setting.model.dtype),
        str(setting.model.quantization),
        *(
            f"{value:>12}"
            for value in (
                str(setting.num_gpus),
                str(setting.tensor_parallel),
                str(row.prepared.step_tokens),
                str(setting.enforce_eager),
                setting.kv_cache_dtype,
                str(setting.concurrency),
                str(setting.rate_rps),
                str(0 if pooled else setting.input_tokens),
                str(0 if pooled else setting.output_tokens),
                str(0 if pooled else row.prepared.at_once),
            )
        ),
    )


def _pooled(same: Sequence[Row]) -> Row:
    def mean(values: Iterable[float | None]) -> float | None:
        there = [math.log(value) for value in values if value]
        return math.exp(fmean(there)) if there else None

    middle = sorted(same, key=lambda row: row.prepared.setting.output_tokens)[len(same) // 2]
    return replace(
        middle,
        power_w=mean(row.power_w for row in same),
        tpot_s=mean(row.tpot_s for row in same),
        output_rate=mean(row.output_rate for row in same),
        repeats=len(same),
    )
