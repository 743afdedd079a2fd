"""The fit arithmetic against published parameter counts, cache sizes, and transformers' own models."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from wattcount.config import compose, fit
from wattcount.config.schema import BatchConfig, Device, LengthConfig, LengthKind, RunConfig, ServerConfig

GIB = 2**30
CONF_MODELS = [
    "llama3_8b",
    "llama3_1_8b",
    "qwen2_5_0_5b",
    "qwen2_5_7b",
    "gemma2_2b",
    "phi4",
    "mistral_7b",
    "olmoe_1b_7b",
    "tiny",
]

MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
QWEN15_MOE = {
    "model_type": "qwen2_moe",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
NEOX_20B = {
    "model_type": "gpt_neox",
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "vocab_size": 50432,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", CONF_MODELS)
def test_parameters_agree_with_what_the_option_says(name: str) -> None:
    model = compose([f"model={name}"]).model
    counted = fit.count_parameters(model.hf_config)
    assert counted is not None
    assert model.parameters_b is not None
    assert counted.total / 1e9 == pytest.approx(model.parameters_b, rel=0.01)
    if model.active_parameters_b is not None:
        assert counted.active / 1e9 == pytest.approx(model.active_parameters_b, rel=0.01)
    else:
        assert counted.active == counted.total


@pytest.mark.parametrize(
    ("hf_config", "total_b", "active_b"),
    [(MIXTRAL, 46.70, 12.88), (QWEN3_30B, 30.53, 3.35), (QWEN15_MOE, 14.32, 2.69), (NEOX_20B, 20.55, 20.55)],
)
def test_parameters_agree_with_published_counts(
    hf_config: dict[str, Any], total_b: float, active_b: float
) -> None:
    counted = fit.count_parameters(hf_config)
    assert counted is not None
    assert counted.total / 1e9 == pytest.approx(total_b, rel=0.01)
    assert counted.active / 1e9 == pytest.approx(active_b, rel=0.01)


@pytest.mark.parametrize("name", CONF_MODELS)
def test_transformers_builds_the_same_number_of_parameters(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="needs transformers, which comes with vLLM")
    torch = pytest.importorskip("torch")
    import json

    hf_config = compose([f"model={name}"]).model.hf_config
    (tmp_path / "config.json").write_text(json.dumps(hf_config))
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(loaded)
    built = sum(parameter.numel() for parameter in set(model.parameters()))
    counted = fit.count_parameters(hf_config)
    assert counted is not None
    assert counted.total == built
    assert type(model).__name__ == hf_config["architectures"][0]


def test_kv_cache_of_one_token() -> None:
    llama = compose(["model=llama3_8b"]).model.hf_config
    assert fit.kv_bytes_per_token(llama, 2.0) == 128 * 1024
    assert fit.kv_bytes_per_token(llama, 1.0) == 64 * 1024
    # Eight KV heads: halved on two GPUs, and repeated where there are more GPUs than heads.
    assert fit.kv_bytes_per_token(llama, 2.0, tensor_parallel=2) == 64 * 1024
    assert fit.kv_bytes_per_token(llama, 2.0, tensor_parallel=16) == 16 * 1024
    qwen = compose(["model=qwen2_5_7b"]).model.hf_config
    assert fit.kv_bytes_per_token(qwen, 2.0) == 56 * 1024


def test_latent_attention_caches_the_compressed_state() -> None:
    deepseek_v3 = {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "vocab_size": 129280,
    }
    assert fit.kv_bytes_per_token(deepseek_v3, 2.0) == 61 * 576 * 2
    assert fit.count_parameters(deepseek_v3) is None


def test_sliding_windows_keep_only_the_window() -> None:
    gemma = compose(["model=gemma2_2b"]).model.hf_config
    per_layer = 2 * 4 * 256 * 2
    assert fit.kv_cache_bytes(gemma, 1000, 2.0) == 26 * per_layer * 1000
    assert fit.kv_cache_bytes(gemma, 8000, 2.0) == 13 * per_layer * (8000 + 4096)
    mistral_v01 = {**MIXTRAL, "model_type": "mistral", "sliding_window": 4096}
    assert fit.kv_cache_bytes(mistral_v01, 10_000, 2.0) == 128 * 1024 * 4096
    qwen = compose(["model=qwen2_5_7b"]).model.hf_config  # has a window but does not use it
    assert fit.kv_cache_bytes({**qwen, "sliding_window": 4096}, 10_000, 2.0) == 56 * 1024 * 10_000
    typed = {**MIXTRAL, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}
    assert fit.kv_cache_bytes(typed, 1128, 2.0) == 16 * 4096 * (1128 + 128)


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
    assert report.usable_bytes == pytest.approx(72 * GIB)
    assert report.kv_cache_bytes == 768 * 128 * 1024
    assert report.kv_cache_all_bytes == 256 * 768 * 128 * 1024
    assert report.all_at_once
    line = report.explain()
    assert "weights 15.0 GiB (8.03e9 parameters x 16 bit)" in line
    assert "768 tokens x 128 KiB" in line
    assert "of 72.0 GiB usable" in line
    assert "\n" not in line
    tight = fit.estimate(compose(["model=llama3_8b", "scenario=batch"]), 24 * GIB)
    assert tight.fits
    assert not tight.all_at_once


def test_a_cpu_engine_uses_the_memory_that_is_free() -> None:
    run = compose(["model=qwen2_5_0_5b"])
    run.engine.device = Device.cpu
    assert fit.estimate(run, 8 * GIB).usable_bytes == 8 * GIB
    assert not fit.estimate(run, 2 * GIB).fits


def test_an_unknown_model_is_given_the_benefit_of_the_doubt() -> None:
    run = compose(["model=custom", "model.hf_id=someone/something"])
    report = fit.estimate(run, GIB)
    assert report.fits
    assert report.parameters is None
    assert "not known" in report.explain()
    run.model.parameters_b = 70.0
    assert not fit.estimate(run, 80 * GIB).fits


@pytest.mark.parametrize("kind", ["mamba2", "nemotron_h", "rwkv"])
def test_what_is_no_plain_transformer_is_not_counted(kind: str) -> None:
    assert fit.count_parameters({**MIXTRAL, "model_type": kind}) is None


def test_nested_and_incomplete_configs() -> None:
    nested = {"model_type": "mistral3", "text_config": MIXTRAL}
    assert fit.count_parameters(nested) == fit.count_parameters(MIXTRAL)
    assert fit.count_parameters({"model_type": "llama"}) is None
    assert fit.kv_bytes_per_token({}, 2.0) == 0


def test_declared_quantisation() -> None:
    run = compose(["model=llama3_8b"])
    run.model.hf_config = {**run.model.hf_config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    assert fit.estimate(run, 80 * GIB).weight_bits == 4.25
    run.model.hf_config = {**run.model.hf_config, "quantization_config": {"quant_method": "fp8"}}
    assert fit.estimate(run, 80 * GIB).weight_bits == 8.0


@pytest.mark.parametrize(
    ("bits", "group_size", "expected"), [(4, 128, 4.15625), (8, 128, 8.1875), (4, 32, 4.625), (4, -1, 4.25)]
)
def test_groups_add_their_scales_and_zero_points(bits: int, group_size: int, expected: float) -> None:
    run = compose(["model=llama3_8b"])
    declared = {"quant_method": "gptq", "bits": bits, "group_size": group_size}
    run.model.hf_config = {**run.model.hf_config, "quantization_config": declared}
    assert fit.estimate(run, 80 * GIB).weight_bits == expected


def test_a_quantised_checkpoint_is_as_large_as_its_files() -> None:
    """Against the 5.58e9 bytes of Qwen/Qwen2.5-7B-Instruct-AWQ on the hub."""
    run = compose(["model=qwen2_5_7b"])
    declared = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    run.model.hf_config = {**run.model.hf_config, "quantization_config": declared}
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
        run.engine.max_num_seqs = max_num_seqs
        return fit.concurrency(run)

    assert of(BatchConfig(num_requests=8)) == 8
    assert of(BatchConfig(num_requests=5000)) == fit.DEFAULT_MAX_SEQS
    assert of(BatchConfig(num_requests=5000), 32) == 32
    assert of(ServerConfig(rate_rps=0.1, window_s=30.0)) == 3
    assert of(ServerConfig(rate_rps=0.01, window_s=30.0)) == 1
    assert of(ServerConfig(rate_rps=None), 64) == 64
    assert of(ServerConfig(rate_rps=100.0, max_in_flight=7)) == 7
