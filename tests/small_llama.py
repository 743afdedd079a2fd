"""A run of vLLM with a Llama small enough for any CPU."""

from __future__ import annotations

from typing import Any

from wattcount.config.loader import changed
from wattcount.config.schema import (
    BatchConfig,
    Device,
    EngineConfig,
    LengthConfig,
    ModelConfig,
    RunConfig,
    Weights,
)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}


def config(**changes: Any) -> RunConfig:
    """A run of the small Llama; keys as `engine.enforce_eager` with `__` for the dot."""
    cfg = RunConfig(
        model=ModelConfig(name="small", weights=Weights.random, hf_config=dict(LLAMA)),
        engine=EngineConfig(
            device=Device.cpu, enforce_eager=True, max_num_seqs=32, max_num_batched_tokens=256
        ),
        scenario=BatchConfig(name="batch", lengths=LengthConfig(input_tokens=500, output_tokens=500)),
    )
    return changed(cfg, {key.replace("__", "."): value for key, value in changes.items()})
