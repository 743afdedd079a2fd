"""`wattcount sampler`: what it says and refuses; what it does is tested in tests/gpu/remote and tests/run/test_remote.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wattcount.cli import sampler
from wattcount.cli.main import main
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.remote import wire

SECRET = "correct horse battery staple"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("WATTCOUNT_HOME", str(folder))
    monkeypatch.delenv(wire.SECRET_ENV, raising=False)
    monkeypatch.delenv(wire.SECRET_FILE_ENV, raising=False)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["sampler", *args]) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_a_new_secret_is_in_a_file_for_its_owner_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    umask = os.umask(0)
    try:
        assert main(["sampler", "--new-secret"]) == 0
    finally:
        os.umask(umask)
    file = home / "sampler.secret"
    assert capsys.readouterr().out.startswith(f"{file}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    first = wire.read_secret()
    assert len(first) == 64
    assert f"{file} is there already" in refused(capsys, "--new-secret")
    assert main(["sampler", "--new-secret", str(home / "other")]) == 0
    out = capsys.readouterr().out
    assert (home / "other").read_bytes().strip() != first
    assert first.decode() not in out
    assert (home / "other").read_text().strip() not in out
    assert "cannot write" in refused(capsys, "--new-secret", str(file / "below"))


def test_what_is_missing_or_wrong(
    machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine()
    assert "--listen, or --new-secret" in refused(capsys)
    assert "no secret for the sampler" in refused(capsys, "--listen")
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    assert "is not HOST:PORT" in refused(capsys, "--listen", "http://here")
    assert "cannot listen at 192.0.2.1:1" in refused(capsys, "--listen", "192.0.2.1:1")  # nobody's, RFC 5737
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "in use" in refused(capsys, "--listen", f"127.0.0.1:{port}")


def test_a_machine_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    monkeypatch.setenv("WATTCOUNT_NVML_PATH", str(tmp_path / "none.so"))
    assert "none.so" in refused(capsys, "--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("host", "only_here"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
    ],
)
def test_which_addresses_only_this_machine_can_reach(host: str, only_here: bool) -> None:
    assert sampler.is_loopback(host) is only_here


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "0.0.0.0:0"])
def test_it_listens_until_it_is_told_to_end(
    address: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    command = [sys.executable, "-m", "wattcount", "sampler", "--listen", address, "--emulated"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "listening at" in line:
            break
    assert "for emulated GPUs 0: NVIDIA H200; Ctrl-C ends it" in lines[-1]
    assert ("not encrypted" in "".join(lines)) is (address == "0.0.0.0:0")
    port = int(lines[-1].partition("listening at ")[2].split()[0].rpartition(":")[2])
    with attach_session(f"127.0.0.1:{port}") as session:
        assert [gpu.name for gpu in session.gpus()] == ["NVIDIA H200"]
        process.send_signal(number)
        lines += list(process.stdout)
    process.stdout.close()
    assert process.wait() == 0
    assert lines[-1] == "wattcount sampler: ended\n"
    assert SECRET not in "".join(lines)


def test_a_run_with_another_secret_or_nobody_there_is_not_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = ["model=tiny", "engine=tiny", f"records_dir={tmp_path}/records"]
    monkeypatch.setenv(wire.SECRET_ENV, SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main([*run, f"power.remote=127.0.0.1:{port}"]) == 2
    text = capsys.readouterr().err
    assert f"power.remote: no wattcount sampler answers at 127.0.0.1:{port}" in text
    assert "wattcount sampler --listen" in text
    assert not list(tmp_path.glob("records/*/*"))
