"""Blocks: repeats spread out, each block in a random order that can be told again."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

from wattcount.config.schema import SweepOrder
from wattcount.sweep.plan import Point, ordered

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
