"""Whole runs on a server: one that serves only us, and one that others use meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from echo_server import Behaviour, EchoServer
from short_run import SHORT_RUN

from wattcount.metrics import load_metrics
from wattcount.records import Record


@contextlib.contextmanager
def somebody_else(url: str) -> Iterator[None]:
    """Sends one request after the other."""
    body = json.dumps({"model": "echo", "prompt": [1] * 8, "max_tokens": 4, "stream": True}).encode()
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            with urllib.request.urlopen(f"{url}/v1/completions", body) as answer:
                answer.read()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("alone", [True, False])
def test_a_run_that_others_disturb_is_invalid(alone: bool, tmp_path: Path) -> None:
    with (
        EchoServer(Behaviour(first_s=0.01, between_s=0.01)) as echo,
        contextlib.nullcontext() if alone else somebody_else(echo.url),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "wattcount"),
                *(word for word in SHORT_RUN if not word.startswith(("model=", "engine"))),
                *(
                    "engine=openai",
                    f"engine.base_url={echo.url}",
                    "power=emulated",
                    "scenario.loaded_idle_s=1",
                ),
                f"records_dir={tmp_path / 'records'}",
            ],
            env={**os.environ, "WATTCOUNT_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    (file,) = (tmp_path / "records").rglob("run.json")
    record = Record.open(file.parent)
    found = {finding["code"]: finding for finding in load_metrics(record)["validity"]["findings"]}
    assert ("other_users_load" in found) == (not alone), done.stderr
    assert "other_users_unknown" not in found
    assert "outputs_not_computed" not in found
    assert len(record.info.engine_details["server_counters"]) >= 2
    assert record.info.engine_details["server"]["engine"] == "vllm"
    if not alone:
        assert found["other_users_load"]["invalidates"]
        assert "ours were" in found["other_users_load"]["message"]
