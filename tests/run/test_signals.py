from __future__ import annotations

import os
import signal
import threading

import pytest

from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from wattcount.run.signals import Signals, waking


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
