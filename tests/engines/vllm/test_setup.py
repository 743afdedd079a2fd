"""What is asked of vLLM: arguments and environment."""

from __future__ import annotations

import json
import socket
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_llama import config

from wattcount.config.schema import Device, SpeculativeMethod, Weights
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall
from wattcount.engines.vllm.setup import SOCKET_NAME_BYTES, SOCKET_PATH_BYTES, VllmSetup
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
