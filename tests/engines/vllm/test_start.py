"""What is told of a start of vLLM that fails, without vLLM: what it would do in its thread is put in its place."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from small_llama import config

from wattcount.engines.vllm.engine import VllmEngine
from wattcount.errors import RunFailedError

pytestmark = [pytest.mark.usefixtures("installed"), pytest.mark.timeout(120)]


def failure_of(engine: VllmEngine, runner: asyncio.Runner) -> RunFailedError:
    with pytest.raises(RunFailedError) as failure:
        runner.run(engine.start())
    assert failure.value.reason == "engine_start_failed"
    return failure.value


@pytest.mark.parametrize(
    "error", [TimeoutError("HF hub: read timed out"), TimeoutError("NCCL: no answer from rank 1")]
)
def test_a_time_out_of_its_own_keeps_its_cause(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch, error: TimeoutError
) -> None:
    engine = VllmEngine(config(engine__start_timeout_s=1800.0), [], tmp_path)

    def fail() -> None:
        raise error

    monkeypatch.setattr(engine, "_launch", fail)
    failure = failure_of(engine, runner)
    assert str(error) in str(failure)
    assert "start_timeout_s" not in str(failure)
    assert failure.__cause__ is error
    assert str(error) in (tmp_path / "engine.log").read_text()


def test_a_start_that_takes_too_long_says_so(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VllmEngine(config(engine__start_timeout_s=0.05), [], tmp_path)
    released = threading.Event()
    monkeypatch.setattr(engine, "_launch", lambda: released.wait(60.0))
    monkeypatch.setattr("wattcount.engines.vllm.engine._ABANDON_NS", 0)
    try:
        assert "not up within engine.start_timeout_s=0.05 s" in str(failure_of(engine, runner))
    finally:
        released.set()
