"""Where vLLM finds the model, and the context length that it is set up for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
from small_llama import LLAMA, config

from wattcount.config.schema import LengthConfig, Weights
from wattcount.engines.vllm.model import shape_folder
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.errors import NotStartedError


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "holds no config.json"), ("{", "cannot be read"), ("[]", "no JSON object")],
)
def test_model_folder_is_checked(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(NotStartedError, match=message):
        VllmSetup.of(config(model__weights=Weights.path, model__path=str(tmp_path)), [])


@pytest.mark.usefixtures("installed")
def test_a_token_or_random_weights_open_a_gated_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gated = {"model__hf_id": "meta/llama", "model__gated": True}
    VllmSetup.of(config(**gated), [])
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    VllmSetup.of(config(**gated, model__weights=Weights.hub), [])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("prompt", "output", "asked", "expected"),
    [
        (512, 128, None, 768),
        (512, 256, None, 768),
        (500, 500, None, 1024),
        (512, 128, 900, 900),
        (400, 600, None, 1024),
    ],
)
def test_context_is_the_longest_request_rounded_up(
    prompt: int, output: int, asked: int | None, expected: int
) -> None:
    lengths = LengthConfig(input_tokens=prompt, output_tokens=output)
    setup = VllmSetup.of(config(scenario__lengths=lengths, engine__max_model_len=asked), [])
    assert setup.max_model_len == expected


@pytest.mark.usefixtures("installed")
def test_context_of_a_scaled_rotary_embedding_is_left_to_vllm() -> None:
    lengths = LengthConfig(input_tokens=1500, output_tokens=500)
    scaled = LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    setup = VllmSetup.of(config(scenario__lengths=lengths, model__hf_config=scaled), [])
    assert setup.max_model_len == 2048


class TestShapeFolder:
    """Where vLLM finds the config.json of random weights; by its path it finds what it compiled before."""

    HF_CONFIG: ClassVar = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))

    def test_is_the_same_for_the_same_shape_whatever_the_run(self, tmp_path: Path) -> None:
        first = shape_folder(dict(self.HF_CONFIG), tmp_path / "a")
        again = shape_folder(dict(reversed(self.HF_CONFIG.items())), tmp_path / "b")
        assert first == again
        assert json.loads((first / "config.json").read_text()) == self.HF_CONFIG
        assert [file.name for file in first.iterdir()] == ["config.json"]

    def test_another_shape_has_another_folder(self, tmp_path: Path) -> None:
        other = self.HF_CONFIG | {"hidden_size": 128}
        assert shape_folder(self.HF_CONFIG, tmp_path) != shape_folder(other, tmp_path)

    def test_a_file_that_was_damaged_is_written_again(self, tmp_path: Path) -> None:
        file = shape_folder(self.HF_CONFIG, tmp_path) / "config.json"
        file.write_text("{")
        shape_folder(self.HF_CONFIG, tmp_path)
        assert json.loads(file.read_text()) == self.HF_CONFIG

    def test_without_a_home_it_is_in_the_runs_own_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "file" / "home"))
        folder = shape_folder(self.HF_CONFIG, tmp_path)
        assert folder == tmp_path / "model"
        assert json.loads((folder / "config.json").read_text()) == self.HF_CONFIG
