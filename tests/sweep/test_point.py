from __future__ import annotations

import os
import socket
from dataclasses import replace
from itertools import groupby

import pytest
from sweep_ledger import planned

from wattcount.config.schema import SweepOrder
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK
from wattcount.sweep.point import Outcome, Point, State, decode, encode, ordered


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


POINTS = [
    Point(f"{model}{repeat}", (), model, "h200", "batch", "batch of 8", 0, repeat)
    for model in "abcdefghij"
    for repeat in range(3)
]


def keys(order: SweepOrder = SweepOrder.blocks, seed: int = 0) -> list[str]:
    return [point.key for point in ordered(POINTS, order, seed)]


def test_as_given() -> None:
    assert keys(SweepOrder.given) == [point.key for point in POINTS]


def test_a_repeat_of_every_point_comes_before_the_next_repeat() -> None:
    found = keys()
    assert sorted(found) == sorted(point.key for point in POINTS)
    assert [key[1] for key in found] == ["0"] * 10 + ["1"] * 10 + ["2"] * 10


def test_points_that_share_a_start_follow_the_first_of_them_and_others_stay() -> None:
    def point(key: str, session: str | None) -> Point:
        return planned(key, session=session)

    given = [
        point("a0", "a"),
        point("b0", "b"),
        point("alone", None),
        point("a1", "a"),
        point("c", None),
        point("b1", "b"),
    ]
    found = ordered(given, SweepOrder.starts, 0)
    assert [one.key for one in found] == ["a0", "a1", "b0", "b1", "alone", "c"]
    assert ordered(found, SweepOrder.starts, 7) == found


def test_each_block_has_an_order_of_its_own_by_the_seed() -> None:
    blocks = ["".join(key[0] for key in keys()[n : n + 10]) for n in (0, 10, 20)]
    assert len({*blocks, "abcdefghij"}) == 4
    assert keys() == keys()
    assert keys(seed=1) != keys()


def test_more_points_leave_the_order_of_the_others() -> None:
    fewer = [point for point in POINTS if point.model not in "ab"]
    order = [point.key for point in ordered(fewer, SweepOrder.blocks, 0)]
    assert order == [key for key in keys() if key[0] not in "ab"]


def test_points_that_share_an_engine_follow_each_other_in_random_order() -> None:
    names = {"a": "one", "c": "one", "f": "one", "i": "one", "b": "two", "d": "two"}
    shared = [
        replace(point, session=f"{names[point.model]}{point.repeat}" if point.model in names else None)
        for point in POINTS
    ]
    found = ordered(shared, SweepOrder.blocks, 0)
    orders = []
    for block in (found[:10], found[10:20], found[20:]):
        assert len({point.repeat for point in block}) == 1
        runs = [[*points] for _, points in groupby(block, key=lambda point: point.session or point.key)]
        # Two sessions, and four points of their own.
        assert sorted(map(len, runs)) == [1, 1, 1, 1, 2, 4]
        orders.append("".join(point.model for run in runs for point in run if len(run) == 4))
    assert all(sorted(order) == list("acfi") for order in orders)
    assert len(set(orders)) > 1
    assert ordered(shared, SweepOrder.given, 0) == shared
