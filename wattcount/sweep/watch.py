"""What is printed while a sweep is measured: a block that is drawn anew on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TextIO

from wattcount.clock import now_ns
from wattcount.config.schema import RunConfig
from wattcount.report.labels import PHASE_NAMES
from wattcount.report.units import clock, count
from wattcount.run.background import Background
from wattcount.scenario.journal import Progress
from wattcount.sweep.columns import evidence_of, result_text
from wattcount.sweep.lane import Said
from wattcount.sweep.ledger import read_tally
from wattcount.sweep.mlflow_log import SweepLog
from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.plan import Plan, Point
from wattcount.sweep.state import Tally
from wattcount.sweep.status import (
    counts_text,
    energy_text,
    evidence_text,
    latest_text,
    share_done,
    time_text,
)
from wattcount.sweep.tries import Job, Watcher
from wattcount.terminal import PlainConsole

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REDRAW_S = 0.5
"""Least time between two drawings of the block [s]."""
EVIDENCE_S = 30.0
"""Time between two looks at what the figures rest on [s]: each reads records."""
PHASE_WIDTH = 30
"""Characters: `loaded idle after 0:05 of 0:10`."""


def create(cfg: RunConfig, plan: Plan, logs: SweepLog | None, background: Background) -> Watcher:
    """`cfg` is of any of the points. The plan is in the ledger already. What is shown is printed in `background`."""
    return InBackground(shown(cfg, plan), logs, background)


def shown(cfg: RunConfig, plan: Plan) -> Lines | Block:
    """A block that is drawn anew on a terminal, lines elsewhere; `cfg.display.live` decides otherwise."""
    live = sys.stdout.isatty() if cfg.display.live is None else cfg.display.live
    if live:
        return Block(read_tally(cfg.records_dir, plan.name), sys.stdout)
    return Lines(len(plan.in_state(State.waiting)))


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
    """A line or two a point, as it ends."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0

    def started(self, job: Job) -> None: ...

    def said(self, job: Job, said: Said) -> None:
        if said.text is not None:
            print(f"{job.point.label}: {said.text}", flush=True)

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        label = job.point.label
        if outcome.elsewhere and again:
            print(f"{label}: {outcome.message}; looked at again at the end", flush=True)
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

    def tick(self) -> None: ...

    def close(self) -> None: ...


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


class Block(Watcher):
    """Every lane and the sweep as a whole, at the bottom of the terminal; records and what went wrong stay above it.

    Not for several threads at once; nothing here waits or has a thread of its own.

    tally   of the sweep up to now (`ledger.read_tally`), earlier starts included; the block adds to it
    """

    def __init__(self, tally: Tally, stream: TextIO, now_s: Callable[[], float] = time.monotonic) -> None:
        from rich.live import Live

        self._tally = tally
        self._lanes: dict[str, Lane] = {}
        self._now_s = now_s
        self._evidence: str | None = None
        self._evidence_s = self._drawn_s = float("-inf")
        self._state = tally.state(time.time_ns())
        self._console: Console = PlainConsole(file=stream)
        self._live: Live | None = Live(
            self.render(), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)

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
            self.notice(f"{job.point.label}: {said.text}")

    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        del again  # the block shows it as waiting
        if (lane := self._lanes.pop(job.point.key, None)) is not None:
            # The tally tells by the process what has ended: it was told that this one had begun it.
            outcome = replace(outcome, host=lane.begun.host, pid=lane.begun.pid)
        self._add(replace(outcome, key=job.point.key, attempt=job.attempt))
        if outcome.state is not State.done:
            how = "not started" if outcome.refused else outcome.state.value
            said = ", ".join(part for part in (how, outcome.reason, outcome.message) if part)
            self._console.print(f"{job.point.label}: {' '.join(said.split())}", style="red")
        if outcome.record:
            # In one line: a path that is wrapped cannot be copied.
            self._console.print(f"record: {outcome.record}", soft_wrap=True)

    def notice(self, text: str) -> None:
        self._console.print(text)

    def tick(self) -> None:
        if self._live is not None and self._now_s() - self._drawn_s >= REDRAW_S:
            self._drawn_s = self._now_s()
            self._live.update(self.render(), refresh=True)

    def close(self) -> None:
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        for line in self._overall():
            self._console.print(line)

    def _add(self, outcome: Outcome) -> None:
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
        # As many as fit: a block that is higher than the terminal cannot be drawn anew.
        taken = sum(len(self._console.render_lines(line)) for line in lines)
        room = max(self._console.size.height - taken - 2, 1)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(width=3)
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, width=PHASE_WIDTH)
        table.add_column(no_wrap=True, justify="right", width=6)
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.number)[:room]:
            table.add_row(f"{lane.number:>3}", lane.point.label, lane.phase(), lane.power())
        lines.append(table)
        if len(self._lanes) > room:
            lines.append(Text(f"  and {len(self._lanes) - room} more lanes", style="dim"))
        return Group(*lines)
