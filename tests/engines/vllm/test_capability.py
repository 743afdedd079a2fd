"""What a compute capability allows, and which methods need weights that were quantised beforehand."""

from __future__ import annotations

import dataclasses

import pytest

from wattcount.config import compose
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.loader import changed
from wattcount.config.schema import Weights
from wattcount.engines.vllm.capability import LEAST_CAPABILITY, NEEDS_CHECKPOINT, unsupported


def codes(capability: str | None, *overrides: str) -> list[str]:
    return [found.code for found in unsupported(compose(list(overrides)), capability)]


@pytest.mark.parametrize(
    ("capability", "override", "expected"),
    [
        ("7.5", "model.dtype=bfloat16", ["dtype_unsupported"]),
        ("8.0", "model.dtype=bfloat16", []),
        ("7.0", "model.dtype=float16", []),
        ("9.0", "model.quantization=fp8", []),
        ("8.0", "model.quantization=fp8", []),
        ("10.0", "model.quantization=fp8", []),
        ("8.0", "engine.kv_cache_dtype=fp8", []),
        (None, "model.dtype=bfloat16", []),
        ("7.5", "model.quantization=some_new_method model.dtype=float16", []),
    ],
)
def test_by_capability(capability: str | None, override: str, expected: list[str]) -> None:
    assert codes(capability, "model=llama3_8b", *override.split()) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.quantization=fp8", "quantization_unsupported"),
        ("engine.kv_cache_dtype=fp8_e5m2", "kv_cache_dtype_unsupported"),
    ],
)
def test_volta_has_neither(override: str, expected: str) -> None:
    run = compose(["model=llama3_8b", "model.dtype=float16", "gpu=v100", override])
    (found,) = unsupported(run, "7.0")
    assert found.code == expected
    assert found.message.startswith(override.split("=")[0] + ": ")
    assert "v100 has 7.0" in found.message
    assert "\n" not in found.message


def test_awq_of_random_weights_needs_a_description() -> None:
    asked = ("model=llama3_8b", "model.weights=random", "model.quantization=awq")
    (found,) = unsupported(compose(list(asked)), "9.0")
    assert found.code == "quantization_needs_checkpoint"
    hint = found.message[found.message.index("model.hf_config.quantization_config=") :]
    assert codes("9.0", *asked, hint) == []
    # Of weights on the hub only the hub knows.
    assert codes("9.0", "model=llama3_8b", "model.quantization=gptq", "model.hf_id=me/quantised") == []


def test_every_option_runs_in_its_own_format_where_it_is_meant_to() -> None:
    assert set(LEAST_CAPABILITY) - NEEDS_CHECKPOINT == {"fp8", "bitsandbytes", "torchao", "experts_int8"}
    newest = max(float(gpu.compute_capability or 0) for gpu in gpu_catalogue().values())
    run = compose()
    for model in model_catalogue().values():
        run = changed(run, {"model": dataclasses.replace(model, weights=Weights.random)})
        assert list(unsupported(run, f"{newest:.1f}")) == []
