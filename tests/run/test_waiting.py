from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from wattcount.run.waiting import Background, Signals, waking

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
from wattcount.run.waiting import Background, leave_if_stuck
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


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([], None),
        ([signal.SIGINT], EXIT_INTERRUPTED),
        ([signal.SIGTERM], EXIT_TERMINATED),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGINT], EXIT_INTERRUPTED),
    ],
)
def test_the_first_one_decides(sent: list[int], code: int | None) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signals = Signals()
    with signals.watching():
        for number in sent:
            os.kill(os.getpid(), number)
    assert signals == sent
    assert signals.exit_code == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_handlers_are_put_back_where_the_sweep_fails() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RuntimeError), Signals().watching():
        raise RuntimeError
    assert signal.getsignal(signal.SIGINT) is before


def test_the_one_after_the_last_that_is_taken_goes_to_the_handler_before() -> None:
    signals = Signals()
    with signals.watching(patience=2):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGINT, signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signals == [signal.SIGINT, signal.SIGTERM]


def test_a_signal_wakes_who_waits() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signals = Signals()
    with signals.watching(), waking(write_end):
        signal.raise_signal(signal.SIGTERM)
        assert os.read(read_end, 1) == bytes([signal.SIGTERM])
    for end in (read_end, write_end):
        os.close(end)


def test_another_thread_is_given_none() -> None:
    signals, ended = Signals(), threading.Event()

    def work() -> None:
        with signals.watching():
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended.is_set()
    assert signals == []
