from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wattcount.clock import now_ns
from wattcount.energy.events import EVENT_DTYPE
from wattcount.load.generator import LoadGenerator
from wattcount.load.plan import LoadPlan
from wattcount.records import RecordWriter
from wattcount.records.schema import Phase, PhaseSpan
from wattcount.records.spool import requests_table
from wattcount.scenario import Journal
from wattcount.scenario.journal import PhaseRunner


class NoGpu:
    """A sampler with nothing to say."""

    gpu_uuids = ("GPU-0",)
    failure = None

    def mark(self) -> None:
        pass

    def drain(self) -> NDArray[np.void]:
        return np.empty(0, EVENT_DTYPE)

    def latest_power_w(self) -> float | None:
        return None

    def average_power_w(self) -> float | None:
        return None


def test_it_ends_when_it_is_cancelled_while_the_disk_takes_its_time(tmp_path: Path) -> None:
    """At every moment of a bound's work, and what was begun is finished."""
    finished: list[int] = []

    def slow_disk() -> Callable[[], None]:
        def sync() -> None:
            time.sleep(0.05)
            finished.append(1)

        return sync

    async def cancelled_after(writer: RecordWriter, seconds: float) -> None:
        journal = Journal(writer, NoGpu(), lambda _: None, slow_disk, tick_s=10.0)
        ticking = asyncio.create_task(journal.run())
        for _ in range(2):  # the second bound has to wait for the first one's disk
            journal.bound()
            await asyncio.sleep(0.01)
        await asyncio.sleep(seconds)
        ticking.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(ticking, return_exceptions=True)
        assert ticking.cancelled()

    for number, seconds in enumerate((0.0, 0.01, 0.04, 0.08)):
        writer = RecordWriter.create(tmp_path, "0" * 64, f"run-{number}")
        writer.open_spool(("GPU-0",))
        before = len(finished)
        asyncio.run(cancelled_after(writer, seconds))
        assert len(finished) > before
        writer.close()


def test_requests_that_were_passed_over_do_not_hold_the_later_ones_back(tmp_path: Path) -> None:
    """A warm-up that waited for slots until the window began is never sent; client processes tell of each other's sends late."""
    writer = RecordWriter.create(tmp_path, "0" * 64, "run")
    writer.open_spool(("GPU-0",))
    lengths = np.full(4, 2, np.int32)
    plan = LoadPlan(np.zeros(4, np.int64), lengths, lengths, True, 1)

    async def live() -> None:
        journal = Journal(writer, NoGpu(), lambda _: None, lambda: lambda: None)
        generator = LoadGenerator(None, plan, vocab_size=9, window_start_offset_ns=None)  # type: ignore[arg-type]
        journal.follow(generator)

        def send(index: int) -> None:
            record = generator.records[index]
            record.actual_send_ns, record.status = 10 + index, "cancelled"
            generator.sent += 1

        for indices in ((0, 2), (), (1,)):
            for index in indices:
                send(index)
            journal.tick()

    asyncio.run(live())
    writer.close()
    told = requests_table(writer.folder / "spool").to_pylist()
    assert [row["actual_send_ns"] for row in told] == [10, 11, 12, None]


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def phases(calls: list[str]) -> PhaseRunner:
    return PhaseRunner(lambda: calls.append("mark"), lambda: calls.append("bound"))


def test_a_phase_ends_where_the_next_begins(phases: PhaseRunner) -> None:
    phases.begin(Phase.BARE_IDLE, 10.0, at_ns=100)
    phases.begin(Phase.ENGINE_START, limit_s=5.0, at_ns=200)
    assert phases.spans == [PhaseSpan(Phase.BARE_IDLE, 100, 200), PhaseSpan(Phase.ENGINE_START, 200, None)]
    assert (phases.planned_s, phases.limit_s) == (None, 5.0)
    assert phases.current is phases.spans[1]


def test_there_may_be_time_between_phases(phases: PhaseRunner) -> None:
    phases.begin(Phase.ENGINE_START, at_ns=1)
    phases.end(2)
    assert phases.current is None
    phases.begin(Phase.LOADED_IDLE, 1.0, at_ns=5)
    assert [span.start_ns for span in phases.spans] == [1, 5]


def test_each_bound_is_marked_before_it_is_told(phases: PhaseRunner, calls: list[str]) -> None:
    phases.begin(Phase.BARE_IDLE, 1.0)
    assert calls == ["mark", "bound"]
    phases.begin(Phase.ENGINE_START)
    phases.end()
    assert calls == ["mark", "bound"] * 3


def test_bounds_are_now_unless_they_are_given(phases: PhaseRunner) -> None:
    before = now_ns()
    phases.begin(Phase.WINDOW)
    phases.end()
    (span,) = phases.spans
    assert span.end_ns is not None
    assert before <= span.start_ns <= span.end_ns <= now_ns()


def test_the_beginning_can_be_corrected_at_the_end(phases: PhaseRunner) -> None:
    phases.begin(Phase.WINDOW, at_ns=100)
    phases.end(500, start_ns=120)
    assert phases.spans == [PhaseSpan(Phase.WINDOW, 120, 500)]


def test_time_does_not_run_backwards(phases: PhaseRunner) -> None:
    phases.begin(Phase.WINDOW, at_ns=100)
    with pytest.raises(ValueError, match="window cannot end before it began"):
        phases.begin(Phase.DRAIN, at_ns=99)
