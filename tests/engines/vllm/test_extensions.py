"""Classes that vLLM uses: what its workers answer, on a small model of torch's own, and config classes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wattcount.config.catalogue import model_catalogue
from wattcount.config.loader import plain

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers", reason="needs transformers, which comes with vLLM")

from wattcount.engines.vllm.extensions import CLASSES, DeviceReport, nvml_uuid, register  # noqa: E402

WIDTH = 256


def worker() -> DeviceReport:
    model = torch.nn.Sequential(
        torch.nn.Embedding(1000, WIDTH), torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.LayerNorm(4 * WIDTH)
    ).to(torch.bfloat16)
    model.register_parameter(
        "packed", torch.nn.Parameter(torch.ones(7, dtype=torch.int8), requires_grad=False)
    )
    made = DeviceReport()
    made.model_runner = SimpleNamespace(model=model)
    return made


def test_matrices_are_drawn_norms_are_one_biases_zero_and_packed_weights_stay() -> None:
    one = worker()
    done = one.wattcount_initialise(False, 0.02)
    embedding, linear, norm = one.model_runner.model
    assert float(embedding.weight.detach().float().std()) == pytest.approx(0.02, rel=0.02)
    assert float(linear.weight.detach().float().std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(linear.weight.detach().float().mean())) < 0.001
    assert (norm.weight == 1).all()
    assert (norm.bias == 0).all()
    assert (linear.bias == 0).all()
    assert (one.model_runner.model.packed == 1).all()
    assert done == {
        "parameters_drawn": 1000 * WIDTH + 4 * WIDTH * WIDTH + 3 * 4 * WIDTH,
        "parameters_kept": 7,
    }


def test_fan_in_keeps_activations_at_their_size() -> None:
    one = worker()
    one.wattcount_initialise(True, 123.0)
    _, linear, _ = one.model_runner.model
    assert float(linear.weight.detach().float().std()) == pytest.approx(WIDTH**-0.5, rel=0.02)
    out = linear(torch.randn(64, WIDTH, dtype=torch.bfloat16))
    assert float(out.detach().float().std()) == pytest.approx(1.0, rel=0.1)


def test_every_run_has_the_same_weights() -> None:
    one, other = worker(), worker()
    for each in (one, other):
        torch.rand(3)
        each.wattcount_initialise(False, 0.02)
    assert torch.equal(one.model_runner.model[1].weight, other.model_runner.model[1].weight)


@pytest.mark.parametrize(
    ("cuda", "nvml"), [("1234-56", "GPU-1234-56"), ("GPU-1", "GPU-1"), ("MIG-1", "MIG-1")]
)
def test_uuid_as_nvml_writes_it(cuda: str, nvml: str) -> None:
    assert nvml_uuid(cuda) == nvml


MODELS = {
    name: model.hf_config
    for name, model in model_catalogue().items()
    if model.hf_config["model_type"] in {config.model_type for config in CLASSES}
}


def test_the_catalogue_has_a_model_of_each() -> None:
    kinds = {values["model_type"] for values in MODELS.values()}
    assert kinds == {config.model_type for config in CLASSES}


@pytest.mark.parametrize("name", MODELS)
def test_a_config_json_alone_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    register()
    register()  # a second run in one process
    (tmp_path / "config.json").write_text(json.dumps(MODELS[name]))
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) in CLASSES
    kept = {key: value for key, value in MODELS[name].items() if not key.startswith(("rope_", "torch_dtype"))}
    assert {key: getattr(loaded, key) for key in kept} == kept
    assert loaded.rope_parameters["rope_theta"] == MODELS[name]["rope_theta"]
    # It travels to the engine core, a process of its own.
    assert pickle.loads(pickle.dumps(loaded)).to_dict() == loaded.to_dict()


@pytest.mark.parametrize(
    "name", [name for name, values in MODELS.items() if "n_routed_experts" not in values]
)
def test_the_shape_is_that_of_llama(name: str) -> None:
    """InternLM2 fuses the projections of a Llama layer, Solar adds skips: neither changes how many weights there are."""
    from wattcount.config import model_shape

    config = transformers.LlamaConfig(**{**plain(MODELS[name]), "model_type": "llama", "architectures": None})
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    counted = model_shape.count_parameters(MODELS[name])
    assert counted is not None
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
