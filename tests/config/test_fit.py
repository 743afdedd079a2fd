"""The fit arithmetic: what fits where, and what the report of it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from wattcount.config import compose, fit
from wattcount.config.catalogue import model_catalogue
from wattcount.config.fit import (
    context_problems,
    longest_request_tokens,
    max_model_len,
)
from wattcount.config.loader import changed
from wattcount.config.model_shape import context_tokens
from wattcount.config.schema import (
    MAX_REQUESTS,
    BatchConfig,
    Device,
    LengthConfig,
    LengthKind,
    ModelConfig,
    RunConfig,
    ServerConfig,
)
from wattcount.engines import registry
from wattcount.engines.vllm.setup import context_length
from wattcount.errors import NotStartedError
from wattcount.load import arrivals
from wattcount.load.build import build_plan

GIB = 2**30


@pytest.mark.parametrize(
    ("overrides", "gib", "fits"),
    [
        (["model=llama3_8b"], 80, True),
        (["model=llama3_8b"], 24, True),
        (["model=llama3_8b"], 16, False),
        (["model=llama3_8b", "model.quantization=awq"], 16, True),
        (["model=llama3_8b", "model.quantization=fp8"], 16, True),
        (["model=llama3_8b", "model.dtype=float32"], 24, False),
        (["model=llama3_8b", "engine.gpu_memory_utilization=0.5"], 24, False),
        (["model=llama3_8b", "gpu.count=2", "engine.tensor_parallel_size=2"], 16, True),
        (["model=phi4"], 24, False),
        (["model=phi4"], 40, True),
        (["model=olmoe_1b_7b"], 15, False),
        (["model=olmoe_1b_7b"], 24, True),
        (["model=qwen2_5_0_5b"], 16, True),
        (["model=llama3_1_8b", "engine.max_model_len=131072"], 24, False),
        (["model=llama3_1_8b", "engine.max_model_len=131072"], 40, True),
        (
            ["model=llama3_1_8b", "engine.max_model_len=131072", "engine.kv_cache_dtype=fp8"],
            32,
            True,
        ),
    ],
)
def test_what_fits_where(overrides: list[str], gib: int, fits: bool) -> None:
    report = fit.estimate(compose(overrides), gib * GIB)
    assert report.fits is fits, report.explain()


def test_the_report_adds_up_and_explains_itself() -> None:
    report = fit.estimate(compose(["model=llama3_8b", "scenario=batch"]), 80 * GIB)
    assert report.weights_bytes == 2 * 8_030_261_248
    assert report.needed_bytes == (
        report.weights_bytes + report.kv_cache_bytes + report.activation_bytes + report.overhead_bytes
    )
    assert report.usable_bytes == pytest.approx(0.92 * 80 * GIB)
    assert report.kv_cache_bytes == 768 * 128 * 1024
    assert report.kv_cache_all_bytes == 512 * 768 * 128 * 1024
    assert report.all_at_once
    line = report.explain()
    assert "weights 15.0 GiB (8.03e9 parameters x 16 bit)" in line
    assert "768 tokens x 128 KiB" in line
    assert "of 73.6 GiB usable" in line
    assert "\n" not in line
    tight = fit.estimate(compose(["model=llama3_8b", "scenario=batch"]), 24 * GIB)
    assert tight.fits
    assert not tight.all_at_once


def of(model: str, *overrides: str) -> fit.FitReport:
    return fit.estimate(compose([f"model={model}", "scenario=batch", *overrides]), 80 * GIB)


def test_stages_of_a_pipeline_share_layers_and_cache() -> None:
    one, two = of("llama3_8b"), of("llama3_8b", "gpu.count=2", "engine.pipeline_parallel_size=2")
    assert two.weights_bytes == pytest.approx(one.weights_bytes / 2, rel=1e-3)
    assert two.kv_cache_bytes == one.kv_cache_bytes / 2
    assert two.concurrency == one.concurrency
    assert "/ 2 GPUs" in two.explain()
    # 32 layers in 3 stages: the fullest has 11; the last holds the output head alone.
    three = of("llama3_8b", "gpu.count=3", "engine.pipeline_parallel_size=3")
    layers = 8_030_261_248 - 2 * 128256 * 4096
    assert three.weights_bytes == pytest.approx(2 * (layers * 11 / 32 + 128256 * 4096), rel=1e-3)
    four = of("llama3_8b", "gpu.count=4", "engine.pipeline_parallel_size=2", "engine.tensor_parallel_size=2")
    assert four.weights_bytes == pytest.approx(one.weights_bytes / 4, rel=1e-3)


def test_replicas_share_requests_and_nothing_else() -> None:
    one, two = of("llama3_8b"), of("llama3_8b", "gpu.count=2", "engine.data_parallel_size=2")
    assert two.weights_bytes == one.weights_bytes
    assert two.kv_cache_bytes == one.kv_cache_bytes
    assert two.concurrency == one.concurrency / 2
    assert two.kv_cache_all_bytes == one.kv_cache_all_bytes / 2


def test_replicas_of_a_mixture_of_experts_share_the_experts() -> None:
    one, two = of("qwen3_30b_a3b"), of("qwen3_30b_a3b", "gpu.count=2", "engine.data_parallel_size=2")
    experts = 48 * 128 * 3 * 2048 * 768
    assert one.weights_bytes - two.weights_bytes == pytest.approx(2 * experts / 2, rel=1e-6)


def test_a_draft_model_takes_its_weights_and_cache() -> None:
    draft = ("engine.speculative.method=draft_model", "engine.speculative.draft_model=llama3_2_1b")
    alone, both = of("llama3_1_8b"), of("llama3_1_8b", *draft)
    assert both.draft_bytes == 2 * 1_235_814_400 + 768 * 16 * 2 * 8 * 64 * 2
    assert both.needed_bytes - alone.needed_bytes == both.draft_bytes
    assert "draft model 2.3 GiB" in both.explain()
    assert alone.draft_bytes == 0


def test_a_cpu_engine_uses_the_memory_that_is_free() -> None:
    run = compose(["model=qwen2_5_0_5b"])
    run = changed(run, {"engine.device": Device.cpu})
    assert fit.estimate(run, 8 * GIB).usable_bytes == 8 * GIB
    assert not fit.estimate(run, 2 * GIB).fits


def test_an_unknown_model_is_given_the_benefit_of_the_doubt() -> None:
    run = compose(["model=custom", "model.hf_id=someone/something"])
    report = fit.estimate(run, GIB)
    assert report.fits
    assert report.parameters is None
    assert "not known" in report.explain()
    run = changed(run, {"model.parameters_b": 70.0})
    assert not fit.estimate(run, 80 * GIB).fits


def test_declared_quantisation() -> None:
    run = compose(["model=llama3_8b"])
    run = changed(
        run,
        {
            "model.hf_config": {
                **run.model.hf_config,
                "quantization_config": {"quant_method": "gptq", "bits": 4},
            }
        },
    )
    assert fit.estimate(run, 80 * GIB).weight_bits == 4.25
    run = changed(
        run, {"model.hf_config": {**run.model.hf_config, "quantization_config": {"quant_method": "fp8"}}}
    )
    assert fit.estimate(run, 80 * GIB).weight_bits == 8.0


@pytest.mark.parametrize(
    ("bits", "group_size", "expected"), [(4, 128, 4.15625), (8, 128, 8.1875), (4, 32, 4.625), (4, -1, 4.25)]
)
def test_groups_add_their_scales_and_zero_points(bits: int, group_size: int, expected: float) -> None:
    run = compose(["model=llama3_8b"])
    declared = {"quant_method": "gptq", "bits": bits, "group_size": group_size}
    run = changed(run, {"model.hf_config": {**run.model.hf_config, "quantization_config": declared}})
    assert fit.estimate(run, 80 * GIB).weight_bits == expected


def test_a_quantised_checkpoint_is_as_large_as_its_files() -> None:
    """Against the 5.58e9 bytes of Qwen/Qwen2.5-7B-Instruct-AWQ on the hub."""
    run = compose(["model=qwen2_5_7b"])
    declared = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    run = changed(run, {"model.hf_config": {**run.model.hf_config, "quantization_config": declared}})
    assert fit.estimate(run, 80 * GIB).weights_bytes == pytest.approx(5.58e9, rel=0.01)


def test_model_len_is_rounded_up_within_the_context() -> None:
    def length(tokens: int, model: str = "llama3_8b") -> int:
        return fit.max_model_len(compose([f"model={model}", f"scenario.lengths.input_tokens={tokens - 128}"]))

    assert length(640) == 768
    assert length(768) == 768
    assert length(4000, "olmoe_1b_7b") == 4096
    assert fit.max_model_len(compose(["model=llama3_8b", "engine.max_model_len=1000"])) == 1000


def test_longest_request() -> None:
    fixed = LengthConfig(input_tokens=10, output_tokens=20, input_tokens_max=1000)
    assert fit.longest_request_tokens(BatchConfig(lengths=fixed)) == 30
    drawn = dataclasses.replace(fixed, kind=LengthKind.lognormal, output_tokens_max=50)
    assert fit.longest_request_tokens(BatchConfig(lengths=drawn)) == 1050


def test_concurrency() -> None:
    def of(scenario: Any, max_num_seqs: int | None = None) -> int:
        run = RunConfig(scenario=scenario)
        run = changed(run, {"engine.max_num_seqs": max_num_seqs})
        return fit.concurrency(run)

    assert of(BatchConfig(num_requests=8)) == 8
    assert of(BatchConfig(num_requests=5000)) == 256
    assert of(BatchConfig(num_requests=5000), 32) == 32
    assert of(ServerConfig(rate_rps=0.1, window_s=30.0)) == 3
    assert of(ServerConfig(rate_rps=0.01, window_s=30.0)) == 1
    assert of(ServerConfig(rate_rps=None), 64) == 64
    assert of(ServerConfig(rate_rps=100.0, max_in_flight=7)) == 7


@pytest.mark.parametrize("gpu", ["t4", "v100", "l40s", "a100", "h100", "b200"])
@pytest.mark.parametrize("scenario", ["batch", "server"])
def test_the_engine_s_defaults_are_those_that_a_run_gets(gpu: str, scenario: str) -> None:
    """A point whose settings are null fits where the one that asks for what vLLM chooses fits, to the byte."""
    for model in ("llama3_8b", "phi4", "olmoe_1b_7b", "mistral_small_2409"):
        run = compose([f"model={model}", f"gpu={gpu}", f"scenario={scenario}", "model.dtype=float16"])
        memory_bytes = int((run.gpu.memory_gib or 0) * GIB)
        asked = dataclasses.replace(run, engine=registry.plugin(run.engine.name).resolved(run, memory_bytes))
        assert asked.engine.max_num_seqs is not None
        assert fit.estimate(run, memory_bytes) == fit.estimate(asked, memory_bytes)


def test_what_fits_a_server_s_steps_is_not_skipped_for_larger_ones() -> None:
    """These were skipped by steps of 8,192 tokens, which no server on these GPUs has."""
    for model, gpu in (
        ("falcon3_mamba_7b", "t4"),
        ("deepseek_llm_7b", "t4"),
        ("phi4", "v100"),
        ("qwen3_14b", "v100"),
    ):
        run = compose([f"model={model}", f"gpu={gpu}", "scenario=server_paper_low", "model.dtype=float16"])
        assert fit.estimate(run, int((run.gpu.memory_gib or 0) * GIB)).fits


@pytest.mark.parametrize(
    ("hf_config", "tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({"seq_length": 2048, "max_position_embeddings": 4096}, 2048),
        ({"text_config": {"max_position_embeddings": 8192}, "max_position_embeddings": 77}, 8192),
        ({"max_position_embeddings": 4096, "rope_scaling": {"factor": 4.0}}, None),
        ({"rope_scaling": {"factor": 4.0}, "text_config": {"max_position_embeddings": 4096}}, None),
        ({"max_position_embeddings": True}, None),
        ({}, None),
    ],
)
def test_the_context_that_a_config_json_tells(hf_config: dict[str, Any], tokens: int | None) -> None:
    assert context_tokens(hf_config) == tokens


@pytest.mark.parametrize(("name", "model"), sorted(model_catalogue().items()))
def test_what_is_checked_is_what_the_engine_is_set_up_for(name: str, model: ModelConfig) -> None:
    cfg = RunConfig(model=model, scenario=BatchConfig(name=name))
    assert next(context_problems(cfg), None) is None
    assert context_length(cfg, model.hf_config) == max_model_len(cfg) == 768
    cfg = changed(cfg, {"scenario.lengths.input_tokens": 10_000_000})
    if context_tokens(model.hf_config) is None:
        assert context_length(cfg, model.hf_config) == max_model_len(cfg) > 10_000_000
    else:
        with pytest.raises(NotStartedError, match="do not fit the context of"):
            context_length(cfg, model.hf_config)


def test_a_context_that_only_the_folders_config_json_tells_is_checked_alike() -> None:
    cfg = compose(["model=tiny", "scenario.lengths.input_tokens=900", "scenario.lengths.output_tokens=200"])
    other = {"n_positions": 1024}
    (problem,) = context_problems(cfg, other)
    assert "requests of up to 1100 tokens do not fit the context of tiny, 1024 tokens" in problem
    with pytest.raises(NotStartedError, match="do not fit the context of tiny, 1024 tokens"):
        context_length(cfg, other)


def test_fixed_lengths() -> None:
    assert (
        longest_request_tokens(BatchConfig(lengths=LengthConfig(input_tokens=512, output_tokens=128))) == 640
    )


@pytest.mark.parametrize("kind", [LengthKind.uniform, LengthKind.lognormal])
def test_no_request_of_a_plan_is_longer(kind: LengthKind) -> None:
    lengths = LengthConfig(
        kind=kind, input_tokens_max=90, output_tokens_max=70, input_tokens=80, output_tokens=60
    )
    scenario = BatchConfig(num_requests=2000, lengths=lengths)
    plan = build_plan(scenario, 0, 0).main
    assert longest_request_tokens(scenario) == 160
    assert (plan.input_tokens + plan.output_tokens).max() <= 160


def test_a_configuration_and_its_load_have_the_same_most_requests() -> None:
    duration_s = 100.0
    rate = MAX_REQUESTS / duration_s
    arrivals._check_size(rate * duration_s)
    with pytest.raises(NotStartedError, match=f"more than {MAX_REQUESTS}"):
        arrivals._check_size(rate * duration_s + 1)
    window = ["scenario.window_s=90", "scenario.warmup_s=0", "scenario.warmup_limit_s=10"]
    compose(["model=tiny", f"scenario.rate_rps={rate}", *window])
    with pytest.raises(NotStartedError, match=f"makes more than {MAX_REQUESTS}"):
        compose(["model=tiny", f"scenario.rate_rps={rate + 1}", *window])
