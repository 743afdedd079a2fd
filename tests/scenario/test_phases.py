from __future__ import annotations

import pytest

from wattcount.clock import now_ns
from wattcount.records.schema import Phase, PhaseSpan
from wattcount.scenario.phases import PhaseRunner


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
