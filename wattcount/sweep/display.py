"""What a person sees while a sweep goes on: fed by the ledger's events and by what each lane reports."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from wattcount.clock import now_ns
from wattcount.config.schema import DisplayConfig
from wattcount.run.display import PHASE_NAMES, clock
from wattcount.scenario.journal import Progress
from wattcount.sweep.events import Event, EventKind
from wattcount.sweep.plan import PlannedPoint
from wattcount.sweep.state import State, SweepState, Tally
from wattcount.sweep.summary import (
    counts_line,
    energy_line,
    evidence_line,
    label,
    latest_line,
    result_text,
    share_done,
    time_line,
)
from wattcount.terminal import PlainConsole

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REDRAW_S = 0.5
PHASE_WIDTH = 30
"""Characters: `loaded idle after 0:05 of 0:10`."""
QUIET_FACTOR = 10
"""Plain lines on lanes come this much more rarely than those of a single run."""
EVIDENCE_S = 30.0

_RESULTS = (EventKind.done, EventKind.measured_before)
_WRONG = (EventKind.failed, EventKind.invalid, EventKind.not_started, EventKind.lost)


def create(config: DisplayConfig, tally: Tally, stream: TextIO | None = None) -> SweepDisplay:
    """A live block on a terminal, plain lines elsewhere; `config.live` decides otherwise.

    tally  of the sweep up to now (`ledger.read_tally`), earlier starts included; the display adds to it
    """
    stream = stream or sys.stdout
    live = stream.isatty() if config.live is None else config.live
    if live:
        return LiveSweepDisplay(tally, stream)
    return PlainSweepDisplay(tally, stream, config.plain_interval_s * QUIET_FACTOR)


@dataclass
class Lane:
    """What one lane does."""

    point: PlannedPoint
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


class SweepDisplay:
    """Follows a sweep. Not for several threads at once; nothing here waits or has a thread of its own.

    ::

        lane_started -- lane_progress* -- event(done, failed, ...)     of each lane, again and again
        tick                                                           when nothing was heard for a while
        close
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._lanes: dict[int, Lane] = {}
        self._planned: dict[str, PlannedPoint] = {point.key: point for point in tally.plan.points}
        self._evidence: str | None = None
        self._evidence_s = float("-inf")
        self._state = tally.state(time.time_ns())

    def lane_started(self, lane: int, point: PlannedPoint) -> None:
        self._lanes[lane] = Lane(point, now_ns())
        self.tick()

    def lane_progress(self, lane: int, progress: Progress) -> None:
        if (known := self._lanes.get(lane)) is None:
            return
        known.progress, known.heard_ns = progress, now_ns()
        self.tick()

    def event(self, event: Event) -> None:
        """An event of the ledger, of whichever process."""
        self._tally.add(event)
        if event.kind in _RESULTS or event.kind in _WRONG:
            for lane in [number for number, known in self._lanes.items() if known.point.key == event.key]:
                del self._lanes[lane]
        self.sweep(self._tally.state(time.time_ns()))
        self._on_event(event)

    def sweep(self, state: SweepState) -> None:
        """How the sweep stands, as read from the ledger: for sweeps whose points are measured on other hosts."""
        self._state = state
        if time.monotonic() - self._evidence_s > EVIDENCE_S or self._evidence is None:
            self._evidence, self._evidence_s = evidence_line(state), time.monotonic()
        self.tick()

    def notice(self, text: str) -> None:
        """A line for a person."""
        raise NotImplementedError

    def tick(self) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The sweep has ended, however; may be called more than once."""

    def _on_event(self, event: Event) -> None:
        """The state is that after the event."""

    def _told(self, event: Event) -> str | None:
        """A result or a failure in a line; None for other events."""
        point = self._planned.get(event.key or "")
        if point is None:
            return None
        if event.kind in _RESULTS:
            what = "measured before" if event.kind is EventKind.measured_before else result_text(event)
            return f"{label(point)}: {what}"
        if event.kind in _WRONG:
            said = [event.kind.value.replace("_", " "), event.reason, event.message]
            return f"{label(point)}: {' '.join(', '.join(part for part in said if part).split())}"
        return None

    def _overall(self) -> list[str]:
        """What is said of the sweep as a whole."""
        state = self._state
        lines = [
            counts_line(state),
            f"time left: {time_line(state)}; energy so far: {energy_line(state)}",
        ]
        if (latest := latest_line(state)) is not None:
            lines.append(f"latest: {latest}")
        return lines


class PlainSweepDisplay(SweepDisplay):
    """A line when a point is begun and when it has ended; where a run is long, one now and then for each lane."""

    def __init__(self, tally: Tally, stream: TextIO, interval_s: float) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._began_ns = self._printed_ns = now_ns()
        self._told_evidence: str | None = None
        super().__init__(tally)

    def notice(self, text: str) -> None:
        self._line(text)

    def tick(self) -> None:
        if self._lanes and now_ns() - self._printed_ns >= self._interval_s * 1e9:
            for number, lane in sorted(self._lanes.items()):
                parts = [label(lane.point), lane.phase(), lane.power()]
                self._line(f"lane {number}: {', '.join(part for part in parts if part)}")

    def close(self) -> None:
        if self._began_ns:
            for line in self._overall():
                self._line(line)
            self._began_ns = 0

    def lane_started(self, lane: int, point: PlannedPoint) -> None:
        super().lane_started(lane, point)
        self._line(f"lane {lane}: {label(point)}")

    def _on_event(self, event: Event) -> None:
        if (told := self._told(event)) is None:
            return
        self._line(told)
        if self._evidence != self._told_evidence:
            self._told_evidence = self._evidence
            self._line(f"figures are: {self._evidence}")
        counts = self._state.counts
        wrong = counts[State.failed] + counts[State.invalid] + counts[State.lost]
        self._line(
            f"{counts[State.done]} of {len(self._state.points) - counts[State.skipped]} done, {wrong} failed; "
            f"time left: {time_line(self._state)}"
        )

    def _line(self, text: str) -> None:
        self._printed_ns = now_ns()
        since = clock((now_ns() - self._began_ns) / 1e9)
        print(f"[{since:>7}] {text}", file=self._stream, flush=True)


class LiveSweepDisplay(SweepDisplay):
    """A block of lines at the bottom of the terminal; failures and notices go above it and stay."""

    def __init__(self, tally: Tally, stream: TextIO) -> None:
        from rich.live import Live

        super().__init__(tally)
        self._console: Console = PlainConsole(file=stream)
        self._drawn_s = 0.0
        self._live: Live | None = Live(
            self._render(), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)

    def notice(self, text: str) -> None:
        self._console.print(text)

    def record(self, path: str) -> None:
        """Where a record is, in one line: a path that is wrapped cannot be copied."""
        self._console.print(f"record: {path}", soft_wrap=True)

    def tick(self) -> None:
        if self._live is not None and time.monotonic() - self._drawn_s >= REDRAW_S:
            self._drawn_s = time.monotonic()
            self._live.update(self._render(), refresh=True)

    def close(self) -> None:
        if self._live is None:
            return
        self._live.stop()
        self._live = None
        for line in self._overall():
            self._console.print(line)

    def _on_event(self, event: Event) -> None:
        if event.kind in _WRONG and (told := self._told(event)) is not None:
            self._console.print(told, style="red")

    def _render(self) -> RenderableType:
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
        for number, lane in sorted(self._lanes.items())[:room]:
            table.add_row(f"{number:>3}", label(lane.point), lane.phase(), lane.power())
        lines.append(table)
        if len(self._lanes) > room:
            lines.append(Text(f"  and {len(self._lanes) - room} more lanes", style="dim"))
        return Group(*lines)
