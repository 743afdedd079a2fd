"""What is asked of vLLM: the model as files, its context length, arguments and environment."""

from __future__ import annotations

import json
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_llama import LLAMA, config

from wattcount.config.schema import Device, LengthConfig, SpeculativeMethod, Weights
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall
from wattcount.engines.vllm.setup import SOCKET_NAME_BYTES, SOCKET_PATH_BYTES, VllmSetup, shape_folder
from wattcount.errors import NotStartedError


@pytest.mark.parametrize("size", ["pipeline_parallel_size", "data_parallel_size"])
def test_an_engine_is_given_all_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    changes = {"engine__device": Device.cuda, "engine__tensor_parallel_size": 2, f"engine__{size}": 2}
    setup = VllmSetup.of(config(**changes), ["GPU-1", "GPU-2", "GPU-3", "GPU-4"])
    assert setup.arguments(tmp_path)[size] == 2
    with pytest.raises(NotStartedError, match="is 4, but 2 GPUs are selected"):
        VllmSetup.of(config(**changes), ["GPU-1", "GPU-2"])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"engine__enable_chunked_prefill": False}, {"enable_chunked_prefill": False}),
        ({"engine__enable_chunked_prefill": True}, {"enable_chunked_prefill": True}),
        (
            {
                "engine__speculative__method": SpeculativeMethod.ngram,
                "engine__speculative__prompt_lookup_max": 3,
            },
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}},
        ),
    ],
)
def test_levers_become_arguments_of_vllm(
    tmp_path: Path, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    setup = VllmSetup.of(config(**changes), [])
    found = setup.arguments(tmp_path)
    assert {
        name: found[name] for name in ("enable_chunked_prefill", "speculative_config") if name in found
    } == expected


@pytest.mark.usefixtures("installed")
def test_vllm_may_write_into_the_arguments_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_install, "engine_argument_names", frozenset)
    given = {"speculative_config": {"method": "eagle", "model": "me/head"}}
    setup = VllmSetup.of(config(engine__args=given), [])
    setup.arguments(tmp_path)["speculative_config"]["draft_tensor_parallel_size"] = 1
    assert setup.arguments(tmp_path)["speculative_config"] == given["speculative_config"]


@pytest.mark.usefixtures("installed")
def test_a_draft_model_of_random_weights_is_a_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    changes = {
        "engine__speculative__method": SpeculativeMethod.draft_model,
        "engine__speculative__draft_model": "qwen2_5_0_5b",
    }
    setup = VllmSetup.of(config(**changes), [])
    speculative = setup.arguments(tmp_path)["speculative_config"]
    shape = json.loads((Path(speculative["model"]) / "config.json").read_text())
    assert (speculative["method"], shape["model_type"], shape["num_hidden_layers"]) == (
        "draft_model",
        "qwen2",
        24,
    )
    changes |= {"model__weights": Weights.hub, "model__hf_id": "me/big"}
    setup = VllmSetup.of(config(**changes), [])
    assert setup.arguments(tmp_path)["speculative_config"]["model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    changes["engine__speculative__draft_model"] = "tiny"
    with pytest.raises(NotStartedError, match="tiny is no option of the group model with weights on the hub"):
        VllmSetup.of(config(**changes), [])


# --- sockets ------------------------------------------------------------------------------------


@pytest.fixture
def short() -> Iterator[Path]:
    """A temporary folder with a path shorter than pytest's."""
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as folder:
        yield Path(folder)


def socket_folder(scratch: Path, inherited: dict[str, str]) -> str | None:
    environment = VllmSetup.of(config(), []).environment(scratch, scratch / "engine.log", inherited)
    return environment.get("VLLM_RPC_BASE_PATH")


@pytest.mark.usefixtures("installed")
def test_sockets_lie_in_the_engines_own_folder_if_their_paths_are_short_enough(short: Path) -> None:
    longest = SOCKET_PATH_BYTES - SOCKET_NAME_BYTES
    fits, too_long = (short / ("x" * (length - len(str(short)) - 1)) for length in (longest, longest + 1))
    for folder in (fits, too_long):
        folder.mkdir()
    assert socket_folder(fits, {}) == str(fits)
    assert socket_folder(too_long, {}) is None
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        one.bind(f"{fits}/{uuid.uuid4()}")
        with pytest.raises(OSError, match="path too long"):
            other.bind(f"{too_long}/{uuid.uuid4()}")


@pytest.mark.usefixtures("installed")
def test_a_folder_for_sockets_that_the_user_chose_is_kept(short: Path) -> None:
    assert socket_folder(short, {"VLLM_RPC_BASE_PATH": "/of/the/user"}) == "/of/the/user"


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
