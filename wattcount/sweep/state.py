"""How a sweep stands: its plan and its outcomes put together. Pure: reads no file and no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import fmean

from wattcount.metrics.metrics_json import Status, Verdict
from wattcount.sweep.point import INVALID_BEFORE, Outcome, Plan, Point, State

PROCESS_DIED = "process_died"
"""Reason of a point that a process began and never ended."""

Row = tuple[Point, Outcome]
"""A point, and where it stands."""
_unheard = partial(Outcome, t_utc_ns=0, attempt=0, host=None, pid=None)
"""Makes the outcome of a point that no process has reported."""


@dataclass(frozen=True)
class Writer:
    """What one process wrote, in its order, and whether it still lives."""

    outcomes: Sequence[Outcome]
    alive: bool


@dataclass(frozen=True)
class Start:
    """One start of the sweep.

    ended_utc_ns   None: it runs, or it was killed
    reason         why it ended, as it said itself
    """

    host: str | None
    pid: int | None
    began_utc_ns: int
    ended_utc_ns: int | None
    reason: str | None
    alive: bool

    @property
    def killed(self) -> bool:
        return self.ended_utc_ns is None and not self.alive


@dataclass(frozen=True)
class SweepState:
    """How a sweep stands at `t_utc_ns`.

    outcomes        where each point stands, by key. Reason and message of one that runs or waits are those of its latest
                    try that went wrong
    counts          number of points in each state; all states are in it
    starts          oldest first
    energy_j        of the GPUs in all runs the ledger knows the energy of, failed ones too [J]; None: of none
    energy_of       number of done points whose energy is in it
    work_left_s     what the points still to be measured take, one after another [s]; None: nothing is known
    time_left_s     the same, with as many at once as run now; None too where no start is alive
    time_left_basis `measured` where all of it comes from runs of this sweep or like records, else `predicted`
    latest          the point that was measured last
    records         paths of all records that outcomes or plan tell of, failed ones too
    """

    plan: Plan
    outcomes: Mapping[str, Outcome]
    t_utc_ns: int
    counts: dict[State, int]
    starts: tuple[Start, ...]
    energy_j: float | None
    energy_of: int
    work_left_s: float | None
    time_left_s: float | None
    time_left_basis: str | None
    latest: Row | None
    records: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def alive(self) -> bool:
        """Whether a start of it runs."""
        return any(start.alive for start in self.starts)

    @property
    def rows(self) -> list[Row]:
        """Every point, in the order of the plan."""
        return [(point, self.outcomes[point.key]) for point in self.plan.points]

    @property
    def running(self) -> list[Row]:
        return [row for row in self.rows if row[1].state is State.running]

    @property
    def failures(self) -> list[Row]:
        """Points that something went wrong with and that are not done, those that wait or run again too."""
        settled = (State.done, State.skipped)
        return [
            (point, outcome)
            for point, outcome in self.rows
            if outcome.reason is not None and outcome.state not in settled and not outcome.before
        ]

    @property
    def skipped(self) -> list[Row]:
        """Points that are left out, invalid ones that other sweeps measured too."""
        return [
            (point, outcome)
            for point, outcome in self.rows
            if outcome.state is State.skipped or (outcome.state is State.invalid and outcome.before)
        ]


@dataclass
class _Story:
    """The outcomes of one point.

    open       `running` that nothing has followed, by the process that measures
    dead       the same, of a process that died
    """

    open: dict[tuple[str | None, int | None], Outcome] = field(default_factory=dict)
    dead: Outcome | None = None
    results: list[Outcome] = field(default_factory=list)
    failure: Outcome | None = None
    starts: int = 0
    refusals: int = 0


class Tally:
    """Takes outcomes as they come, in the order of their time, and says how the sweep stands.

    is_there   whether the record at a path exists; one that was deleted is to be measured again
    spoilt     why a record that exists makes its point not done, though its run was; None: it does
    """

    def __init__(
        self,
        plan: Plan,
        is_there: Callable[[str], bool] = lambda _record: True,
        spoilt: Callable[[str], Verdict | None] = lambda _record: None,
    ) -> None:
        self.plan = plan
        self._is_there = is_there
        self._spoilt = spoilt
        self._stories: defaultdict[str, _Story] = defaultdict(_Story)
        self._starts: dict[tuple[str | None, int | None, int], Start] = {}
        self._records: dict[str, None] = {}
        self._energy_j: dict[str, float] = {}
        """Energy of runs [J], by record or by what else tells one run from another."""

    def add(self, outcome: Outcome, *, alive: bool = True) -> None:
        """`alive`: of the process that wrote it."""
        if outcome.key is None:
            self._add_start(outcome, alive)
        else:
            self._add_to(self._stories[outcome.key], outcome, alive)

    def _add_start(self, outcome: Outcome, alive: bool) -> None:
        if outcome.state is State.running:
            key = (outcome.host, outcome.pid, outcome.t_utc_ns)
            self._starts[key] = Start(*key, None, None, alive)
            return
        for key, start in reversed(self._starts.items()):
            if (start.host, start.pid) == (outcome.host, outcome.pid):
                self._starts[key] = Start(*key, outcome.t_utc_ns, outcome.reason, alive=False)
                return

    def _add_to(self, story: _Story, outcome: Outcome, alive: bool) -> None:
        who = (outcome.host, outcome.pid)
        left = story.dead is not None and who == (story.dead.host, story.dead.pid)
        began = who in story.open or left
        if outcome.state is State.running:
            story.starts += 1
            if alive:
                story.open[who] = outcome
            else:
                story.dead = outcome
            return
        # A sweep may be started twice at once: that one start is told that the other measures the point ends nothing.
        if outcome.refused or outcome.before:
            story.open.pop(who, None)
        else:
            story.open.clear()
        if outcome.elsewhere:
            story.starts -= began
            story.dead = None if left else story.dead
            return
        story.dead = None
        if outcome.refused and not began:
            story.refusals += 1
        if outcome.state is not State.done:
            story.failure = outcome
        elif outcome.record is None or all(known.record != outcome.record for known in story.results):
            story.results.append(outcome)
        self._records |= dict.fromkeys(outcome.all_records)
        if outcome.energy_j is not None:
            self._energy_j[outcome.record or f"{outcome.key} {outcome.t_utc_ns}"] = outcome.energy_j

    def state(self, t_utc_ns: int) -> SweepState:
        starts = tuple(sorted(self._starts.values(), key=lambda start: start.began_utc_ns))
        restarted_ns = max((start.began_utc_ns for start in starts if start.alive), default=None)
        outcomes = {point.key: self._outcome(point, restarted_ns) for point in self.plan.points}
        rows = [(point, outcomes[point.key]) for point in self.plan.points]
        counts = dict.fromkeys(State, 0)
        for outcome in outcomes.values():
            counts[outcome.state] += 1
        done = [(point, outcome) for point, outcome in rows if outcome.state is State.done]
        measured = [(point, outcome) for point, outcome in done if not outcome.before]
        work_left_s, basis = _work_left(rows, measured, t_utc_ns)
        shared = None if work_left_s is None else work_left_s / max(counts[State.running], 1)
        return SweepState(
            plan=self.plan,
            outcomes=outcomes,
            t_utc_ns=t_utc_ns,
            counts=counts,
            starts=starts,
            energy_j=sum(self._energy_j.values()) if self._energy_j else None,
            energy_of=sum(o.energy_j is not None or o.record in self._energy_j for _, o in done),
            work_left_s=work_left_s,
            time_left_s=None if restarted_ns is None else shared,
            time_left_basis=basis,
            latest=max(measured, key=lambda row: row[1].t_utc_ns, default=None),
            records=tuple(self._records | dict.fromkeys(o.record for _, o in done if o.record is not None)),
        )

    def _outcome(self, point: Point, restarted_ns: int | None) -> Outcome:
        """Where a point stands."""
        planned = self._planned(point)
        if (story := self._stories.get(point.key)) is None:
            return planned
        tries = story.starts + story.refusals
        if story.open:
            running = max(story.open.values(), key=lambda outcome: outcome.t_utc_ns)
            return _with_failure(running, story.failure, tries)
        result, spoilt = self._result(story)
        if result is not None:
            return replace(result, attempt=tries)
        if planned.state is State.done or (planned.before and spoilt is None):
            invalid = story.failure if planned.state is State.invalid else None
            return replace(invalid or planned, state=planned.state, attempt=tries)
        failure = spoilt or (planned if planned.reason is not None and not planned.before else story.failure)
        if story.dead is not None and (failure is None or story.dead.t_utc_ns > failure.t_utc_ns):
            failure = replace(story.dead, state=State.lost)
        if failure is None:
            return replace(planned, attempt=tries)
        again = restarted_ns is not None and failure.t_utc_ns < restarted_ns
        return _with_failure(replace(failure, state=State.waiting) if again else failure, failure, tries)

    def _planned(self, point: Point) -> Outcome:
        """Where a point stands by the plan alone."""
        if point.state is State.skipped:
            state = State.invalid if point.reason == INVALID_BEFORE else State.skipped
            reason = point.reason or state.value
            return _unheard(state, point.key, before=True, reason=reason, message=point.message)
        if point.state is not State.done or not (point.record is None or self._is_there(point.record)):
            return _unheard(State.waiting, point.key)
        done = _unheard(State.done, point.key, before=True, record=point.record)
        verdict = None if point.record is None else self._spoilt(point.record)
        return done if verdict is None else _spoilt_outcome(done, verdict)

    def _result(self, story: _Story) -> tuple[Outcome | None, Outcome | None]:
        """The latest result whose record is there and counts, else what is wrong with the latest that is there."""
        spoilt = None
        for outcome in reversed(story.results):
            if outcome.record is None:
                return outcome, None
            if self._is_there(outcome.record):
                if (verdict := self._spoilt(outcome.record)) is None:
                    return outcome, None
                spoilt = spoilt or _spoilt_outcome(outcome, verdict)
        return None, spoilt


def _with_failure(outcome: Outcome, failure: Outcome | None, tries: int) -> Outcome:
    if failure is None:
        return replace(outcome, attempt=tries)
    reason = failure.reason or (PROCESS_DIED if failure.state is State.lost else failure.state.value)
    return replace(outcome, attempt=tries, reason=reason, message=failure.message)


def _spoilt_outcome(done: Outcome, verdict: Verdict) -> Outcome:
    """The outcome of a run that was done, as it is told since its record was found not to count."""
    state = State.invalid if verdict.status is Status.invalid else State.failed
    return replace(done, state=state, before=False, reason=verdict.reason, message=verdict.message)


def tally(
    plan: Plan,
    writers: Iterable[Writer],
    is_there: Callable[[str], bool] = lambda _: True,
    spoilt: Callable[[str], Verdict | None] = lambda _: None,
) -> Tally:
    """The tally of what `writers` wrote, in any order."""
    made = Tally(plan, is_there, spoilt)
    told = [(outcome, writer.alive) for writer in writers for outcome in writer.outcomes]
    for outcome, alive in sorted(told, key=lambda pair: pair[0].t_utc_ns):
        made.add(outcome, alive=alive)
    return made


def _work_left(
    rows: Sequence[Row], measured: Sequence[Row], t_utc_ns: int
) -> tuple[float | None, str | None]:
    """Seconds and what they rest on. A point takes as long as those like it did, else as the plan expected."""
    left = [row for row in rows if row[1].state in (State.waiting, State.running, State.lost)]
    if not left:
        return 0.0, None
    taken: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for point, done in measured:
        if done.wall_s is not None:
            for kind in _kinds(point):
                taken[kind].append(done.wall_s)
    means = {kind: fmean(seconds) for kind, seconds in taken.items()}
    total_s, basis = 0.0, "measured"
    for point, outcome in left:
        exact, rough = _kinds(point)
        seconds = means.get(exact)
        if seconds is None and point.basis == "measured":
            seconds = point.wall_s
        if seconds is None:
            seconds = means.get(rough)
        if seconds is None:
            seconds, basis = point.wall_s, "predicted"
        if seconds is None:
            return None, None
        if outcome.state is State.running:
            seconds = max(seconds - (t_utc_ns - outcome.t_utc_ns) / 1e9, 0.0)
        total_s += seconds
    return total_s, basis


def _kinds(point: Point) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Points of one kind take about as long: repeats of one point; else those with the same load."""
    return (point.point or "", point.model, point.gpu, point.scenario, point.load), (
        point.scenario,
        point.load,
    )
