from __future__ import annotations

import pytest

from wattcount.records.schema import Phase
from wattcount.run.messages import Ended, Lines, Message, Notice, decode, encode
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
