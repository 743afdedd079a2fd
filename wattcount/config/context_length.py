"""How long the requests of a scenario are, and the context that an engine is set up for."""

from __future__ import annotations

import math

from wattcount.config.hf_config import first_int, text_config
from wattcount.config.schema import LengthKind, ModelConfig, RunConfig, ScenarioConfig

MODEL_LEN_STEP = 256
"""The context is rounded up to a multiple of this [tokens], so that small changes of the lengths change nothing else."""


def model_context_limit(model: ModelConfig) -> int | None:
    """Tokens in the model's context window, prompt and completion; None where the config does not tell."""
    c = text_config(model.hf_config)
    if c.get("rope_scaling"):
        return None  # a scaled rotary embedding reaches further; how far is the engine's to say
    return first_int(c, "max_position_embeddings", "n_positions", "max_sequence_length")


def longest_request_tokens(scenario: ScenarioConfig) -> int:
    """Prompt plus completion of the longest request that the scenario can send, whatever the seed.

    For lengths that vary it is the sum of their upper bounds in `scenario.lengths`.
    """
    lengths = scenario.lengths
    if lengths.kind is LengthKind.fixed:
        return lengths.input_tokens + lengths.output_tokens
    return lengths.input_tokens_max + lengths.output_tokens_max


def max_model_len(cfg: RunConfig) -> int:
    """The engine's `max_model_len`: as set, else the longest request rounded up, within the model's context."""
    if cfg.engine.max_model_len is not None:
        return cfg.engine.max_model_len
    longest = longest_request_tokens(cfg.scenario)
    rounded = math.ceil(longest / MODEL_LEN_STEP) * MODEL_LEN_STEP
    limit = model_context_limit(cfg.model)
    return max(longest, rounded if limit is None else min(rounded, limit))
