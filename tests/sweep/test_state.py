import itertools

import pytest

from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED
from wattcount.sweep.point import Outcome, Plan, Point, State
from wattcount.sweep.state import Tally, Writer, tally

S = 1_000_000_000
NOW = 1000 * S


def point(key: str, **other) -> Point:
    values = {
        "model": "m",
        "gpu": "h200",
        "scenario": "batch",
        "load": "512 requests",
        "seed": 0,
        "repeat": 0,
    }
    return Point(key=key, overrides=(), **(values | other))


def plan(*points: Point | str) -> Plan:
    made = tuple(point(p) if isinstance(p, str) else p for p in points)
    return Plan("sweep", made, "2026-01-01T00:00:00Z", ())


STATES: dict[str, tuple[State, dict]] = {
    "start": (State.running, {}),
    "started": (State.running, {}),
    "measured_before": (State.done, {"before": True}),
    "failed": (State.failed, {"exit_code": EXIT_FAILED}),
    "not_started": (State.failed, {"exit_code": EXIT_NOT_STARTED}),
    "lost": (State.lost, {"exit_code": EXIT_FAILED}),
    "end": (State.done, {}),
}


def event(kind: str, key: str | None = None, at_s: float = 0, pid: int = 1, **other) -> Outcome:
    state, more = STATES.get(kind) or (State(kind), {})
    return Outcome(state, key, round(at_s * S), host="node1", pid=pid, **(more | other))


def one(writers, points=("a",), is_there=lambda _: True):
    return tally(plan(*points), writers, is_there).state(NOW)


def state_of(*events: Outcome, alive: bool = True, planned: Point | str = "a", is_there=lambda _: True):
    return one([Writer(events, alive)], (planned,), is_there).outcomes["a"]


def test_nothing_told_yet():
    sweep = one([], ["a", "b"])
    assert sweep.counts == dict.fromkeys(State, 0) | {State.waiting: 2}
    assert (sweep.energy_j, sweep.work_left_s, sweep.time_left_s, sweep.latest) == (None, None, None, None)
    assert not sweep.alive
    assert sweep.failures == []


@pytest.mark.parametrize(
    ("kinds", "alive", "expected", "tries"),
    [
        (["started"], True, State.running, 1),
        (["started"], False, State.lost, 1),
        (["started", "done"], True, State.done, 1),
        (["started", "done"], False, State.done, 1),
        (["started", "failed"], True, State.failed, 1),
        (["started", "invalid"], True, State.invalid, 1),
        (["started", "lost"], True, State.lost, 1),
        (["not_started"], True, State.failed, 1),
        (["measured_before"], True, State.done, 0),
        (["started", "failed", "started"], True, State.running, 2),
        (["started", "failed", "started", "done"], True, State.done, 2),
        (["started", "done", "started", "failed"], True, State.done, 2),
        (["started", "done", "started"], True, State.running, 2),
    ],
)
def test_state_by_what_was_told(kinds, alive, expected, tries):
    found = state_of(*(event(kind, "a", at) for at, kind in enumerate(kinds)), alive=alive)
    assert (found.state, found.attempt) == (expected, tries)


def test_the_plan_says_what_is_done_and_skipped():
    sweep = one(
        [],
        [
            point("a", state=State.done, record="/r"),
            point("b", state=State.skipped, reason="does_not_fit", message="140 GiB > 80 GiB"),
            point("c", state=State.done, record="/gone"),
        ],
        is_there=lambda record: record == "/r",
    )
    assert [outcome.state for outcome in sweep.outcomes.values()] == [
        State.done,
        State.skipped,
        State.waiting,
    ]
    assert sweep.outcomes["a"].record == "/r"


def test_a_record_that_was_deleted_is_to_be_measured_again():
    events = [event("started", "a", 1), event("done", "a", 2, record="/gone")]
    assert state_of(*events, is_there=lambda _: False).state is State.waiting


def test_an_earlier_record_that_is_still_there_counts():
    events = [event("done", "a", 1, record="/kept"), event("done", "a", 2, record="/gone")]
    found = state_of(*events, is_there=lambda record: record == "/kept")
    assert (found.state, found.record) == (State.done, "/kept")


def test_what_failed_before_waits_for_the_start_that_is_alive():
    first = Writer(
        [event("start", at_s=1), event("started", "a", 2), event("failed", "a", 3, reason="timeout")], False
    )
    again = Writer([event("start", at_s=9, pid=2)], True)
    waiting = one([again, first]).outcomes["a"]
    assert (waiting.state, waiting.attempt) == (State.waiting, 1)
    assert waiting.reason == "timeout"
    assert one([first]).outcomes["a"].state is State.failed
    killed_again = Writer(again.outcomes, False)
    assert one([first, killed_again]).outcomes["a"].state is State.failed


def test_what_failed_in_this_start_is_failed():
    events = [event("start", at_s=1), event("started", "a", 2), event("failed", "a", 3)]
    assert state_of(*events).state is State.failed


def test_lost_by_one_and_measured_by_the_next():
    killed = Writer([event("started", "a", 1)], False)
    sweep = one([killed, Writer([event("started", "a", 5, pid=2), event("done", "a", 6, pid=2)], True)])
    assert (sweep.outcomes["a"].state, sweep.outcomes["a"].attempt) == (State.done, 2)
    assert sweep.failures == []


def test_one_sweep_told_that_another_measures_the_point_ends_nothing():
    found = one(
        [
            Writer([event("started", "a", 1, pid=1)], True),
            Writer([event("not_started", "a", 2, pid=2, reason="measured_elsewhere")], True),
        ]
    ).outcomes["a"]
    assert found.state is State.running
    assert found.pid == 1


@pytest.mark.parametrize("alive", [True, False])
def test_a_point_left_to_another_sweep_is_no_try_and_no_failure(alive):
    events = [event("started", "a", 1), event("not_started", "a", 2, reason="measured_elsewhere")]
    found = state_of(*events, alive=alive)
    assert (found.state, found.attempt, found.reason) == (State.waiting, 0, None)


def test_an_invalid_record_that_is_not_measured_again_is_invalid():
    planned = point("a", state=State.skipped, reason="invalid_before", message="not steady")
    assert one([], [planned]).outcomes["a"].state is State.invalid
    found = state_of(event("started", "a", 1), event("invalid", "a", 2, reason="not_steady"), planned=planned)
    assert (found.state, found.attempt, found.reason) == (State.invalid, 1, "not_steady")


def test_a_refusal_that_was_begun_is_one_try():
    assert state_of(event("started", "a", 1), event("not_started", "a", 2, reason="not_started")).attempt == 1


def test_the_sweep_writes_off_a_lane_that_died():
    lane = Writer([event("started", "a", 1, pid=7)], False)
    parent = Writer([event("start", at_s=0), event("lost", "a", 2, pid=7, reason="worker_died")], True)
    found = one([lane, parent]).outcomes["a"]
    assert found.state is State.lost
    assert found.reason == "worker_died"


def test_events_of_points_that_are_no_longer_planned_are_passed_over():
    sweep = one([Writer([event("done", "other", 1)], True)])
    assert sweep.counts[State.done] == 0
    assert sweep.counts[State.waiting] == 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_order_of_the_files_does_not_matter(order):
    writers = [
        Writer([event("start", at_s=0), event("end", at_s=9)], False),
        Writer([event("started", "a", 1, pid=2), event("failed", "a", 2, pid=2)], False),
        Writer([event("started", "a", 3, pid=3), event("done", "a", 4, pid=3)], False),
    ]
    assert one([writers[i] for i in order]).outcomes["a"].state is State.done


# -- starts ---------------------------------------------------------------------------------------


def test_starts_that_run_ended_and_were_killed():
    sweep = one(
        [
            Writer([event("start", at_s=1, pid=1)], False),
            Writer([event("start", at_s=2, pid=2), event("end", at_s=3, pid=2, reason="interrupted")], False),
            Writer([event("start", at_s=4, pid=3)], True),
        ]
    )
    assert [(s.pid, s.killed, s.reason, s.alive) for s in sweep.starts] == [
        (1, True, None, False),
        (2, False, "interrupted", False),
        (3, False, None, True),
    ]
    assert sweep.alive


def test_a_start_has_ended_though_its_process_lives_on():
    sweep = one([Writer([event("start", at_s=1), event("end", at_s=2)], True)])
    assert not sweep.alive
    assert not sweep.starts[0].killed


# -- energy, time left, latest --------------------------------------------------------------------


def test_energy_is_of_every_run_once():
    sweep = one(
        [
            Writer(
                [
                    event("started", "a", 1),
                    event("failed", "a", 2, record="/r1", energy_j=10.0),
                    event("started", "a", 3),
                    event("done", "a", 4, record="/r2", energy_j=100.0),
                    event("done", "b", 5, record="/r3"),
                ],
                False,
            ),
            Writer([event("measured_before", "a", 6, pid=2, record="/r2", energy_j=100.0)], True),
        ],
        ["a", "b"],
    )
    assert sweep.energy_j == 110.0
    assert (sweep.energy_of, sweep.counts[State.done]) == (1, 2)
    assert sweep.latest is not None
    assert sweep.latest[0].key == "b"


def running(*events: Outcome) -> list[Writer]:
    return [Writer([event("start", at_s=0), *events], True)]


def test_time_left_is_of_points_like_those_that_were_measured():
    slow = {"model": "slow"}
    sweep = one(
        running(event("done", "a", 1, wall_s=10.0), event("done", "s", 2, wall_s=100.0)),
        ["a", "b", point("s", **slow), point("t", **slow), point("u", **slow)],
    )
    assert sweep.work_left_s == 210.0
    assert sweep.time_left_s == 210.0
    assert sweep.time_left_basis == "measured"


def test_time_left_is_that_of_repeats_and_not_of_what_looks_alike():
    """A longer window has the same words: it is told apart by the point."""
    short, long = {"point": "aa"}, {"point": "bb"}
    sweep = one(
        running(event("done", "a", 1, wall_s=10.0), event("done", "c", 2, wall_s=100.0)),
        [point("a", **short), point("b", **short), point("c", **long), point("d", **long)],
    )
    assert sweep.work_left_s == 110.0


def test_time_left_is_shared_by_those_that_run_at_once_and_shrinks():
    sweep = one(
        running(
            event("done", "a", 1, wall_s=60.0),
            event("started", "b", 990, pid=2),
            event("started", "c", 900, pid=3),
        ),
        ["a", "b", "c", "d"],
    )
    assert sweep.work_left_s == 50 + 0 + 60
    assert sweep.time_left_s == 55


def test_time_left_of_the_unlike_comes_from_the_plan_then_from_the_same_load():
    known = running(event("done", "a", 1, wall_s=10.0))
    measured_elsewhere = point("b", model="x", wall_s=33.0, basis="measured")
    assert one(known, ["a", measured_elsewhere]).work_left_s == 33.0
    guessed = point("b", model="x", wall_s=33.0, basis="predicted")
    assert one(known, ["a", guessed]).work_left_s == 10.0
    of_another_load = point("b", model="x", load="server 4/s", wall_s=33.0, basis="predicted")
    sweep = one(known, ["a", of_another_load])
    assert (sweep.work_left_s, sweep.time_left_basis) == (33.0, "predicted")
    unknown = point("b", load="server 4/s")
    assert one(known, ["a", unknown]).work_left_s is None


def test_a_sweep_that_does_not_run_has_work_but_no_time_left():
    sweep = one([Writer([event("done", "a", 1, wall_s=10.0)], False)], ["a", "b"])
    assert (sweep.work_left_s, sweep.time_left_s) == (10.0, None)


def test_nothing_left():
    sweep = one(running(event("done", "a", 1)))
    assert (sweep.work_left_s, sweep.time_left_s) == (0.0, 0.0)


def test_a_tally_moves_on_as_events_come():
    made = Tally(plan("a", "b"))
    made.add(event("start"))
    made.add(event("started", "a", 1))
    assert made.state(NOW).counts[State.running] == 1
    made.add(event("done", "a", 2, wall_s=1.0, energy_j=5.0))
    after = made.state(NOW)
    assert (after.counts[State.running], after.counts[State.done], after.energy_j) == (0, 1, 5.0)
