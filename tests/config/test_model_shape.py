"""Parameters by shape, against published counts and transformers' own models."""

from __future__ import annotations

from typing import Any

import pytest
from model_shapes import MIXTRAL

from wattcount.config import compose
from wattcount.config.model_shape import count_parameters, kv_bytes_per_token, kv_cache_bytes

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
    counted = count_parameters(model.hf_config)
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
    counted = count_parameters(hf_config)
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
    counted = count_parameters(hf_config)
    assert counted is not None
    assert counted.total == built
    assert type(model).__name__ == hf_config["architectures"][0]


@pytest.mark.parametrize("kind", ["mamba2", "nemotron_h", "rwkv"])
def test_what_is_no_plain_transformer_is_not_counted(kind: str) -> None:
    assert count_parameters({**MIXTRAL, "model_type": kind}) is None


def test_nested_and_incomplete_configs() -> None:
    nested = {"model_type": "mistral3", "text_config": MIXTRAL}
    assert count_parameters(nested) == count_parameters(MIXTRAL)
    assert count_parameters({"model_type": "llama"}) is None


def test_kv_cache_of_one_token() -> None:
    llama = compose(["model=llama3_8b"]).model.hf_config
    assert kv_bytes_per_token(llama, 2.0) == 128 * 1024
    assert kv_bytes_per_token(llama, 1.0) == 64 * 1024
    # Eight KV heads: halved on two GPUs, and repeated where there are more GPUs than heads.
    assert kv_bytes_per_token(llama, 2.0, tensor_parallel=2) == 64 * 1024
    assert kv_bytes_per_token(llama, 2.0, tensor_parallel=16) == 16 * 1024
    qwen = compose(["model=qwen2_5_7b"]).model.hf_config
    assert kv_bytes_per_token(qwen, 2.0) == 56 * 1024


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
    assert kv_bytes_per_token(deepseek_v3, 2.0) == 61 * 576 * 2
    assert count_parameters(deepseek_v3) is None


def test_sliding_windows_keep_only_the_window() -> None:
    gemma = compose(["model=gemma2_2b"]).model.hf_config
    per_layer = 2 * 4 * 256 * 2
    assert kv_cache_bytes(gemma, 1000, 2.0) == 26 * per_layer * 1000
    assert kv_cache_bytes(gemma, 8000, 2.0) == 13 * per_layer * (8000 + 4096)
    mistral_v01 = {**MIXTRAL, "model_type": "mistral", "sliding_window": 4096}
    assert kv_cache_bytes(mistral_v01, 10_000, 2.0) == 128 * 1024 * 4096
    qwen = compose(["model=qwen2_5_7b"]).model.hf_config  # has a window but does not use it
    assert kv_cache_bytes({**qwen, "sliding_window": 4096}, 10_000, 2.0) == 56 * 1024 * 10_000
    typed = {**MIXTRAL, "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16}
    assert kv_cache_bytes(typed, 1128, 2.0) == 16 * 4096 * (1128 + 128)


def test_a_config_that_does_not_tell() -> None:
    assert kv_bytes_per_token({}, 2.0) == 0
