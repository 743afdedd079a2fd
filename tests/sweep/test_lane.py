"""A lane whose sweep does not read, and what signals do to it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import pytest

from wattcount.config.loader import changed, to_json
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress
from wattcount.sweep import lane
from wattcount.sweep.lane import Lane, LaneSignals, Said, Task
from wattcount.sweep.local import ChildLane
from wattcount.sweep.point import Outcome, State

pytestmark = pytest.mark.timeout(120)

REPORTS = 5000


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    """The lane's and the sweep's, with little room between them."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with Connection(ours.detach()) as lanes, Connection(theirs.detach()) as sweeps:
        yield lanes, sweeps


def task(cfg: RunConfig) -> Task:
    return Task(to_json(cfg), "k", "sweep", 1, (), wait_for_others=False)


def report(phase: Phase, number: int) -> Progress:
    return Progress(phase, number, 60.0, None, 0, 0, 0, None, None, None)


def test_a_sweep_that_does_not_read_keeps_no_run(
    ends: tuple[Connection, Connection], tiny_run: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, sweeps = ends
    outcome = Outcome(State.done, "k", record="/records/x")

    def run(*_: Any, display: Any, **__: Any) -> Outcome:
        display.started(tiny_run())
        for phase in (Phase.WARMUP, Phase.WINDOW):
            for number in range(REPORTS):
                display.progress(report(phase, number))  # it would stand still here
        display.notice("a notice")
        display.ended(None)
        return outcome

    monkeypatch.setattr(lane, "measure_planned", run)
    made = Lane(ours, LaneSignals())
    sent = made.measure(task(tiny_run()))
    heard: list[Said] = []
    while not heard or heard[-1].text is None:
        heard.append(sweeps.recv())
    assert sent == (Said(before={}), outcome)
    shown = [said.progress for said in heard if said.progress is not None]
    assert len(shown) < REPORTS
    assert shown[-1] == report(Phase.WINDOW, REPORTS - 1)
    assert report(Phase.WARMUP, REPORTS - 1) in shown


def test_signals_are_raised_while_it_waits_and_noted_while_it_measures() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signals = LaneSignals()
    signals.install()
    try:
        with signals.raised():
            signals.only_note()
            signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        with pytest.raises(lane._Ended) as ended, signals.raised():
            raise AssertionError("one that was noted is raised at the next wait")
        assert ended.value.exit_code == EXIT_TERMINATED
        signals.clear()
        with pytest.raises(lane._Ended) as ended, signals.raised():
            signal.raise_signal(signal.SIGINT)
        assert ended.value.exit_code == EXIT_INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGTERM, EXIT_TERMINATED)]
)
def test_a_signalled_lane_closes_the_record_says_so_and_ends(
    tiny_run: Callable[..., RunConfig], emulated: Callable[..., Any], number: signal.Signals, code: int
) -> None:
    emulated()
    child = ChildLane()
    child.give(task(tiny_run(window_s=60.0)))
    signalled = False
    while not isinstance(message := child.connection.recv(), Outcome):
        if not signalled and message.progress is not None and message.progress.phase is Phase.WINDOW:
            signalled = True
            child.signal(number)
    assert (message.exit_code, message.reason) == (code, "interrupted")
    assert message.record is not None
    assert Record.open(message.record).info.validity.reasons == ["interrupted"]
    assert child.close() in (code, 0)  # the run's own handlers took it


def test_a_folder_that_cannot_be_written_to_does_not_end_the_lane(
    tiny_run: Callable[..., RunConfig], emulated: Callable[..., Any]
) -> None:
    emulated()
    cfg = tiny_run()
    cfg = changed(cfg, {"records_dir": "/proc/nowhere"})
    child = ChildLane()
    for _ in range(2):
        child.give(task(cfg))
        assert isinstance(child.connection.recv(), Said)
        outcome = child.connection.recv()
        assert isinstance(outcome, Outcome)
        assert "records_dir" in (outcome.message or "")
    # A lane that waits for its next point ends at once.
    child.signal(signal.SIGTERM)
    with pytest.raises(EOFError):
        child.connection.recv()
    assert child.close() == EXIT_TERMINATED
