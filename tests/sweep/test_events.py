import os
import socket

import pytest

from wattcount.sweep.events import Event, EventKind, decode, encode


def test_an_event_is_one_line_and_comes_back_as_it_was():
    event = Event(
        EventKind.failed,
        "0123456789ab",
        5,
        2,
        "out_of_memory",
        "a\nb",
        "/r",
        "GPU-1",
        "node1",
        7,
        1.5,
        2.5,
        0.5,
    )
    line = encode(event)
    assert line.count(b"\n") == 1
    assert decode(line) == event


def test_what_is_not_known_is_left_out():
    event = Event(EventKind.end, host=None, pid=None)
    assert b"key" not in encode(event)
    assert decode(encode(event)) == event


def test_an_event_says_whose_it_is():
    event = Event(EventKind.start)
    assert (event.host, event.pid) == (socket.gethostname(), os.getpid())


def test_keys_of_later_versions_are_passed_over():
    assert decode(b'{"kind": "done", "t_utc_ns": 3, "key": "k", "mood": "good"}').t_utc_ns == 3


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"3", b'{"kind": "done"}', b'{"kind": "danced", "t_utc_ns": 1}', b"\x00\xff"]
)
def test_what_is_no_event(line):
    with pytest.raises(ValueError, match=r"not an event|Expecting|decode|valid"):
        decode(line)
