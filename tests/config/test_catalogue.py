"""The packaged models: each builds its Hugging Face config, and is as large as its model card says."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from wattcount.config import compose, fit, model_shape
from wattcount.config.catalogue import gpu_catalogue, match_gpu, model_catalogue

MODELS = model_catalogue()

PUBLISHED_B = {
    "acemath_1_5b": 1.5,
    "alphamonarch_7b": 7.24,
    "deepseek_llm_7b": 7,
    "deepseek_moe_16b": 16.4,
    "falcon3_mamba_7b": 7.27,
    "gemma2_2b": 2.61,
    "gemma2_9b": 9.24,
    "gemma2_27b": 27.2,
    "gemma3_1b": 1,
    "gemma3_4b": 4,
    "gemma3_12b": 12,
    "gemma3_27b": 27,
    "gpt2": 0.124,
    "gpt_j_6b": 6.053,
    "gpt_neox_20b": 20.555,
    "gpt_oss_20b": 20.9,
    "gpt_oss_120b": 116.8,
    "granite3_0_2b": 2.5,
    "granite3_0_8b": 8.1,
    "granite3_1_3b_a800m": 3.3,
    "internlm2_5_20b": 20,
    "llama2_13b": 13,
    "llama3_1_8b": 8.03,
    "llama3_1_70b": 70.6,
    "llama3_2_1b": 1.23,
    "llama3_2_3b": 3.21,
    "llama3_3_70b": 70.6,
    "llama3_8b": 8.03,
    "mistral_7b": 7.25,
    "mistral_small_2409": 22,
    "mistral_small_2501": 24,
    "mistral_small_2503": 24,
    "mistral_small_2506": 24,
    "nemotron3_nano_30b_a3b": 31.6,
    "olmo2_7b": 7.3,
    "olmo2_13b": 13.7,
    "olmoe_1b_7b": 6.9,
    "phi2": 2.7,
    "phi3_medium": 14,
    "phi3_mini": 3.8,
    "phi4": 14.7,
    "phi4_mini": 3.8,
    "phi_tiny_moe": 3.8,
    "qwen1_5_moe_a2_7b": 14.3,
    "qwen2_5_0_5b": 0.49,
    "qwen2_5_1_5b": 1.54,
    "qwen2_5_3b": 3.09,
    "qwen2_5_7b": 7.61,
    "qwen2_5_14b": 14.7,
    "qwen2_5_32b": 32.5,
    "qwen2_5_72b": 72.7,
    "qwen3_0_6b": 0.6,
    "qwen3_1_7b": 1.7,
    "qwen3_4b": 4.0,
    "qwen3_8b": 8.2,
    "qwen3_14b": 14.8,
    "qwen3_32b": 32.8,
    "qwen3_4b_2507": 4.0,
    "qwen3_30b_a3b": 30.5,
    "qwen3_30b_a3b_2507": 30.5,
    "qwen3_235b_a22b": 235,
    "qwen3_235b_a22b_2507": 235,
    "r1_distill_llama_8b": 8,
    "r1_distill_llama_70b": 70,
    "r1_distill_qwen_1_5b": 1.78,
    "r1_distill_qwen_7b": 7.62,
    "r1_distill_qwen_14b": 14.8,
    "r1_distill_qwen_32b": 32.8,
    "smollm2_1_7b": 1.7,
    "solar_10_7b": 10.7,
    "solar_pro_preview": 22.1,
    "yi_1_5_6b": 6,
    "yi_1_5_9b": 9,
}
"""10^9 parameters by the model card or the report it points to; the others' cards only round to a name."""

PUBLISHED_ACTIVE_B = {
    "deepseek_moe_16b": 2.8,
    "nemotron3_nano_30b_a3b": 3.6,
    "olmoe_1b_7b": 1.3,
    "qwen1_5_moe_a2_7b": 2.7,
    "qwen3_30b_a3b": 3.3,
    "qwen3_30b_a3b_2507": 3.3,
    "qwen3_235b_a22b": 22,
    "qwen3_235b_a22b_2507": 22,
}
"""Of mixtures of experts, where the card counts the embeddings too, as `active_parameters_b` does."""

CLASS_ON_THE_HUB = {"internlm2", "deepseek", "solar"}
"""Kinds whose config class comes with the weights; tests/engines/vllm/test_extensions.py builds theirs."""

QUANTIZED = {
    name: next(base for base in MODELS if name.startswith(f"{base}_") and base != name)
    for name in MODELS
    if name.endswith(("_fp8", "_awq", "_gptq_int4"))
}
"""Quantised checkpoints, with the option of the original."""


@pytest.mark.parametrize("name", MODELS)
def test_an_option_says_where_its_facts_come_from_and_what_they_add_up_to(name: str) -> None:
    model = MODELS[name]
    counted = model_shape.count_parameters(model.hf_config)
    assert counted is not None
    assert model.name == name
    assert model.source
    assert model.parameters_b is not None
    assert counted.total / 1e9 == pytest.approx(model.parameters_b, rel=0.01)
    assert counted.active / 1e9 == pytest.approx(model.active_parameters_b or model.parameters_b, rel=0.01)
    assert (
        model_shape.kv_bytes_per_token(model.hf_config, 2.0) + model_shape.state_bytes(model.hf_config, 2.0)
        > 0
    )
    assert model.dtype == model.hf_config.get("torch_dtype", "bfloat16")


@pytest.mark.parametrize(("name", "billions"), PUBLISHED_B.items())
def test_counts_agree_with_the_published_ones(name: str, billions: float) -> None:
    counted = model_shape.count_parameters(MODELS[name].hf_config)
    assert counted is not None
    assert counted.total / 1e9 == pytest.approx(billions, rel=0.05)


@pytest.mark.parametrize(("name", "billions"), PUBLISHED_ACTIVE_B.items())
def test_active_counts_agree_with_the_published_ones(name: str, billions: float) -> None:
    counted = model_shape.count_parameters(MODELS[name].hf_config)
    assert counted is not None
    assert counted.active / 1e9 == pytest.approx(billions, rel=0.05)


@pytest.mark.parametrize(("name", "base"), QUANTIZED.items())
def test_a_quantised_checkpoint_has_the_shape_of_its_original(name: str, base: str) -> None:
    quantized, original = MODELS[name], MODELS[base]
    apart = {"quantization_config", "torch_dtype"}
    assert {k: v for k, v in quantized.hf_config.items() if k not in apart} == {
        k: v for k, v in original.hf_config.items() if k not in apart
    }
    assert quantized.parameters_b == original.parameters_b
    bits = fit.weight_bits(quantized)
    assert bits == (8.0 if name.endswith("_fp8") else 4 + 20 / 128)
    small, large = (
        fit.estimate(compose([f"model={option}"]), 80 * fit.GIB).weights_bytes for option in (name, base)
    )
    assert bits / 16 < small / large < bits / 16 + 0.2  # embeddings and output head stay in 16 bit


@pytest.mark.parametrize("name", [name for name in MODELS if name not in QUANTIZED])
def test_transformers_builds_the_same_number_of_parameters(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers", reason="needs transformers, which comes with vLLM")
    torch = pytest.importorskip("torch")
    hf_config: dict[str, Any] = dict(MODELS[name].hf_config)
    kind = hf_config["model_type"]
    if kind not in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        assert kind in CLASS_ON_THE_HUB
        pytest.skip(f"the config class of {kind} is not in transformers, it comes with the weights")
    hf_config.pop("quantization_config", None)  # needs kernels to build; the shape does not depend on it
    (tmp_path / "config.json").write_text(json.dumps(hf_config))
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(loaded)
    counted = model_shape.count_parameters(hf_config)
    assert counted is not None
    assert counted.total == sum(parameter.numel() for parameter in set(model.parameters()))
    assert type(model).__name__.lower() == hf_config["architectures"][0].lower()


def test_no_checkpoint_is_there_twice() -> None:
    ids = Counter(model.hf_id for model in MODELS.values() if model.hf_id)
    assert [hf_id for hf_id, times in ids.items() if times > 1] == []


def test_all_models_and_gpus_of_watt_counts_are_there() -> None:
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("WATTCOUNT_SHARED_DATA", default)) / "wattgpu"
    if not folder.is_dir():
        pytest.skip(f"no Watt Counts data set at {folder}")
    with (folder / "model_features.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    by_id = {model.hf_id: model for model in MODELS.values()}
    assert {row["model_name"] for row in rows} - set(by_id) == set()
    for row in rows:
        shape = by_id[row["model_name"]].hf_config
        layers = shape.get("num_hidden_layers", shape.get("n_layer"))
        width = shape.get("hidden_size", shape.get("n_embd"))
        assert (layers, width, shape["vocab_size"]) == (
            int(row["num_layers"]),
            int(row["hidden_size"]),
            int(row["vocab_size"]),
        ), row["model_name"]
    with (folder / "gpu_features.csv").open(newline="") as file:
        names = [row["gpu_type"] for row in csv.DictReader(file, delimiter=";")]
    assert [name for name in names if match_gpu(name) is None] == []


def test_the_state_of_a_state_space_model_does_not_grow() -> None:
    # 64 layers x 8192 channels x (3 inputs of the convolution + 16 states) x 2 bytes
    falcon = MODELS["falcon3_mamba_7b"].hf_config
    assert model_shape.state_bytes(falcon, 2.0) == 64 * 8192 * (3 + 16) * 2
    assert model_shape.state_bytes(falcon, 2.0, tensor_parallel=2) == 64 * 8192 * (3 + 16)
    assert model_shape.kv_bytes_per_token(falcon, 2.0) == 0
    short = fit.estimate(compose(["model=falcon3_mamba_7b"]), 24 * fit.GIB)
    long = fit.estimate(compose(["model=falcon3_mamba_7b", "engine.max_model_len=100000"]), 24 * fit.GIB)
    assert (
        short.kv_cache_bytes
        == long.kv_cache_bytes
        == short.state_bytes
        == model_shape.state_bytes(falcon, 2.0)
    )
    assert "state 19 MiB" in short.explain()


def test_a_hybrid_model_caches_only_its_attention_layers() -> None:
    nano = MODELS["nemotron3_nano_30b_a3b"].hf_config
    assert len(nano["hybrid_override_pattern"]) == nano["num_hidden_layers"] == 52
    assert model_shape.kv_bytes_per_token(nano, 2.0) == 6 * 2 * 2 * 128 * 2
    # 23 layers: 6144 channels x 3 inputs in 16 bit, 64 heads x 64 x 128 states in 32 bit
    assert model_shape.state_bytes(nano, 2.0) == 23 * (6144 * 3 * 2 + 64 * 64 * 128 * 4)
    report = fit.estimate(compose(["model=nemotron3_nano_30b_a3b"]), 80 * fit.GIB)
    assert report.kv_cache_bytes == report.model_len * 6144 + report.state_bytes


@pytest.mark.parametrize("key", ["hybrid_override_pattern", "mamba_num_heads", "vocab_size", "hidden_size"])
def test_an_incomplete_hybrid_is_not_counted(key: str) -> None:
    nano = {k: v for k, v in MODELS["nemotron3_nano_30b_a3b"].hf_config.items() if k != key}
    assert model_shape.count_parameters(nano) is None


def test_an_unknown_letter_in_the_pattern_is_not_counted() -> None:
    nano = {**MODELS["nemotron3_nano_30b_a3b"].hf_config, "hybrid_override_pattern": "MX"}
    assert model_shape.count_parameters(nano) is None


@pytest.mark.parametrize(("name", "gib"), [("gpt_oss_20b", 12.8), ("gpt_oss_120b", 60.8)])
def test_mxfp4_leaves_attention_in_16_bit(name: str, gib: float) -> None:
    """Against the sizes of the checkpoints that the gpt-oss model card (arXiv 2508.10925) gives."""
    report = fit.estimate(compose([f"model={name}"]), 80 * fit.GIB)
    assert report.weights_bytes / fit.GIB == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama3_8b", "dense"),
        ("olmoe_1b_7b", "moe"),
        ("falcon3_mamba_7b", "ssm"),
        ("nemotron3_nano_30b_a3b", "hybrid"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert model_shape.model_kind(MODELS[name].hf_config) == kind


def test_the_documentation_lists_all() -> None:
    """`make docs` writes it."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "catalogue.md").read_text()
    assert [name for name in (*MODELS, *gpu_catalogue()) if f"| `{name}` |" not in text] == []


def test_the_gpu_catalogue_has_no_auto() -> None:
    assert "auto" not in gpu_catalogue()
    assert all(gpu.memory_gib for gpu in gpu_catalogue().values())
