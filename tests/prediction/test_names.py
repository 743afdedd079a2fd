"""Models and GPUs by what people call them, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wattcount.config.model_shape import count_parameters
from wattcount.prediction.names import SHAPES, find_dtype, find_gpu, find_method, find_model
from wattcount.prediction.setting import Abstained


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("h100", "h100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("A100-SXM4-40GB", "a100_40gb"),
        ("A100 PCIe", "a100_pcie_80gb"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("RTX 3090", "rtx3090"),
        ("GH200", "gh200"),
        ("L40S", "l40s"),
    ],
)
def test_gpus_by_their_names(name: str, option: str) -> None:
    assert find_gpu(name).name == option


def test_models_by_hub_id_option_and_file(tmp_path: Path) -> None:
    assert find_model("llama3_1_8b").name == "llama3_1_8b"
    assert find_model("qwen/qwen3-8b").name == "qwen3_8b"
    assert find_model("mistralai/Mixtral-8x7B-Instruct-v0.1").hf_config["num_local_experts"] == 8
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "hidden_size": 64, "torch_dtype": "float16"}))
    assert find_model(str(file)).dtype == find_model(str(tmp_path)).dtype == "float16"
    file.write_text("[]")
    with pytest.raises(Abstained, match="one JSON object"):
        find_model(str(file))
    with pytest.raises(Abstained, match="neither in the catalogue"):
        find_model("nobody/nothing")


@pytest.mark.parametrize(
    ("hub_id", "billions"),
    [
        ("meta-llama/Llama-2-70b-hf", 68.98),
        ("mistralai/Mixtral-8x22B-v0.1", 140.6),
        ("deepseek-ai/DeepSeek-V3", 671.0),
        ("deepseek-ai/DeepSeek-V2-Lite", 15.7),
        ("tiiuae/falcon-40b", 41.3),
        ("bigscience/bloom", 176.2),
        ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", 8.89),
    ],
)
def test_sizes_give_the_parameters_that_models_are_published_with(hub_id: str, billions: float) -> None:
    counted = count_parameters(find_model(hub_id).hf_config)
    assert counted is not None
    assert counted.total / 1e9 == pytest.approx(billions, rel=0.01)


def test_every_entry_is_counted_and_named_once() -> None:
    entries = json.loads(SHAPES.read_text())["models"]
    names = [name.lower() for entry in entries for name in entry["ids"]]
    assert len(names) == len(set(names))
    assert all(count_parameters(entry["config"]) is not None for entry in entries)


def test_words_for_types_and_methods() -> None:
    assert find_dtype("bf16") == ("bfloat16", None)
    assert find_dtype("FP8") == (None, "fp8")
    assert find_dtype("") == (None, None)
    assert find_method("int4") == "awq"
    assert find_method("none") is None
    with pytest.raises(Abstained, match="posit16"):
        find_dtype("posit16")
