"""What a person sees while a run goes on, and at its end."""

from __future__ import annotations

import functools
import math
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from wattcount.clock import now_ns
from wattcount.config.schema import (
    ConcurrencyConfig,
    DisplayConfig,
    RunConfig,
    ServerConfig,
)
from wattcount.engines import registry
from wattcount.records.schema import Phase
from wattcount.report.labels import PHASE_NAMES, caveats, headline
from wattcount.report.units import clock
from wattcount.run.orchestrate import Display
from wattcount.run.waiting import Background
from wattcount.scenario.journal import Progress
from wattcount.terminal import PlainConsole
from wattcount.text import WIDTH

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live


def create(config: DisplayConfig, stream: TextIO | None = None) -> Display:
    """A live display on a terminal, plain lines elsewhere; `config.live` decides otherwise."""
    stream = stream or sys.stdout
    live = stream.isatty() if config.live is None else config.live
    return LiveDisplay(stream) if live else PlainDisplay(stream, config.plain_interval_s)


def planned_phases(cfg: RunConfig) -> dict[Phase, float | None]:
    """The phases of a run in order, with their length in seconds; None where only the run will tell."""
    scenario = cfg.scenario
    server = scenario if isinstance(scenario, ServerConfig | ConcurrencyConfig) else None
    # Somebody else's server is there before and after the run.
    bare = registry.plugin(cfg.engine.name).capabilities.owns_process
    plan: dict[Phase, float | None] = {
        Phase.BARE_IDLE: scenario.bare_idle_s if bare else 0.0,
        Phase.ENGINE_START: None,
        Phase.LOADED_IDLE: scenario.loaded_idle_s,
        Phase.REHEARSAL: 0.0 if scenario.rehearsal_requests == 0 else None,
        Phase.WARMUP: server.warmup_s if server is not None and not _adaptive(server) else None,
        Phase.WINDOW: server.window_s if server is not None else None,
        Phase.DRAIN: None if server is not None else 0.0,
        Phase.IDLE_AFTER: scenario.loaded_idle_s,
        Phase.BARE_IDLE_AFTER: scenario.bare_idle_after_s if bare else 0.0,
    }
    return {phase: seconds for phase, seconds in plan.items() if seconds != 0}


def _adaptive(server: ServerConfig | ConcurrencyConfig) -> bool:
    """Whether only the run will tell how long its warm-up is."""
    return 0 < server.warmup_s < server.warmup_limit_s


class InBackground(Display):
    """Shows in a thread of its own what another display shows, so that a terminal that stands still keeps nobody.

    Of several reports of one phase that wait to be shown, only the latest is. `ended` returns once all is shown,
    unless the `background` is given: then its owner waits for it.

    begun  is called, in the caller's thread, when the run begins
    """

    def __init__(
        self,
        display: Display,
        background: Background | None = None,
        *,
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        self._display = display
        self._own = background is None
        self._background = background or Background("display")
        self._begun = begun
        self._phase: Phase | None = None
        self._part = 0
        """Goes up with each phase: no phase is dropped for the next one's reports."""

    def started(self, cfg: RunConfig) -> None:
        self._begun()
        self._background.post(functools.partial(self._display.started, cfg))

    def progress(self, progress: Progress) -> None:
        if progress.phase is not self._phase:
            self._phase, self._part = progress.phase, self._part + 1
        self._background.post(functools.partial(self._display.progress, progress), replaces=self._part)

    def notice(self, text: str) -> None:
        self._background.post(functools.partial(self._display.notice, text))

    def tick(self) -> None:
        self._background.post(self._display.tick, replaces="tick")

    def ended(self, record_path: Path | None) -> None:
        self._background.post(functools.partial(self._display.ended, record_path))
        if self._own:
            self._background.flush()


@dataclass
class _State:
    """What is known of a run, for whichever display."""

    cfg: RunConfig
    started_ns: int
    progress: Progress | None = None
    heard_ns: int = 0

    def phase_elapsed_s(self) -> float:
        if self.progress is None:
            return 0.0
        return self.progress.elapsed_s + (now_ns() - self.heard_ns) / 1e9

    def elapsed_s(self) -> float:
        return (now_ns() - self.started_ns) / 1e9

    def remaining(self) -> str:
        """`1:20`, with a `+` where phases of unknown length are still to come."""
        plan = planned_phases(self.cfg)
        phase = self.progress.phase if self.progress is not None else None
        phases = list(plan)
        at = phases.index(phase) if phase in plan else 0
        known = sum(seconds or 0.0 for seconds in (plan[later] for later in phases[at:]))
        if phase in plan and plan[phase] is not None:
            known -= min(self.phase_elapsed_s(), plan[phase] or 0.0)
        unknown = any(plan[later] is None for later in phases[at:])
        return clock(math.ceil(known - 0.01)) + ("+" if unknown else "")

    def requests(self) -> str | None:
        shown = self.progress
        if shown is None or shown.requests_total is None:
            return None
        failed = f", {shown.requests_failed} failed" if shown.requests_failed else ""
        return f"{shown.requests_done}/{shown.requests_total} requests done, {shown.requests_in_flight} in flight{failed}"

    def rates(self) -> str:
        shown = self.progress
        power = f"{shown.power_w:.0f} W" if shown is not None and shown.power_w is not None else "- W"
        if shown is None or shown.output_tokens_per_s is None:
            return power
        return f"{power}, {shown.output_tokens_per_s:.0f} output tokens/s"


def _phases_in_words(cfg: RunConfig) -> str:
    """`bare idle 0:10, engine start, loaded idle 0:10, ...`: without a time where only the run will tell."""
    return ", ".join(
        f"{PHASE_NAMES[phase]} {clock(seconds)}" if seconds is not None else PHASE_NAMES[phase]
        for phase, seconds in planned_phases(cfg).items()
    )


class PlainDisplay(Display):
    """A line a phase, and one now and then within long ones."""

    def __init__(self, stream: TextIO, interval_s: float) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._state: _State | None = None
        self._phase: Phase | None = None
        self._printed_ns = 0

    def started(self, cfg: RunConfig) -> None:
        self._state = _State(cfg, now_ns())
        self._print(headline(cfg))
        for banner in caveats(cfg.evidence, cfg.model.weights.value):
            self._print(banner)
        for line in textwrap.wrap(
            f"takes {self._state.remaining()}: {_phases_in_words(cfg)}", WIDTH, subsequent_indent="  "
        ):
            self._print(line)

    def progress(self, progress: Progress) -> None:
        state = self._state
        if state is None:
            return
        state.progress, state.heard_ns = progress, now_ns()
        if progress.phase is not self._phase:
            self._phase = progress.phase
            if progress.phase is not None:
                length = f", {progress.planned_s:g} s" if progress.planned_s is not None else ""
                self._line(f"{PHASE_NAMES[progress.phase]}{length}")
        else:
            self._maybe()

    def tick(self) -> None:
        self._maybe()

    def notice(self, text: str) -> None:
        self._line(text)

    def ended(self, record_path: Path | None) -> None:
        if record_path is not None:
            _print_summary(record_path, self._print)

    def _maybe(self) -> None:
        state = self._state
        if state is None or state.progress is None or self._phase is None:
            return
        if now_ns() - self._printed_ns >= self._interval_s * 1e9:
            shown = state.progress
            of = f"/{shown.planned_s:g}" if shown.planned_s is not None else ""
            parts = [
                f"{PHASE_NAMES[self._phase]} {state.phase_elapsed_s():.0f}{of} s",
                state.requests(),
                state.rates(),
            ]
            self._line(", ".join(part for part in parts if part))

    def _line(self, text: str) -> None:
        self._printed_ns = now_ns()
        since = clock(self._state.elapsed_s()) if self._state is not None else "0:00"
        self._print(f"[{since:>7}] {text}")

    def _print(self, text: object) -> None:
        print(text, file=self._stream, flush=True)


class LiveDisplay(Display):
    """A block of lines that is drawn anew once a second. No thread: it is drawn when something is heard."""

    def __init__(self, stream: TextIO) -> None:
        self._console: Console = PlainConsole(file=stream)
        self._live: Live | None = None
        self._state: _State | None = None
        self._lengths: dict[Phase, float] = {}

    def started(self, cfg: RunConfig) -> None:
        from rich.live import Live

        self._state = _State(cfg, now_ns())
        self._live = Live(
            self._render(), console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start(refresh=True)

    def progress(self, progress: Progress) -> None:
        state = self._state
        if state is None:
            return
        before = state.progress
        if before is not None and before.phase is not None and before.phase is not progress.phase:
            self._lengths[before.phase] = state.phase_elapsed_s()
        state.progress, state.heard_ns = progress, now_ns()
        self.tick()

    def tick(self) -> None:
        if self._live is not None:
            self._live.update(self._render(), refresh=True)

    def notice(self, text: str) -> None:
        self._console.print(text)

    def ended(self, record_path: Path | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        if record_path is not None:
            _print_summary(record_path, self._console.print)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        state = self._state
        assert state is not None
        lines: list[RenderableType] = [Text(headline(state.cfg), style="bold")]
        lines += [
            Text(banner, style="bold yellow")
            for banner in caveats(state.cfg.evidence, state.cfg.model.weights.value)
        ]
        lines += self._phases(state)
        if (requests := state.requests()) is not None:
            lines.append(Text(f"  {requests}"))
        lines.append(Text(f"  {state.rates()}"))
        lines.append(Text(f"  {clock(state.elapsed_s())} elapsed, {state.remaining()} to go", style="dim"))
        return Group(*lines)

    def _phases(self, state: _State) -> list[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        current = state.progress.phase if state.progress is not None else None
        table = Table.grid(padding=(0, 2))
        table.add_column(width=19)
        table.add_column(width=28)
        table.add_column()
        for phase, planned_s in planned_phases(state.cfg).items():
            of = f" of {clock(planned_s)}" if planned_s is not None else ""
            if phase is current:
                elapsed_s = state.phase_elapsed_s()
                bar = ProgressBar(
                    total=planned_s,
                    completed=min(elapsed_s, planned_s or 0.0),
                    width=28,
                    pulse=planned_s is None,
                )
                table.add_row(Text(f"> {PHASE_NAMES[phase]}", style="bold"), bar, f"{clock(elapsed_s)}{of}")
            elif phase in self._lengths:
                table.add_row(
                    Text(f"  {PHASE_NAMES[phase]}"), Text("done", style="green"), clock(self._lengths[phase])
                )
            else:
                table.add_row(
                    Text(f"  {PHASE_NAMES[phase]}", style="dim"),
                    "",
                    Text(of.removeprefix(" of "), style="dim"),
                )
        return [table]


def _print_summary(path: Path, write: Callable[[Any], None]) -> None:
    """The table of the run's figures; a record that cannot be read says so itself elsewhere."""
    from wattcount.errors import WattcountError
    from wattcount.records.reader import Record
    from wattcount.report.summary import print_summary
    from wattcount.result import Result

    try:
        print_summary(Result.of(Record.open(path)))
    except (WattcountError, ValueError) as error:
        write(f"no summary: {error}")
