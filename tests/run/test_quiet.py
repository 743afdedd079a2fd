import errno
import subprocess
import sys
from pathlib import Path

import pytest

from wattcount.records.schema import Phase
from wattcount.run import quiet
from wattcount.run.quiet import OwnWindow, in_a_window


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    return tmp_path / "locks"


@pytest.mark.parametrize(
    ("phase", "loud"),
    [
        (None, False),
        (Phase.BARE_IDLE, False),
        (Phase.ENGINE_START, False),
        (Phase.LOADED_IDLE, True),
        (Phase.WARMUP, True),
        (Phase.WINDOW, True),
        (Phase.DRAIN, True),
        (Phase.IDLE_AFTER, False),
        (Phase.BARE_IDLE_AFTER, False),
    ],
)
def test_which_phases_are_not_to_be_disturbed(phase, loud):
    own = OwnWindow()
    own.follow(phase)
    assert in_a_window() is loud
    own.release()
    own.release()
    assert not in_a_window()


def test_several_runs_at_once():
    first, second = OwnWindow(), OwnWindow()
    first.follow(Phase.WINDOW)
    second.follow(Phase.WARMUP)
    first.follow(Phase.IDLE_AFTER)
    assert in_a_window()
    second.follow(Phase.IDLE_AFTER)
    assert not in_a_window()


def test_a_run_that_is_killed_is_in_no_window():
    code = "from wattcount.run.quiet import *; o = OwnWindow(); o.follow(Phase.WINDOW); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert in_a_window()
        child.kill()
        child.wait(10)
    assert not in_a_window()


def test_where_there_are_no_locks_the_run_goes_on(monkeypatch):
    def none(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(quiet.fcntl, "flock", none)
    own = OwnWindow()
    own.follow(Phase.WINDOW)
    assert not in_a_window()


def test_where_nothing_can_be_written_the_run_goes_on(monkeypatch):
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/none")
    own = OwnWindow()
    own.follow(Phase.WINDOW)
    assert not in_a_window()
