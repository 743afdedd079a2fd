"""What a person sees of a sweep, in 80 columns, also in a pipe: the plan before it starts, what happens, what has become of it.

What happens has the whole screen of a terminal (`Screen`), or a block at its bottom that is drawn anew (`Block`); elsewhere it is
lines (`Lines`).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig
from wattcount.errors import WattcountError
from wattcount.report.labels import PHASE_NAMES
from wattcount.report.units import clock, count, duration, quantity
from wattcount.result import judge
from wattcount.run.waiting import Background
from wattcount.scenario.journal import Progress
from wattcount.study.capacity import EXPLANATION as CAPACITY_EXPLANATION
from wattcount.study.capacity import load_curves
from wattcount.study.capacity import to_lines as capacity_lines
from wattcount.study.pooled import EXPLANATION, pooled, title, to_lines
from wattcount.sweep.lane import Said
from wattcount.sweep.ledger import read_tally
from wattcount.sweep.local import Job, Watcher
from wattcount.sweep.machine import NO_SUCH_GPU
from wattcount.sweep.mlflow_log import SweepLog
from wattcount.sweep.planner import MEASURED, NOT_WHAT
from wattcount.sweep.point import Outcome, Plan, Point, State
from wattcount.sweep.state import Tally
from wattcount.sweep.status import (
    counts_text,
    energy_text,
    evidence_of,
    evidence_text,
    latest_text,
    result_text,
    share_done,
    time_text,
    wrapped,
)
from wattcount.terminal import PlainConsole
from wattcount.text import WIDTH

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

DECLARED_LINES = 3
"""Most lines for the names of a sweep's models, as many for its GPUs and its scenarios."""
SKIPPED_LINES = 12
"""Shared by all groups of skipped points; each has one at least."""
TABLE_RECORDS = 200
"""Most records whose results are shown at the end of a sweep: each takes some milliseconds to read."""


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep that was started.

    outcomes      of the points that were begun, by key
    interrupted   the exit code of an interruption
    records_dir   where it is not the one that `wattcount status` looks into by itself
    """

    plan: Plan
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    interrupted: int | None = None
    dry_run: bool = False
    records_dir: Path | None = None

    def is_done(self, point: Point) -> bool:
        """Whether a point that was to run is measured now."""
        return point.key in self.outcomes and self.outcomes[point.key].state is State.done


def plan_lines(
    plan: Plan, at_once: int | None, repeated: int = 0, records_dir: Path | None = None
) -> Iterator[str]:
    """The plan before it starts.

    at_once       runs at the same time; None: a launcher's to decide
    repeated      points that were declared more than once
    records_dir   where it is not the one that `wattcount status` looks into by itself
    """
    states = Counter(point.state for point in plan.points)
    to_run = plan.in_state(State.waiting)
    yield (
        f"sweep {plan.name}: {count(len(plan.points), 'point')}: {states[State.waiting]:,} to run, "
        f"{states[State.done]:,} done before, {states[State.skipped]:,} skipped"
    )
    if repeated:
        yield f"  {repeated:,} more say the same as one of these and are left out"
    for name in ("model", "gpu", "scenario"):
        values = sorted({getattr(point, name) for point in plan.points})
        head = f"{len(values)}: " if len(values) > 1 else ""
        yield from _some(f"  {name + 's':<10}", head, values, " " * 12, DECLARED_LINES)
    repeats = [point.repeat for point in plan.points]
    if len(set(repeats)) > 1:
        order = (
            "one of every point before the next" if repeats == sorted(repeats) else "in the order declared"
        )
        yield f"  repeats   {len(set(repeats))}, {order}"
    yield from skip_lines(plan, records_dir)
    starts = len({point.session or point.key for point in to_run})
    if starts < len(to_run):
        yield f"  engine    {len(to_run):,} points on {count(starts, 'start')} of it, more where GPUs would be idle"
    if to_run:
        yield from _estimate_lines(to_run, at_once)


@dataclass(frozen=True)
class _Skipped:
    """Points skipped for one reason: of the same models on each of these GPUs."""

    gpus: Sequence[str]
    models: Sequence[str]
    points: int


def skip_lines(plan: Plan, records_dir: Path | None = None) -> Iterator[str]:
    """Skipped points by reason: how many, on which GPUs, some of the models, the arithmetic of one point."""
    skipped = plan.in_state(State.skipped)
    by_reason: defaultdict[str, list[Point]] = defaultdict(list)
    for point in skipped:
        by_reason[point.reason or "skipped"].append(point)
    groups = {reason: _skip_groups(points) for reason, points in by_reason.items()}
    lines = max(1, SKIPPED_LINES // max(1, sum(map(len, groups.values()))))
    all_models = sorted({point.model for point in plan.points})
    for reason, points in sorted(by_reason.items()):
        yield f"  skipped {len(points):,}: {reason}"
        for group in groups[reason]:
            head = f"{', '.join(group.gpus)}: {count(group.points, 'point')} of "
            if group.models == all_models and len(all_models) > 1:
                yield from wrapped("    ", f"{head}all {len(all_models)} models", "      ")
            else:
                head += f"{count(len(group.models), 'model')}: "
                yield from _some("    ", head, group.models, "      ", lines)
        example = points[0]
        yield from wrapped(
            "    ", f"e.g. {example.model} on {example.gpu}: {example.message or ''}", "      "
        )
        if reason == NO_SUCH_GPU:
            yield "    a plan for GPUs that are elsewhere, by data sheets: power=emulated dry_run=true"
    if len(skipped) > len(by_reason):
        # Whole: a command that is wrapped cannot be copied.
        yield f"  each of them, once started: {_status_command(plan, records_dir)}"


def _status_command(plan: Plan, records_dir: Path | None) -> str:
    where = "" if records_dir is None else f" --records-dir {shlex.quote(str(records_dir))}"
    return f"wattcount status {plan.name} --all-points{where}"


def _skip_groups(points: Sequence[Point]) -> list[_Skipped]:
    """GPUs on which the same models are skipped go together."""
    numbers = Counter(point.gpu for point in points)
    models: defaultdict[str, set[str]] = defaultdict(set)
    for point in points:
        models[point.gpu].add(point.model)
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for gpu in sorted(models):
        alike[tuple(sorted(models[gpu]))].append(gpu)
    return [_Skipped(gpus, list(names), sum(numbers[gpu] for gpu in gpus)) for names, gpus in alike.items()]


def _estimate_lines(to_run: Sequence[Point], at_once: int | None) -> Iterator[str]:
    total_s = sum(point.wall_s or 0.0 for point in to_run)
    joules = [point.energy_j for point in to_run if point.energy_j is not None]
    measured = sum(point.basis == MEASURED for point in to_run)
    runs = f"{duration(total_s)} of runs"
    if at_once is not None and at_once > 1:
        runs += f", {duration(total_s / at_once)} with {at_once} at once"
    if measured == len(to_run):
        basis = "by records like them"
    elif measured:
        basis = f"{measured:,} of {len(to_run):,} points by records like them, the rest by data sheets"
    else:
        basis = "no record is like them: by data sheets"
    yield f"  estimate: {runs}, {quantity(sum(joules), 'J', 2)}"
    yield f"            ({basis})"


def result_lines(sweep: SweepResult) -> Iterator[str]:
    """The table of results of all points that are measured, and the command that shows it again; of a big sweep that alone."""
    if sweep.dry_run:
        return
    told = [(point, sweep.outcomes.get(point.key)) for point in sweep.plan.points]
    records = [record for point, outcome in told for record in _records(point, outcome)]
    searches = [outcome.records for _, outcome in told if outcome is not None and outcome.records]
    where = "" if sweep.records_dir is None else f" --records-dir {shlex.quote(str(sweep.records_dir))}"
    command = f"wattcount results {sweep.plan.name}{where}"
    if len(records) > TABLE_RECORDS:
        yield f"results: {command}"
        return
    results = {record: judge(Path(record)) for record in records}
    found = [results[record] for search in searches for record in search if record in results]
    if found:
        yield ""
        yield from capacity_lines(load_curves(found))
        yield from wrapped("", CAPACITY_EXPLANATION, "")
        yield f"again, or as CSV, JSON, Markdown: {command} --capacity"
    others = [results[record] for record in records if not any(record in search for search in searches)]
    if others:
        rows = pooled(others)
        yield ""
        yield from wrapped("", f"results: {title(rows)}", "  ")
        yield from to_lines(rows, WIDTH)
        yield from wrapped("", EXPLANATION, "")
        yield f"again, or as CSV, JSON, Markdown: {command}"


def _records(point: Point, outcome: Outcome | None) -> list[str]:
    """Of a point that was measured to its end, in this start or before, as far as they are there."""
    records: tuple[str, ...] = ()
    if outcome is None:
        records = (point.record,) if point.record is not None and point.state is State.done else ()
    else:
        records = outcome.all_records if outcome.state in (State.done, State.invalid) else ()
    return [record for record in records if Path(record).is_dir()]


def end_lines(sweep: SweepResult) -> Iterator[str]:
    """What is missing at the end, one entry a point, and counts of the rest; nothing where nothing is missing."""
    plan = sweep.plan
    if sweep.dry_run:
        return
    wrong = [point for point in plan.in_state(State.waiting) if not sweep.is_done(point)]
    before, skipped = plan.in_state(State.done), plan.in_state(State.skipped)
    wanted = len(plan.points) - len(skipped)
    if wrong:
        yield f"wattcount: {len(wrong):,} of {wanted:,} points not done:"
    all_overrides = [frozenset(point.overrides) for point in plan.points]
    shared = frozenset.intersection(*all_overrides) if all_overrides else frozenset()
    for point in wrong:
        yield from _problem(_what(point, shared), sweep.outcomes.get(point.key))
    if wrong or skipped:
        yield (
            f"sweep {plan.name}: {wanted - len(wrong):,} done ({len(before):,} before), {len(wrong):,} not done, "
            f"{len(skipped):,} skipped"
        )
    if sweep.interrupted is not None and wrong:
        yield "the same command again goes on with what is missing"
    for reason, points in sorted(Counter(point.reason or "" for point in skipped).items()):
        yield f"  skipped {points:,}: {reason}"


def _problem(what: str, outcome: Outcome | None) -> Iterator[str]:
    if outcome is None:
        yield from wrapped("  ", f"{what}: not begun", "      ")
        return
    state = (
        "not started" if outcome.refused else "failed" if outcome.state is State.lost else outcome.state.value
    )
    yield from wrapped("  ", f"{what}: {state}: {outcome.message}", "      ")
    if outcome.reason is not None and not outcome.refused:
        tries = "1 try" if outcome.attempt == 1 else f"{outcome.attempt} tries"
        yield f"      {outcome.reason}, {tries}"
    if outcome.log_line:
        yield _cut(f"      log: {outcome.log_line}")


def _what(point: Point, shared: Set[str]) -> str:
    """Overrides that tell a point from others of its sweep; those that say what it is, where it is the only one."""
    mine = [text for text in point.overrides if not text.startswith((*NOT_WHAT, "experiment="))]
    return " ".join([text for text in mine if text not in shared] or mine)


def _some(first: str, head: str, names: Sequence[str], rest: str, lines: int) -> list[str]:
    """As many of the names as `lines` hold, one at least, and how many more there are."""
    found: list[str] = []
    for shown in range(len(names), 0, -1):
        more = f" and {len(names) - shown:,} more" if shown < len(names) else ""
        found = wrapped(first, f"{head}{', '.join(names[:shown])}{more}", rest)
        if len(found) <= lines:
            break
    return found


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."


REREAD_S = 5.0
"""Least time between two readings of the ledger of a sweep that others measure [s]: its points take a minute or more."""
REREAD_SHARE = 0.05
"""Most of the time that these readings may take, as a share: thousands of points take some tenths of a second."""
COUNTS_S = 60.0
"""Least time between two lines that say how many points of a cluster's sweep run [s]."""
REDRAW_S = 0.5
"""Least time between two drawings of the block [s]."""
EVIDENCE_S = 30.0
"""Time between two looks at what the figures rest on [s]: each reads records."""
PHASE_WIDTH = 30
"""Characters: `loaded idle after 0:05 of 0:10`."""


def create_watcher(
    cfg: RunConfig, plan: Plan, logs: SweepLog | None, background: Background, *, by_others: bool = False
) -> Watcher:
    """`cfg` is of any of the points. The plan is in the ledger already. What is shown is printed in `background`.

    by_others   the points are measured by processes that are heard of in the ledger alone: jobs of a cluster
    """
    return InBackground(shown(cfg, plan, by_others=by_others), logs, background)


def shown(cfg: RunConfig, plan: Plan, *, by_others: bool = False) -> Lines | Block:
    """The screen of a terminal, lines elsewhere; `cfg.display` decides otherwise."""
    live = sys.stdout.isatty() if cfg.display.live is None else cfg.display.live
    read = partial(read_tally, cfg.records_dir, plan.name)
    if live:
        screen = has_screen(sys.stdout) and cfg.display.screen is not False
        return (Screen if screen else Block)(read(), sys.stdout, read=read if by_others else None)
    return Lines(len(plan.in_state(State.waiting)), read if by_others else None)


Read = Callable[[Sequence[Outcome]], Tally]
"""Reads a sweep's ledger, and takes these outcomes as written there."""


class Ledgered:
    """How a sweep stands that other processes measure: its ledger, read again now and then.

    read    reads it
    now_s   seconds, of any beginning
    """

    def __init__(self, read: Read, now_s: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._now_s = now_s
        self._due_s = now_s() + REREAD_S
        self._told: list[Outcome] = []

    def tell(self, outcome: Outcome) -> None:
        """Takes the outcome of a point that this process has heard of in another way."""
        self._told.append(outcome)

    def again(self, *, now: bool = False) -> Tally | None:
        """The tally; None where it is too early to read it again (unless `now`), or it cannot be read."""
        began_s = self._now_s()
        if began_s < self._due_s and not now:
            return None
        try:
            return self._read(self._told)
        except (WattcountError, OSError):
            return None
        finally:
            ended_s = self._now_s()
            self._due_s = ended_s + max(REREAD_S, (ended_s - began_s) / REREAD_SHARE)


class InBackground(Watcher):
    """Has another watcher told in a thread, so that a terminal that stands still keeps no sweep; keeps `logs` up to date."""

    def __init__(self, shown: Watcher, logs: SweepLog | None, background: Background) -> None:
        self._shown = shown
        self._logs = logs
        self._background = background

    def started(self, job: Job) -> None:
        self._background.post(partial(self._shown.started, job))

    def said(self, job: Job, said: Said) -> None:
        latest = ("progress", job.point.key) if said.text is None else None
        self._background.post(partial(self._shown.said, job, said), replaces=latest)

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        self._background.post(partial(self._shown.ended, job, outcome, again=again))

    def notice(self, text: str) -> None:
        self._background.post(partial(self._shown.notice, text))

    def tick(self) -> None:
        self._background.post(self._shown.tick, replaces="tick")
        if self._logs is not None:
            self._logs.refresh()

    def close(self) -> None:
        """Returns once all is shown."""
        self._background.post(self._shown.close)
        self._background.flush()


class Lines(Watcher):
    """A line or two a point, as it ends.

    read   of the ledger of a sweep that other processes measure: then a line now and then says how many points run
    """

    def __init__(
        self, total: int, read: Read | None = None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._ended = 0
        self._ledger = None if read is None else Ledgered(read, now_s)
        self._now_s = now_s
        self._counts: str | None = None
        self._counts_s = float("-inf")

    def started(self, job: Job) -> None: ...

    def said(self, job: Job, said: Said) -> None:
        if said.text is not None:
            print(_of(job, said.text, alone=self._total == 1), flush=True)

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        label = job.point.label
        if outcome.elsewhere and again:
            print(_elsewhere(job, outcome), flush=True)
            return
        self._ended += not again
        if outcome.message:
            tail = f" (try {outcome.attempt}, to be tried again)" if again else ""
            print(f"wattcount: {label}: {outcome.message}{tail}", file=sys.stderr, flush=True)
        if outcome.before:
            print("already measured (resume=false measures again):")
        elif outcome.state is State.done:
            evidence = evidence_of(outcome.record) if outcome.record else None
            figures = f"{result_text(job.point, outcome)}{f'; {evidence}' if evidence else ''}"
            print(f"[{self._ended}/{self._total}] {label}: {figures}")
        if outcome.record:
            print(f"record: {outcome.record}", flush=True)

    def notice(self, text: str) -> None:
        print(f"wattcount: {text}", file=sys.stderr, flush=True)

    def tick(self) -> None:
        if self._ledger is None or (tally := self._ledger.again()) is None:
            return
        counts = counts_text(tally.state(time.time_ns()))
        if counts != self._counts and self._now_s() - self._counts_s >= COUNTS_S:
            self._counts, self._counts_s = counts, self._now_s()
            print(counts, flush=True)

    def close(self) -> None: ...


def _of(job: Job, text: str, *, alone: bool) -> str:
    """What a point says; `alone`: it is the only one, so that it need not say which."""
    return text if alone else f"{job.point.label}: {text}"


def _elsewhere(job: Job, outcome: Outcome) -> str:
    """The line on a point that another run measures just now."""
    return f"{job.point.label}: {outcome.message}; looked at again at the end"


@dataclass
class Lane:
    """What one lane does.

    begun      `running`, as the tally was told of it
    heard_ns   when it last told its progress (`wattcount.clock`)
    """

    number: int
    point: Point
    begun: Outcome
    started_ns: int
    progress: Progress | None = None
    heard_ns: int = 0

    def phase(self) -> str:
        """`window 0:24 of 1:00`; `starting` before the first report."""
        shown = self.progress
        if shown is None or shown.phase is None:
            return f"{'starting' if shown is None else 'closing'} {clock((now_ns() - self.started_ns) / 1e9)}"
        elapsed_s = shown.elapsed_s + (now_ns() - self.heard_ns) / 1e9
        of = f" of {clock(shown.planned_s)}" if shown.planned_s is not None else ""
        return f"{PHASE_NAMES[shown.phase]} {clock(elapsed_s)}{of}"

    def power(self) -> str:
        watts = self.progress.power_w if self.progress is not None else None
        return "" if watts is None else f"{watts:.0f} W"


LEAST_SCREEN = (60, 16)
"""Columns and lines of a terminal from which on a sweep has its screen: below, a block says as much."""


def has_screen(stream: TextIO) -> bool:
    """Whether a terminal has a second screen, as all but the plainest do, and room on it."""
    if not stream.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    columns, lines = PlainConsole(file=stream).size
    return columns >= LEAST_SCREEN[0] and lines >= LEAST_SCREEN[1]


class Block(Watcher):
    """Every lane and the sweep as a whole, at the bottom of the terminal; records and what went wrong stay above it.

    Not for several threads at once; nothing here waits or has a thread of its own.

    tally   of the sweep up to now (`ledger.read_tally`), earlier starts included; the block adds to it
    read    of the ledger of a sweep that other processes measure: it is read again now and then
    """

    def __init__(
        self,
        tally: Tally,
        stream: TextIO,
        now_s: Callable[[], float] = time.monotonic,
        read: Read | None = None,
        *,
        screen: bool = False,
    ) -> None:
        from rich.live import Live

        self._tally = tally
        self._ledger = None if read is None else Ledgered(read, now_s)
        self._lanes: dict[str, Lane] = {}
        self._now_s = now_s
        self._evidence: str | None = None
        self._evidence_s = self._drawn_s = float("-inf")
        self._state = tally.state(time.time_ns())
        self._console: Console = PlainConsole(file=stream)
        self._live: Live | None = Live(
            self.render(),
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            screen=screen,
        )
        self._live.start(refresh=True)

    def _print(self, text: str, style: str = "", *, whole: bool = False) -> None:
        """`whole`: in one line however long it is, for a path that is wrapped cannot be copied."""
        self._console.print(text, style=style, soft_wrap=whole)

    def started(self, job: Job) -> None:
        taken = {lane.number for lane in self._lanes.values()}
        number = next(number for number in range(1, len(taken) + 2) if number not in taken)
        begun = Outcome(State.running, job.point.key, attempt=job.attempt)
        self._lanes[job.point.key] = Lane(number, job.point, begun, now_ns())
        self._add(begun)

    def said(self, job: Job, said: Said) -> None:
        if said.progress is not None and (lane := self._lanes.get(job.point.key)) is not None:
            lane.progress, lane.heard_ns = said.progress, now_ns()
            self.tick()
        if said.text is not None:
            self.notice(_of(job, said.text, alone=len(self._tally.plan.points) == 1))

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        if (lane := self._lanes.pop(job.point.key, None)) is not None:
            # The tally tells by the process what has ended: it was told that this one had begun it.
            outcome = replace(outcome, host=lane.begun.host, pid=lane.begun.pid)
        self._add(replace(outcome, key=job.point.key, attempt=job.attempt))
        if outcome.elsewhere and again:
            self.notice(_elsewhere(job, outcome))
        elif outcome.state is not State.done:
            how = "not started" if outcome.refused else outcome.state.value
            said = ", ".join(part for part in (how, outcome.reason, outcome.message) if part)
            self._print(f"{job.point.label}: {' '.join(said.split())}", "red")
        elif outcome.record:
            said = "measured before" if outcome.before else result_text(job.point, outcome)
            self.notice(f"{job.point.label}: {said}")
        if outcome.record:
            self._print(f"record: {outcome.record}", whole=True)

    def notice(self, text: str) -> None:
        self._print(text)

    def tick(self) -> None:
        self._read_again()
        if self._live is not None and self._now_s() - self._drawn_s >= REDRAW_S:
            self._drawn_s = self._now_s()
            self._live.update(self.render(), refresh=True)

    def close(self) -> None:
        if self._live is None:
            return
        self._read_again(now=True)
        self._live.stop()
        self._live = None
        for line in self._overall():
            self._console.print(line)

    def _read_again(self, *, now: bool = False) -> None:
        if self._ledger is not None and (tally := self._ledger.again(now=now)) is not None:
            self._tally = tally
            self._state = tally.state(time.time_ns())

    def _add(self, outcome: Outcome) -> None:
        if self._ledger is not None:
            self._ledger.tell(outcome)
        self._tally.add(outcome)
        self._state = self._tally.state(time.time_ns())
        if self._evidence is None or self._now_s() - self._evidence_s > EVIDENCE_S:
            self._evidence, self._evidence_s = evidence_text(self._state), self._now_s()
        self.tick()

    def _overall(self) -> list[str]:
        """What is said of the sweep as a whole."""
        state = self._state
        lines = [
            f"{count(len(state.plan.points), 'point')}: {counts_text(state)}",
            f"time left: {time_text(state)}; energy so far: {energy_text(state)}",
        ]
        if (latest := latest_text(state)) is not None:
            lines.append(f"latest: {latest}")
        return lines

    def render(self) -> RenderableType:
        from rich.console import Group

        head = self._head()
        # As many as fit: a block that is higher than the terminal cannot be drawn anew.
        return Group(*head, *self._running(max(self._console.size.height - self._height(head) - 2, 1)))

    def _height(self, lines: Iterable[RenderableType]) -> int:
        return sum(len(self._console.render_lines(line)) for line in lines)

    def _head(self) -> list[RenderableType]:
        """The sweep as a whole."""
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        state = self._state
        overall = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=1.0, completed=share_done(state), width=40)
        overall.add_row(Text(state.name, style="bold"), bar, f"{100 * share_done(state):.1f} %")
        lines: list[RenderableType] = [overall]
        lines += [Padding(line, (0, 0, 0, 2)) for line in self._overall()]
        if self._evidence is not None:
            lines.append(Text(f"  figures are: {self._evidence}", style="yellow"))
        return lines

    def _running(self, room: int) -> list[RenderableType]:
        """What is measured, in as many lines at most, and one that says how many more there are."""
        from rich.table import Table
        from rich.text import Text

        state = self._state
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=3)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, width=PHASE_WIDTH)
        table.add_column(no_wrap=True, justify="right", width=6)
        rows = [
            (f"{lane.number:>3}", lane.point.label, lane.phase(), lane.power())
            for lane in sorted(self._lanes.values(), key=lambda lane: lane.number)
        ]
        rows += [
            (
                f"{number:>3}",
                point.label,
                f"{clock((time.time_ns() - begun.t_utc_ns) / 1e9)} on {begun.host}",
                "",
            )
            for number, (point, begun) in enumerate(state.running, 1)
            if self._ledger is not None
        ]
        for row in rows[:room]:
            table.add_row(*row)
        more = [Text(f"  and {len(rows) - room} more that run", style="dim")] * (len(rows) > room)
        return [table, *more]


KEPT_LINES = 2000
"""Lines that a screen keeps to print them when it is left: what happened last."""
LEAVE, ENTER = b"\x1b[?1049l\x1b[?25h", b"\x1b[?1049h\x1b[?25l"
"""What leaves a terminal's second screen and shows its cursor, and what enters it again (xterm's control sequences)."""


class Screen(Block):
    """The same on the whole screen: what is measured, and what happened last as far as there is room.

    When it ends, however it does, the terminal is as it was before, and below what was there stands all that happened. Ctrl-Z gives
    the terminal back for as long as the sweep stands still.
    """

    def __init__(
        self,
        tally: Tally,
        stream: TextIO,
        now_s: Callable[[], float] = time.monotonic,
        read: Read | None = None,
    ) -> None:
        self._happened: deque[tuple[str, str, bool]] = deque(maxlen=KEPT_LINES)
        self._stream = stream
        super().__init__(tally, stream, now_s, read, screen=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTSTP, self._suspended)

    def _print(self, text: str, style: str = "", *, whole: bool = False) -> None:
        if self._live is None:
            super()._print(text, style, whole=whole)
        else:
            self._happened.append((text, style, whole))

    def close(self) -> None:
        if self._live is None:
            return
        self._read_again(now=True)
        self._live.stop()
        self._live = None
        for text, style, whole in self._happened:
            self._print(text, style, whole=whole)
        self._happened.clear()
        for line in self._overall():
            self._console.print(line)

    def render(self) -> RenderableType:
        from rich.console import Group
        from rich.rule import Rule
        from rich.text import Text

        head, height = self._head(), self._console.size.height
        running = self._running(max((height - self._height(head)) // 2 - 2, 1))
        room = height - self._height([*head, *running]) - 3
        # Paths are for copying, which is done when it has ended.
        told = [Text(text, style) for text, style, whole in self._happened if not whole]
        shown: list[RenderableType] = []
        for line in reversed(told):
            if (room := room - self._height([line])) < 0:
                break
            shown.insert(0, line)
        keys = Text("Ctrl-C ends it, and the same command goes on with what is missing", style="dim")
        return Group(*head, Rule(style="dim"), *running, Rule(style="dim"), *shown, keys)

    def _suspended(self, number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            if self._live is not None:
                os.write(self._stream.fileno(), LEAVE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # From here on when it goes on.
        signal.signal(number, self._suspended)
        with contextlib.suppress(OSError, ValueError):
            if self._live is not None:
                os.write(self._stream.fileno(), ENTER)
