import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_ledger import make_sweep

from wattcount.cli import status
from wattcount.cli.main import main
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, Plan, State


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Ledger]:
    with make_sweep(tmp_path) as made:
        yield made


def call(tmp_path: Path, *args: str) -> int:
    return main(["status", "--records-dir", str(tmp_path), *args])


@pytest.mark.usefixtures("sweep")
def test_the_sweep_started_last_is_shown(tmp_path, capsys):
    Ledger.open(tmp_path, "older").write_plan(Plan("older", (), "", ()))
    os.utime(tmp_path / ".sweeps" / "older" / "plan.parquet", (1e9, 1e9))
    assert call(tmp_path) == 0
    text = capsys.readouterr().out
    assert text.startswith("big: running: pid")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert call(tmp_path, "older") == 0
    assert capsys.readouterr().out.startswith("older: finished")


@pytest.mark.usefixtures("sweep")
def test_all_are_listed(tmp_path, capsys):
    Ledger.open(tmp_path, "empty").write_plan(Plan("empty", (), "", ()))
    assert call(tmp_path, "--all") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["sweep", "state"]
    assert {tuple(line.split()[:2]) for line in lines[1:]} == {("big", "running"), ("empty", "finished")}
    assert call(tmp_path, "--all", "--json") == 0
    assert {found["name"] for found in json.loads(capsys.readouterr().out)} == {"big", "empty"}


@pytest.mark.usefixtures("sweep")
def test_a_damaged_sweep_does_not_hide_the_others(tmp_path, capsys):
    broken = Ledger.open(tmp_path, "broken")
    (broken.folder / "plan.parquet").write_text("?")
    assert call(tmp_path, "--all") == 0
    captured = capsys.readouterr()
    assert "big" in captured.out
    assert "broken" in captured.err
    assert call(tmp_path, "broken") == 2
    assert "starting the sweep again writes it afresh" in capsys.readouterr().err


@pytest.mark.usefixtures("sweep")
def test_json(tmp_path, capsys):
    assert call(tmp_path, "big", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 2


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["bug"], "no sweep 'bug'"),
        (["big", "--all"], "not both"),
        (["--watch", "--interval", "0"], "above 0"),
        (["../x"], "no sweep '../x'"),
    ],
)
@pytest.mark.usefixtures("sweep")
def test_bad_input(tmp_path, capsys, args, what):
    assert call(tmp_path, *args) == 2
    assert what in capsys.readouterr().err


@pytest.mark.usefixtures("sweep")
def test_a_near_miss_is_named(tmp_path, capsys):
    call(tmp_path, "bigg")
    assert "'big'" in capsys.readouterr().err


def test_no_sweep_at_all(tmp_path, capsys):
    assert call(tmp_path) == 2
    assert "no sweep in" in capsys.readouterr().err
    assert call(tmp_path / "none") == 2


def test_watching_ends_with_the_sweep(sweep, tmp_path, monkeypatch, capsys):
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            sweep.append(Outcome(State.failed, "running", reason="timeout"))
            sweep.append(Outcome(State.done, reason="finished"))
            sweep.close()

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert call(tmp_path, "--watch", "--json", "--interval", "0.05") == 0
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert slept == [0.05] * 3
    assert [look["alive"] for look in looks] == [True, True, True, False]
    assert looks[-1]["counts"]["failed"] == 2


@pytest.mark.usefixtures("sweep")
def test_watching_is_left_with_ctrl_c(tmp_path, monkeypatch, capsys):
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupt)
    assert call(tmp_path, "--watch") == 0
    assert capsys.readouterr().out.startswith("big: running")


@pytest.mark.usefixtures("sweep")
def test_ctrl_c_ends_a_watching_process_quietly(tmp_path):
    command = [sys.executable, "-m", "wattcount", "status", "--records-dir", str(tmp_path), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith(b"big: running")
        watching.send_signal(signal.SIGINT)
        assert watching.stderr is not None
        assert watching.stderr.read() == b""
    assert watching.returncode == 0


@pytest.mark.usefixtures("sweep")
def test_a_sweep_by_the_path_of_its_folder(tmp_path, capsys):
    assert call(tmp_path, "big", "--json") == 0
    named = json.loads(capsys.readouterr().out)
    assert call(tmp_path, str(tmp_path / ".sweeps" / "big"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == named["name"]
