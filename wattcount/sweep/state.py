"""How a sweep stands: its plan and its events put together. Pure: reads no file and no clock."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from statistics import fmean

from wattcount.metrics.verdict import Status, Verdict
from wattcount.sweep.events import MEASURED_ELSEWHERE, Event, EventKind
from wattcount.sweep.plan import INVALID_BEFORE, Plan, PlannedPoint, PlanState


class State(Enum):
    """Of one planned point."""

    waiting = "waiting"
    """To be measured, by the start that is alive or by the next one."""
    running = "running"
    done = "done"
    failed = "failed"
    invalid = "invalid"
    skipped = "skipped"
    lost = "lost"
    """The process that measured it died; the next start measures it again."""


@dataclass(frozen=True)
class Writer:
    """What one process wrote, in its order, and whether it still lives."""

    events: Sequence[Event]
    alive: bool


@dataclass(frozen=True)
class Start:
    """One start of the sweep."""

    host: str | None
    pid: int | None
    began_utc_ns: int
    ended_utc_ns: int | None
    """None: it runs, or it was killed."""
    reason: str | None
    """Why it ended, as it said itself."""
    alive: bool

    @property
    def killed(self) -> bool:
        return self.ended_utc_ns is None and not self.alive


@dataclass(frozen=True)
class PointState:
    """Where one point stands, and what is known of it.

    tries     how often it was started or refused, in all starts of the sweep
    running   its `started`, of a running one
    result    what made it done; None where the plan found its record
    failure   the latest that went wrong, also of one that is waiting for another try; None: nothing, or it is done
    record    path, of a done one
    """

    point: PlannedPoint
    state: State
    tries: int = 0
    running: Event | None = None
    result: Event | None = None
    failure: Event | None = None
    record: str | None = None


@dataclass(frozen=True)
class SweepState:
    """How a sweep stands at `t_utc_ns`.

    counts          number of points in each state; all states are in it
    starts          oldest first
    energy_j        joule of the GPUs in all runs the ledger knows the energy of, failed ones too; None: of none
    energy_of       number of done points whose energy is in it
    work_left_s     seconds that the points still to be measured take, one after another; None: nothing is known
    time_left_s     the same, with as many at once as run now; None too where no start is alive
    time_left_basis `measured` where all of it comes from runs of this sweep or like records, else `predicted`
    latest          the point that was measured last
    records         paths of all records that events or plan tell of, failed ones too
    """

    plan: Plan
    points: tuple[PointState, ...]
    t_utc_ns: int
    counts: dict[State, int]
    starts: tuple[Start, ...]
    energy_j: float | None
    energy_of: int
    work_left_s: float | None
    time_left_s: float | None
    time_left_basis: str | None
    latest: PointState | None
    records: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.plan.name

    @property
    def alive(self) -> bool:
        """Whether a start of it runs."""
        return any(start.alive for start in self.starts)

    @property
    def running(self) -> list[PointState]:
        return [point for point in self.points if point.state is State.running]

    @property
    def failures(self) -> list[PointState]:
        """Points that something went wrong with and that are not done, those waiting for another try too."""
        return [point for point in self.points if point.failure is not None]


_FAILED = {
    EventKind.failed: State.failed,
    EventKind.not_started: State.failed,
    EventKind.invalid: State.invalid,
    EventKind.lost: State.lost,
}
_DONE = (EventKind.done, EventKind.measured_before)


@dataclass
class _Story:
    """The events of one point."""

    open: dict[tuple[str | None, int | None], Event] = field(default_factory=dict)
    """`started` that nothing has followed, by the process that measures."""
    dead: Event | None = None
    """The same, of a process that died."""
    results: list[Event] = field(default_factory=list)
    failure: Event | None = None
    starts: int = 0
    refusals: int = 0


class Tally:
    """Takes events as they come, in the order of their time, and says how the sweep stands.

    is_there: whether the record at a path exists; one that was deleted is to be measured again.
    spoilt: why a record that exists makes its point not done, though its run was; None: it does.
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
        """By record, or by what else tells one run from another."""

    def add(self, event: Event, *, alive: bool = True) -> None:
        """`alive`: of the process that wrote it."""
        if event.kind is EventKind.start or event.kind is EventKind.end:
            self._add_start(event, alive)
        elif event.key is not None:
            self._add_to(self._stories[event.key], event, alive)

    def _add_start(self, event: Event, alive: bool) -> None:
        if event.kind is EventKind.start:
            key = (event.host, event.pid, event.t_utc_ns)
            self._starts[key] = Start(event.host, event.pid, event.t_utc_ns, None, None, alive)
            return
        for key, start in reversed(self._starts.items()):
            if (start.host, start.pid) == (event.host, event.pid):
                self._starts[key] = Start(*key, event.t_utc_ns, event.reason, alive=False)
                return

    def _add_to(self, story: _Story, event: Event, alive: bool) -> None:
        who = (event.host, event.pid)
        left = story.dead is not None and who == (story.dead.host, story.dead.pid)
        began = who in story.open or left
        if event.kind is EventKind.started:
            story.starts += 1
            if alive:
                story.open[who] = event
            else:
                story.dead = event
            return
        # A sweep may be started twice at once: that one start is told that the other measures the point ends nothing.
        if event.kind in (EventKind.not_started, EventKind.measured_before):
            story.open.pop(who, None)
        else:
            story.open.clear()
        if event.reason == MEASURED_ELSEWHERE:
            story.starts -= began
            story.dead = None if left else story.dead
            return
        story.dead = None
        if event.kind is EventKind.not_started and not began:
            story.refusals += 1
        if event.kind not in _DONE:
            story.failure = event
        elif event.record is None or all(known.record != event.record for known in story.results):
            story.results.append(event)
        if event.record is not None:
            self._records[event.record] = None
        if event.energy_j is not None:
            self._energy_j[event.record or f"{event.key} {event.t_utc_ns}"] = event.energy_j

    def state(self, t_utc_ns: int) -> SweepState:
        starts = tuple(sorted(self._starts.values(), key=lambda start: start.began_utc_ns))
        restarted_ns = max((start.began_utc_ns for start in starts if start.alive), default=None)
        points = tuple(self._point(point, restarted_ns) for point in self.plan.points)
        counts = dict.fromkeys(State, 0)
        for point in points:
            counts[point.state] += 1
        results = [point for point in points if point.result is not None]
        measured = [p for p in results if p.result is not None and p.result.kind is EventKind.done]
        work_left_s, basis = _work_left(points, measured, t_utc_ns)
        alive = restarted_ns is not None
        return SweepState(
            plan=self.plan,
            points=points,
            t_utc_ns=t_utc_ns,
            counts=counts,
            starts=starts,
            energy_j=sum(self._energy_j.values()) if self._energy_j else None,
            energy_of=sum(p.state is State.done and self._has_energy(p) for p in points),
            work_left_s=work_left_s,
            time_left_s=work_left_s / max(counts[State.running], 1)
            if alive and work_left_s is not None
            else None,
            time_left_basis=basis,
            records=tuple(self._records | dict.fromkeys(p.record for p in points if p.record is not None)),
            latest=max(measured, key=lambda p: p.result.t_utc_ns if p.result else 0, default=None),
        )

    def _has_energy(self, done: PointState) -> bool:
        told = done.result is not None and done.result.energy_j is not None
        return told or done.record in self._energy_j

    def _point(self, point: PlannedPoint, restarted_ns: int | None) -> PointState:
        story = self._stories.get(point.key)
        if story is None:
            return self._untold(point)
        tries = story.starts + story.refusals
        result, spoilt = self._result(story)
        if story.open:
            running = max(story.open.values(), key=lambda event: event.t_utc_ns)
            return PointState(point, State.running, tries, running=running, failure=story.failure)
        if result is not None:
            return PointState(point, State.done, tries, result=result, record=result.record)
        untold = self._untold(point)
        if untold.state is State.done or (untold.state is not State.waiting and spoilt is None):
            failure = story.failure if untold.state is State.invalid else None
            return replace(untold, tries=tries, failure=failure)
        failure, state = spoilt or untold.failure or story.failure, State.waiting
        if story.dead is not None and (failure is None or story.dead.t_utc_ns > failure.t_utc_ns):
            failure, state = story.dead, State.lost
        elif failure is not None:
            state = _FAILED[failure.kind]
        if failure is not None and restarted_ns is not None and failure.t_utc_ns < restarted_ns:
            state = State.waiting
        return PointState(point, state, tries, failure=failure)

    def _untold(self, point: PlannedPoint) -> PointState:
        if point.state is PlanState.skipped:
            invalid = point.reason == INVALID_BEFORE
            return PointState(point, State.invalid if invalid else State.skipped)
        if point.state is not PlanState.done:
            return PointState(point, State.waiting)
        if point.record is None:
            return PointState(point, State.done)
        if not self._is_there(point.record):
            return PointState(point, State.waiting)
        if (verdict := self._spoilt(point.record)) is None:
            return PointState(point, State.done, record=point.record)
        event = Event(EventKind.done, point.key, 0, record=point.record, host=None, pid=None)
        failure = _spoilt_event(event, verdict)
        return PointState(point, _FAILED[failure.kind], failure=failure)

    def _result(self, story: _Story) -> tuple[Event | None, Event | None]:
        """The latest result whose record is there and counts, else what is wrong with the latest that is there."""
        spoilt = None
        for event in reversed(story.results):
            if event.record is None:
                return event, None
            if self._is_there(event.record):
                if (verdict := self._spoilt(event.record)) is None:
                    return event, None
                spoilt = spoilt or _spoilt_event(event, verdict)
        return None, spoilt


def _spoilt_event(done: Event, verdict: Verdict) -> Event:
    """The event of a run that was done, as it is told since its record was found not to count."""
    kind = EventKind.invalid if verdict.status is Status.invalid else EventKind.failed
    return replace(done, kind=kind, reason=verdict.reason, message=verdict.message)


def tally(
    plan: Plan,
    writers: Iterable[Writer],
    is_there: Callable[[str], bool] = lambda _: True,
    spoilt: Callable[[str], Verdict | None] = lambda _: None,
) -> Tally:
    """Of what `writers` wrote, in any order."""
    made = Tally(plan, is_there, spoilt)
    told = [(event, writer.alive) for writer in writers for event in writer.events]
    for event, alive in sorted(told, key=lambda pair: pair[0].t_utc_ns):
        made.add(event, alive=alive)
    return made


def _work_left(
    points: Sequence[PointState], measured: Sequence[PointState], t_utc_ns: int
) -> tuple[float | None, str | None]:
    """Seconds and what they rest on. A point takes as long as those like it did, else as the plan expected."""
    left = [point for point in points if point.state in (State.waiting, State.running, State.lost)]
    if not left:
        return 0.0, None
    taken: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for done in measured:
        if done.result is not None and done.result.wall_s is not None:
            for kind in _kinds(done.point):
                taken[kind].append(done.result.wall_s)
    means = {kind: fmean(seconds) for kind, seconds in taken.items()}
    total_s, basis = 0.0, "measured"
    for point in left:
        exact, rough = _kinds(point.point)
        seconds = means.get(exact)
        if seconds is None and point.point.basis == "measured":
            seconds = point.point.wall_s
        if seconds is None:
            seconds = means.get(rough)
        if seconds is None:
            seconds, basis = point.point.wall_s, "predicted"
        if seconds is None:
            return None, None
        if point.running is not None:
            seconds = max(seconds - (t_utc_ns - point.running.t_utc_ns) / 1e9, 0.0)
        total_s += seconds
    return total_s, basis


def _kinds(point: PlannedPoint) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Points of one kind take about as long: those of the same model, GPU and load; else those of the load."""
    return (point.model, point.gpu, point.scenario, point.load), (point.scenario, point.load)
