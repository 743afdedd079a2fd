"""Steps by physics: what must hold whatever the coefficients are."""

from __future__ import annotations

import dataclasses

import pytest

from wattcount.config.catalogue import catalogued_model, gpu_catalogue
from wattcount.prediction.steps import Abstained, PredictionSetting, StepBatch, step_model


def setting(model: str = "llama3_8b", gpu: str = "h100", **values: object) -> PredictionSetting:
    found = catalogued_model(model)
    assert found is not None
    return dataclasses.replace(PredictionSetting(found, gpu_catalogue()[gpu]), **values)  # type: ignore[arg-type]


def decode(sequences: int, context: int = 512) -> StepBatch:
    return StepBatch(0, 0, sequences, sequences * context)


def prefill(tokens: int) -> StepBatch:
    return StepBatch(tokens, tokens * tokens // 2, 0, 0, prompts=1)


@pytest.mark.parametrize(
    "model", ["llama3_8b", "qwen3_30b_a3b", "gpt_oss_20b", "falcon3_mamba_7b", "nemotron3_nano_30b_a3b"]
)
@pytest.mark.parametrize("gpu", ["h200", "a100_pcie_80gb", "rtx_pro_6000"])
def test_a_step_takes_longer_the_more_it_computes_and_no_more_than_the_limit(model: str, gpu: str) -> None:
    steps = step_model(setting(model, gpu))
    limit = gpu_catalogue()[gpu].tdp_w
    assert limit is not None
    for batches in ([decode(n) for n in (1, 8, 64, 256)], [prefill(n) for n in (64, 512, 2048, 8192)]):
        times = [steps.step_time_s(batch) for batch in batches]
        assert times == sorted(times)
        assert times[0] > 0
        assert all(steps.idle_w < steps.step_power_w(batch) <= limit for batch in batches)


def test_a_single_sequence_is_bound_by_the_memory() -> None:
    slow, fast = (step_model(setting(gpu=gpu)).step_time_s(decode(1)) for gpu in ("h100", "h200"))
    assert 1.25 < slow / fast < 1.45  # their bandwidths are as 1 to 1.43, and both compute as fast


def test_of_experts_more_are_touched_the_more_tokens_there_are() -> None:
    """A token uses 8 of 128 experts; 64 tokens touch nearly all of them."""
    steps = step_model(setting("qwen3_30b_a3b"))
    dense = step_model(setting("llama3_8b"))
    assert steps.step_time_s(decode(64)) / steps.step_time_s(decode(1)) > 2 * (
        dense.step_time_s(decode(64)) / dense.step_time_s(decode(1))
    )


def test_weights_of_8_bit_are_read_in_less_time() -> None:
    assert step_model(setting(quantization="fp8")).step_time_s(decode(1)) < 0.75 * step_model(
        setting()
    ).step_time_s(decode(1))


def test_two_gpus_share_the_weights_and_draw_together() -> None:
    one, two = step_model(setting()), step_model(setting(num_gpus=2, tensor_parallel=2))
    assert 0.5 < two.step_time_s(decode(8)) / one.step_time_s(decode(8)) < 0.9
    assert two.idle_w == 2 * one.idle_w
    assert two.kv_capacity_tokens > 2 * one.kv_capacity_tokens


def test_what_cannot_be_served_is_said() -> None:
    with pytest.raises(Abstained, match=r"does not fit 1 x h100: weights 131\.4 GiB"):
        step_model(setting("llama3_1_70b"))
    with pytest.raises(Abstained, match=r"context of llama3_8b, 8192 tokens"):
        step_model(setting(input_tokens=9000))
    with pytest.raises(Abstained, match="3 GPUs are not a multiple"):
        step_model(setting(num_gpus=3, tensor_parallel=2))
    found = catalogued_model("llama3_8b")
    assert found is not None
    other = dataclasses.replace(found, hf_config={"model_type": "rwkv7", "hidden_size": 4096})
    with pytest.raises(Abstained, match="model_type 'rwkv7'"):
        step_model(dataclasses.replace(setting(), model=other))
