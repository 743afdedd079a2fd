"""What `vllm serve` is started with: its command line, which says what `AsyncEngineArgs` is told in process, and its environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wattcount.config.schema import RunConfig
from wattcount.engines.vllm.install import VllmInstall
from wattcount.engines.vllm.setup import VllmSetup
from wattcount.engines.vllm_serve import told

HOST = "127.0.0.1"
"""Where the server listens: the loopback interface, so that nobody else can send it requests."""

IN_PROCESS_ONLY = ("disable_log_stats",)
"""Arguments of the engine in process that a server does not get: it counts requests and tokens as servers do that are deployed."""
SERVER_ARGUMENTS: Mapping[str, Any] = {"enable_prompt_tokens_details": True}
"""What a server is told besides: to say in its `usage` how many tokens of a prompt it had in its cache."""
SET_BY_WATTCOUNT = frozenset({"host", "port", "uds", "root_path", "served_model_name", "config", "headless"})
"""Arguments that `engine.args` may not have: the run sets where the server listens and what it is called."""
SECRET = frozenset({"api_key"})
"""Arguments that nobody needs here: the server listens on the loopback interface alone."""


def problems(cfg: RunConfig) -> Iterator[str]:
    """What of `engine.args` cannot be for a server that wattcount starts, a line each."""
    for name in cfg.engine.args:
        if name in SET_BY_WATTCOUNT | SECRET or name.startswith("ssl_"):
            yield (
                f"engine.args.{name}: wattcount starts the server on a free port of the loopback interface and talks to it "
                "alone; leave it out, or start the server yourself and measure it with engine=openai"
            )


def server_arguments(setup: VllmSetup, scratch: Path) -> dict[str, Any]:
    """All arguments of the server but where it listens, by their names in vLLM."""
    arguments = {k: v for k, v in setup.arguments(scratch).items() if k not in IN_PROCESS_ONLY}
    return {**SERVER_ARGUMENTS, **arguments}


def command(install: VllmInstall, arguments: Mapping[str, Any], port: int) -> list[str]:
    """The command line of the server.

    `vllm serve` finds no version of itself where the distribution is not `vllm` (0.32, CPU build), and ends. The module that it
    runs for one front end does the same there.
    """
    if install.distribution == "vllm":
        program = ["-m", "vllm.entrypoints.cli.main", "serve", str(arguments["model"])]
    else:
        program = ["-m", "vllm.entrypoints.openai.api_server", f"--model={arguments['model']}"]
    rest = {name: value for name, value in arguments.items() if name != "model"}
    return [sys.executable, *program, f"--host={HOST}", f"--port={port}", *options(rest)]


def options(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments as options of vLLM's command line."""
    for name, value in arguments.items():
        option = name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            yield f"--{option}" if value else f"--no-{option}"
        elif isinstance(value, dict):
            yield f"--{option}={json.dumps(value)}"
        elif isinstance(value, list | tuple):
            yield f"--{option}"
            yield from (str(item) for item in value)
        else:
            yield f"--{option}={value}"


def environment(setup: VllmSetup, scratch: Path, log: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the server, besides those that are inherited; as `VllmSetup.environment`."""
    own = setup.environment(scratch, log, inherited)
    # Its workers are asked which GPU they compute on, which vLLM answers only then; and it is told nothing of standard output.
    own |= {"VLLM_SERVER_DEV_MODE": "1", "PYTHONUNBUFFERED": "1"}
    return own | told.install(scratch, {**os.environ, **own})
