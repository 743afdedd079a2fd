"""Config classes of architectures that vLLM computes but nobody else can read the config of."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from wattcount.config.catalogue import model_catalogue
from wattcount.config.loader import plain

transformers = pytest.importorskip("transformers", reason="needs transformers, which comes with vLLM")

from wattcount.engines.vllm import configs as vllm_configs  # noqa: E402

MODELS = {
    name: model.hf_config
    for name, model in model_catalogue().items()
    if model.hf_config["model_type"] in {config.model_type for config in vllm_configs.CLASSES}
}


def test_the_catalogue_has_a_model_of_each() -> None:
    kinds = {values["model_type"] for values in MODELS.values()}
    assert kinds == {config.model_type for config in vllm_configs.CLASSES}


@pytest.mark.parametrize("name", MODELS)
def test_a_config_json_alone_is_enough(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    vllm_configs.register()
    vllm_configs.register()  # a second run in one process
    (tmp_path / "config.json").write_text(json.dumps(MODELS[name]))
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) in vllm_configs.CLASSES
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
    torch = pytest.importorskip("torch")
    from wattcount.config import model_shape

    config = transformers.LlamaConfig(**{**plain(MODELS[name]), "model_type": "llama", "architectures": None})
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    counted = model_shape.count_parameters(MODELS[name])
    assert counted is not None
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
