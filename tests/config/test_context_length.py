"""One length of context for the check before and the engine after, one longest request, one largest load."""

from __future__ import annotations

from typing import Any

import pytest

from wattcount.config import compose
from wattcount.config.catalogue import model_catalogue
from wattcount.config.context_length import (
    context_problems,
    longest_request_tokens,
    max_model_len,
)
from wattcount.config.hf_config import context_tokens
from wattcount.config.loader import changed
from wattcount.config.schema import (
    MAX_REQUESTS,
    BatchConfig,
    LengthConfig,
    LengthKind,
    ModelConfig,
    RunConfig,
)
from wattcount.engines.vllm.model import context_length
from wattcount.errors import NotStartedError
from wattcount.load import arrivals, build_plan


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
