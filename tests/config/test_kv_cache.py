"""What requests take of memory, against known cache sizes."""

from __future__ import annotations

from model_shapes import MIXTRAL

from wattcount.config import compose
from wattcount.config.kv_cache import kv_bytes_per_token, kv_cache_bytes
from wattcount.config.parameters import count_parameters


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
