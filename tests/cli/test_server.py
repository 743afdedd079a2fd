"""`wattcount doctor --server URL`, with servers in processes of their own and an emulated machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages_server import Serve, Served
from remote_machine import SECRET, Listening

from wattcount.cli import server
from wattcount.cli.main import main
from wattcount.engines.http import processes

emulation = pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")

IDLE = """\
vllm:num_requests_running{engine="0"} 0.0
vllm:num_requests_waiting{engine="0"} 0.0
vllm:request_success_total{engine="0",finished_reason="stop"} 3.0
vllm:prompt_tokens_total{engine="0"} 30.0
vllm:generation_tokens_total{engine="0"} 100.0
"""
PAGES = {
    "/v1/models": json.dumps({"data": [{"id": "org/model", "owned_by": "vllm", "max_model_len": 4096}]}),
    "/version": '{"version": "0.32.0"}',
    "/metrics": IDLE,
}


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", str(tmp_path / "no-such-library.so"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(server, "WATCH_S", 0.05)


@pytest.fixture
def served(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """A server on the second and third of three GPUs; on the third computes this process, too."""
    found = serve(PAGES, "--api-key", "sesame")
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    gpus = [[], [found.worker], [found.worker, os.getpid()]]
    described = [emulation.EmulatedGpu("h200", options={"processes": pids}) for pids in gpus]
    with emulation.EmulatedMachine(described, tmp_path / "machine"):
        yield found


def told(url: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    code = main(["doctor", "--server", url, "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def findings(report: dict[str, Any], topic: str) -> list[dict[str, Any]]:
    return [finding for finding in report["findings"] if finding["topic"] == topic]


def test_a_server_its_gpus_and_the_command_that_measures_it(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--server", served.url]) == 0
    out = capsys.readouterr().out
    assert "vLLM 0.32.0 at" in out
    assert "org/model, up to 4,096 tokens" in out
    assert "\nok    GPU 1" in out
    assert "GPU 0" not in out
    assert "nobody else now: 0 running, 0 waiting" in out
    assert out.endswith(
        f"Measure it:  python -m wattcount engine=openai engine.base_url={served.url} model=auto scenario=server\n"
    )
    assert "sesame" not in out
    assert all(len(line) <= 80 for line in out.splitlines()[:-1])


def test_the_same_for_machines(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    code, report = told(served.url, capsys)
    assert code == 0
    assert report["ok"]
    assert report["server"]["pid"] == served.pid
    assert [gpu["own"][0]["pid"] for gpu in report["gpus"]] == [served.worker, served.worker]
    assert report["users"]["running"] == report["users"]["generation_tokens_per_s"] == 0
    assert report["null"]


def test_other_processes_on_its_gpus_are_told_of(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = told(served.url, capsys)
    (note,) = [finding for finding in findings(report, "GPU 2") if finding["state"] == "note"]
    assert f"pid {os.getpid()}" in note["text"]
    assert [gpu["others"] for gpu in report["gpus"]] == [[], [{"pid": os.getpid(), "used_bytes": 2**30}]]


def test_other_users_are_told_of_with_what_they_do(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_seconds: float) -> None:
        busy = IDLE.replace(" 100.0", " 164.0").replace('running{engine="0"} 0.0', 'running{engine="0"} 2.0')
        served.pages.write_text(json.dumps(PAGES | {"/metrics": busy}))

    monkeypatch.setattr(server.time, "sleep", load)
    code, report = told(served.url, capsys)
    (users,) = findings(report, "users")
    assert code == 0
    assert users["state"] == "note"
    assert users["text"].startswith("others use it now: 2 running, 0 waiting;")
    assert report["users"]["generation_tokens_per_s"] == pytest.approx(64 / report["users"]["seconds"])


def test_a_server_that_starts_anew_meanwhile_is_told_of(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = json.dumps(PAGES | {"/metrics": IDLE.replace(" 100.0", " 1.0")})
    monkeypatch.setattr(server.time, "sleep", lambda _: served.pages.write_text(again))
    _, report = told(served.url, capsys)
    assert "started anew" in findings(report, "users")[0]["text"]


def test_without_counters_nobody_knows_who_uses_it(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"data": [{"id": "a", "owned_by": "sglang"}, {"id": "b", "owned_by": "sglang"}]}
    code, report = told(serve({"/v1/models": json.dumps(models)}).url, capsys)
    (users,) = findings(report, "users")
    assert (users["state"], users["fix"]) == ("note", "start it with --enable-metrics")
    assert "whether others used it" in report["null"]
    assert "engine.served_model=a" in report["command"]
    assert code == 0  # without a GPU, power is emulated


def test_a_server_on_a_gpu_that_cannot_be_found_wants_it_named(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WATTCOUNT_NVML_PATH")
    with emulation.EmulatedMachine([emulation.EmulatedGpu("h200")], tmp_path / "machine"):
        code, report = told(serve(PAGES).url, capsys)
    (gpu,) = findings(report, "GPU")
    assert (code, gpu["state"]) == (1, "missing")
    assert "gpu.devices=[UUID,...]" in gpu["fix"]
    assert report["command"].endswith("gpu.devices=[UUID]")


def test_a_server_that_wants_a_key_is_asked_with_it(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve({"/v1/models": [401, "who are you?"]}).url
    code, report = told(url, capsys)
    assert code == 1
    assert findings(report, "model")[0]["fix"].startswith("--api-key-env NAME")
    monkeypatch.setenv("MY_KEY", "sesame")
    code, report = told(url, capsys, "--api-key-env", "MY_KEY")
    assert "MY_KEY" in findings(report, "model")[0]["fix"]
    assert "engine.api_key_env=MY_KEY" in report["command"]
    assert "sesame" not in json.dumps(report)


def test_where_nothing_answers_there_is_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--server", "http://127.0.0.1:1"]) == 1
    out = capsys.readouterr().out
    assert "Connection refused" in out
    assert out.endswith("It cannot be measured like this: see what is missing above.\n")


def test_a_server_elsewhere_is_looked_at_through_the_listener_there(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a network of its own, another process's NVML stands for the other machine's."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(processes, "_own_addresses", lambda: {"192.0.2.1"})
        code, report = told(served.url, capsys)
    assert code == 1
    assert "--remote HOST:PORT" in findings(report, "GPU")[0]["fix"]
    monkeypatch.setenv("WATTCOUNT_SAMPLER_SECRET", SECRET)
    there = Listening()
    try:
        code, report = told(served.url, capsys, "--remote", there.address)
    finally:
        there.stop()
    assert code == 0
    assert not report["server"]["local"]
    assert report["server"]["pid"] == served.pid
    assert len(report["gpus"]) == 2
    assert report["command"].endswith(f"power.remote={there.address}")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--server", "localhost:8000"], "no URL of a server"),
        (["--server", "http://localhost:8000", "--api-key-env", "NOT_SET"], "has no NOT_SET"),
        (["--server", "http://localhost:8000", "--sensors"], "one at a time"),
        (["--api-key-env", "X"], "belong to --server"),
        (["--remote", "localhost:1"], "belong to --server"),
        (["--ca-file", "x.pem"], "belong to --server"),
        (["--server", "http://localhost:8000", "--remote", "localhost:1"], "no secret for the sampler"),
    ],
)
def test_questions_that_cannot_be_asked_start_nothing(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *arguments]) == 2
    assert why in capsys.readouterr().err


def test_nothing_of_it_stays_open(served: Served) -> None:
    def held() -> tuple[int, int]:
        server.examine(served.url)
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    held()  # the library stays loaded
    assert held() == held()
