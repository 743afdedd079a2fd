"""The run's end of the pipe to its parent, while the parent does not read."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from wattcount.records.schema import Phase
from wattcount.run import worker
from wattcount.run.messages import Ended, Lines, decode
from wattcount.run.worker import Pipe
from wattcount.scenario.journal import Progress

LIMIT_S = 60.0


def progress(number: int) -> Progress:
    return Progress(Phase.WINDOW, number, 60.0, None, number, 0, 2, 10_000, 99.5, 412.0)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for end in (read_end, write_end):
        with contextlib.suppress(OSError):
            os.close(end)


def read_all(descriptor: int) -> list[object]:
    os.set_blocking(descriptor, False)
    lines, heard = Lines(), list[object]()
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(descriptor, 1 << 16):
            heard += map(decode, lines.feed(chunk))
    return heard


def fill(descriptor: int) -> int:
    """Bytes written until nothing more fits, not even one."""
    os.set_blocking(descriptor, False)
    filled = 0
    for size in (1000, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(descriptor, b"\n" * size)
    return filled


@pytest.mark.timeout(LIMIT_S)
def test_a_parent_that_does_not_read_keeps_nobody_and_gets_the_last_message(ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    pipe = Pipe(write_end)
    sent = [
        pipe.send(progress(number)) for number in range(5000)
    ]  # hours of a run; blocking, it would hang here
    count = sent.index(False)
    assert count > 60
    assert not any(sent[count:])
    ended = Ended(None, "engine_died", "why it died " * 500)
    assert pipe.send(ended)
    assert read_all(read_end) == [*map(progress, range(count)), ended]
    assert pipe.send(progress(1))  # read again, it is told again
    assert read_all(read_end) == [progress(1)]


@pytest.mark.timeout(LIMIT_S)
def test_a_message_that_went_in_by_half_is_completed_first(ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    filled = fill(write_end)
    pipe = Pipe(write_end)
    assert not pipe.send(progress(0))
    last = Ended("/records/x", None, None)

    heard = bytearray()

    def read_slowly() -> None:
        while len(heard) < filled or not heard.endswith(b"}\n"):
            heard.extend(os.read(read_end, 1 << 12))

    reader = threading.Thread(target=read_slowly)
    reader.start()
    assert pipe.send(last)
    reader.join(LIMIT_S)
    assert decode(bytes(heard).strip()) == last


@pytest.mark.timeout(LIMIT_S)
def test_the_last_message_is_given_up_after_a_limit(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, write_end = ends
    monkeypatch.setattr(worker, "LAST_WORD_LIMIT_S", 0.01)
    fill(write_end)
    assert not Pipe(write_end).send(Ended("/records/x", None, None))


def test_without_a_parent_nobody_is_told(ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    os.close(read_end)
    pipe = Pipe(write_end)
    assert not pipe.send(progress(0))
    assert not pipe.send(Ended("/records/x", None, None))
