"""Whole runs against a server that runs already, through the run's own process: what the record has, and what goes wrong meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from echo_server import Behaviour, EchoServer

from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.result import judge

KEY = "test-key-that-must-not-be-seen"
RUN = (
    "engine=openai", "gpu=h200", "power=emulated", "power.probe=false", "tracking=none", "scenario=server",
    "scenario.rate_rps=40", "scenario.window_s=1.5", "scenario.warmup_s=0.5", "scenario.warmup_limit_s=0.5",
    "scenario.loaded_idle_s=0.5", "scenario.bare_idle_s=0.5", "scenario.rehearsal_requests=4", "scenario.drain_limit_s=5",
    "scenario.lengths.input_tokens=16", "scenario.lengths.output_tokens=8", "engine.api_key_env=SERVER_KEY",
)  # fmt: skip


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer(Behaviour(between_s=0.002)) as found:
        found.key = KEY
        yield found


def run(
    echo: EchoServer, folder: Path, *overrides: str, asked: Sequence[str] = RUN
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wattcount", *asked, f"engine.base_url={echo.url}", *overrides]
    return subprocess.run(
        [*command, f"records_dir={folder / 'records'}"],
        env={**os.environ, "WATTCOUNT_HOME": str(folder / "home"), "SERVER_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def record_of(folder: Path) -> Path:
    (file,) = (folder / "records").rglob("run.json")
    return file.parent


def after_requests(echo: EchoServer, count: int, change: Callable[[], object]) -> None:
    """Calls `change` once the server has had so many requests."""

    def body() -> None:
        while len(echo.requests) < count:
            threading.Event().wait(0.005)
        change()

    threading.Thread(target=body, daemon=True).start()


def test_a_run(echo: EchoServer, tmp_path: Path) -> None:
    """A server that somebody else started is there before and after: no bare idle. Its key is in no file and no output."""
    done = run(echo, tmp_path)
    folder = record_of(tmp_path)
    judged = judge(folder)
    # How fast this machine is, is no part of it.
    assert set(judged.reasons) <= {"client_limited"}, (done.stdout, done.stderr)
    info = Record.open(folder).info
    assert [span.phase for span in info.phases] == [
        Phase.ENGINE_START,
        Phase.LOADED_IDLE,
        Phase.REHEARSAL,
        Phase.WARMUP,
        Phase.WINDOW,
        Phase.DRAIN,
        Phase.IDLE_AFTER,
    ]
    assert info.engine["name"] == "openai"
    details = info.engine["details"]
    assert details["server"]["pid"] == os.getpid()
    assert details["server_counters"][-1]["requests"] == len(echo.requests)
    assert details["client"]["tokens_counted"]
    assert details["client"]["endpoint"]["api_key_variable"] == "SERVER_KEY"
    assert info.resolved.model.weights.value == "served"
    assert judged.metrics["power/idle_bare_w"] is None
    for file in [*folder.iterdir(), *(tmp_path / "home").rglob("*")]:
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
    assert KEY not in done.stdout + done.stderr


def test_a_closed_loop(echo: EchoServer, tmp_path: Path) -> None:
    """Each of four users sends the next request when the last one is answered."""
    users = 4
    asked = [key for key in RUN if not key.startswith("scenario.rate_rps")]
    done = run(echo, tmp_path, "scenario=concurrency", f"scenario.concurrency={users}", asked=asked)
    folder = record_of(tmp_path)
    judged = judge(folder)
    # How fast this machine is, is no part of it.
    assert set(judged.reasons) <= {"client_limited", "users_idle"}, (done.stdout, done.stderr)
    assert (judged.kind, judged.value("load/offered_rps")) == ("concurrency", None)
    requests = Record.open(folder).requests.to_pylist()
    ends = [request["last_token_ns"] for request in requests if request["last_token_ns"] is not None]
    sends = sorted(request["actual_send_ns"] for request in requests)
    for number, sent_ns in enumerate(sends[users:], users):
        # So many were answered before that no more than `users` were in flight.
        assert number - sum(end_ns <= sent_ns for end_ns in ends) < users
    assert len(sends) > 5 * users


def test_what_cannot_be_measured_is_not_started(echo: EchoServer, tmp_path: Path) -> None:
    echo.behaviour = Behaviour(streams=False)
    done = run(echo, tmp_path)
    assert done.returncode == 2
    assert "does not stream its answers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("run.json"))


def test_a_server_that_dies_leaves_an_invalid_record(echo: EchoServer, tmp_path: Path) -> None:
    after_requests(echo, 30, echo.stop)
    done = run(echo, tmp_path)
    assert done.returncode == 1, done.stderr
    judged = judge(record_of(tmp_path))
    assert not judged.valid
    assert "engine_died" in judged.reasons
    assert "any more" in done.stderr + done.stdout


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(drops_after=3),
        Behaviour(drops_after=3, resets=True),
        Behaviour(status=500),
        Behaviour(broken_after=2),
        Behaviour(tokens=5),
    ],
    ids=["closed", "reset", "500", "no JSON", "too short"],
)
def test_requests_that_go_wrong_leave_an_invalid_record(
    echo: EchoServer, tmp_path: Path, behaviour: Behaviour
) -> None:
    def change() -> None:
        echo.behaviour = behaviour

    # The probes, the rehearsal and some of the warm-up go well.
    after_requests(echo, 15, change)
    done = run(echo, tmp_path)
    folder = record_of(tmp_path)
    judged = judge(folder)
    assert not judged.valid, done.stdout
    assert "requests_unfinished" in judged.reasons
    assert any(" failed, the first: " in message for message in judged.messages)
