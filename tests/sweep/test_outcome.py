import os
import socket

import pytest

from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK
from wattcount.sweep.outcome import Outcome, State, decode, encode


def test_an_outcome_is_one_line_and_comes_back_as_it_was():
    outcome = Outcome(
        State.failed,
        "0123456789ab",
        t_utc_ns=5,
        attempt=2,
        exit_code=EXIT_FAILED,
        reason="out_of_memory",
        message="a\nb",
        record="/r",
        gpu_uuid="GPU-1",
        host="node1",
        pid=7,
        wall_s=1.5,
        energy_j=0.0,
        figures={"energy/gpu_j": 0.5},
        log_line="no room",
    )
    line = encode(outcome)
    assert line.count(b"\n") == 1
    assert decode(line) == outcome


def test_what_is_not_known_is_left_out():
    outcome = Outcome(State.done, host=None, pid=None)
    assert all(name not in encode(outcome) for name in (b"key", b"host", b"before", b"figures", b"attempt"))
    assert decode(encode(outcome)) == outcome


def test_an_outcome_says_whose_it_is():
    outcome = Outcome(State.running)
    assert (outcome.host, outcome.pid) == (socket.gethostname(), os.getpid())


def test_keys_of_later_versions_are_passed_over():
    assert decode(b'{"state": "done", "t_utc_ns": 3, "key": "k", "mood": "good"}').t_utc_ns == 3


@pytest.mark.parametrize(
    ("kind", "state", "exit_code", "before"),
    [
        ("start", State.running, EXIT_OK, False),
        ("started", State.running, EXIT_OK, False),
        ("done", State.done, EXIT_OK, False),
        ("measured_before", State.done, EXIT_OK, True),
        ("failed", State.failed, EXIT_FAILED, False),
        ("invalid", State.invalid, EXIT_OK, False),
        ("not_started", State.failed, EXIT_NOT_STARTED, False),
        ("lost", State.lost, EXIT_FAILED, False),
        ("end", State.done, EXIT_OK, False),
    ],
)
def test_lines_of_earlier_versions_are_read(kind, state, exit_code, before):
    line = f'{{"kind":"{kind}","key":"a","t_utc_ns":3,"attempt":2,"host":"n","pid":7,"wall_s":1.5,"j_per_output_token":0.5}}'
    found = decode(line.encode())
    assert (found.state, found.exit_code, found.before) == (state, exit_code, before)
    assert (found.key, found.attempt, found.pid, found.wall_s) == ("a", 2, 7, 1.5)
    assert found.figures == {"energy/gpu_j_per_output_token": 0.5}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"state": "done"}',
        b'{"kind": "danced", "t_utc_ns": 1}',
        b'{"state": "danced", "t_utc_ns": 1}',
        b"\x00\xff",
    ],
)
def test_what_is_no_outcome(line):
    with pytest.raises(ValueError, match=r"not an outcome|Expecting|decode|valid"):
        decode(line)
