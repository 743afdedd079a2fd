"""How long the requests of a scenario are, and the context that an engine is set up for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from wattcount.config.hf_config import context_tokens
from wattcount.config.schema import LengthKind, ModelConfig, RunConfig, ScenarioConfig

MODEL_LEN_STEP = 256
"""The context is rounded up to a multiple of this [tokens], so that small changes of the lengths change nothing else."""


def model_context_limit(model: ModelConfig) -> int | None:
    """Tokens in the model's context window, prompt and completion; None where the config does not tell."""
    return context_tokens(model.hf_config)


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
