from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import pytest

from wattcount.records.schema import Phase
from wattcount.run import messages
from wattcount.run.messages import Ended, Lines, Message, Notice, decode, encode
from wattcount.run.worker import Pipe
from wattcount.scenario.journal import Progress

PROGRESS = Progress(Phase.WINDOW, 1.5, 60.0, None, 3, 1, 2, 10, 99.5, 412.0)


@pytest.mark.parametrize(
    "message",
    [
        PROGRESS,
        Progress(None, 0.0, None, None, 0, 0, 0, None, None, None),
        Notice("two\nlines, and ünïcode"),
        Ended("/records/x", None, None),
        Ended(None, "engine_died", "it died"),
    ],
)
def test_messages_come_back_as_they_were(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"hello", b"[]", b"{}", b'{"type": "x"}', b'{"type": "notice"}', b"\xff"]
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)


def test_a_phase_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="lunch"):
        decode(encode(PROGRESS).replace(b'"window"', b'"lunch"'))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_put_back_together(size: int) -> None:
    stream = b"one\ntwo\n\nthree"
    lines = Lines()
    found = [line for i in range(0, len(stream), size) for line in lines.feed(stream[i : i + size])]
    assert found == [b"one", b"two", b""]
    assert list(lines.feed(b"!\n")) == [b"three!"]


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
    monkeypatch.setattr(messages, "LAST_WORD_LIMIT_S", 0.01)
    fill(write_end)
    assert not Pipe(write_end).send(Ended("/records/x", None, None))


def test_without_a_parent_nobody_is_told(ends: tuple[int, int]) -> None:
    read_end, write_end = ends
    os.close(read_end)
    pipe = Pipe(write_end)
    assert not pipe.send(progress(0))
    assert not pipe.send(Ended("/records/x", None, None))
