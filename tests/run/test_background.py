from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from wattcount.run.background import Background

LIMIT_S = 60.0

pytestmark = pytest.mark.timeout(120)


def test_calls_are_made_in_their_order() -> None:
    background, made = Background("test"), list[int]()
    for number in range(100):
        background.post(lambda number=number: made.append(number))
    assert background.flush(LIMIT_S)
    assert made == list(range(100))


def test_while_a_call_stands_still_only_the_latest_of_a_kind_waits() -> None:
    background, made, go, held = Background("test"), list[str](), threading.Event(), threading.Event()

    def stand_still() -> None:
        held.set()
        go.wait(LIMIT_S)

    background.post(stand_still)
    assert held.wait(LIMIT_S)
    for number in range(1000):
        background.post(lambda number=number: made.append(f"progress {number}"), replaces="progress")
        if number == 500:
            background.post(lambda: made.append("notice"))
    assert not background.flush(0.0)
    assert made == []
    go.set()
    assert background.flush(LIMIT_S)
    assert made == ["notice", "progress 999"]


def test_an_output_that_is_gone_is_left_alone() -> None:
    background, made = Background("test"), list[str]()

    def gone() -> None:
        made.append("tried")
        raise BrokenPipeError

    background.post(gone)
    background.post(lambda: made.append("after"))
    assert background.flush(LIMIT_S)
    assert made == ["tried"]


def test_a_display_with_a_fault_does_not_end_what_it_shows(capfd: pytest.CaptureFixture[str]) -> None:
    background, made = Background("test"), list[str]()
    for _ in range(2):
        background.post(lambda: 1 / 0)
    background.post(lambda: made.append("after"))
    assert background.flush(LIMIT_S)
    assert made == ["after"]
    assert capfd.readouterr().err.count("ZeroDivisionError") == 1


PROGRAM = """
import signal, sys
from wattcount.run.background import Background, leave_if_stuck
background = Background("test")
background.post(lambda: print("x" * 1_000_000))
try:
    background.flush()
except KeyboardInterrupt:
    leave_if_stuck(130)
sys.exit(0)
"""


@pytest.mark.parametrize("read", [False, True])
def test_a_process_whose_output_nobody_reads_can_be_ended(read: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # it prints, and the pipe is too small for all of it
        if read:
            process.stdout.read()
            assert process.wait() == 0
        else:
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
