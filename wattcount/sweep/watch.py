"""What is printed while a sweep is measured: a block that is drawn anew on a terminal, lines elsewhere."""

from __future__ import annotations

import dataclasses
import sys
from functools import partial

from wattcount.config.schema import RunConfig
from wattcount.run.background import Background
from wattcount.sweep import local
from wattcount.sweep.display import LiveSweepDisplay
from wattcount.sweep.lane import Said
from wattcount.sweep.ledger import Event, EventKind, read_tally
from wattcount.sweep.mlflow_log import SweepLog
from wattcount.sweep.plan import Plan, PlanState
from wattcount.sweep.summary import evidence_of, label, result_text
from wattcount.sweep.task import PointResult, event_of


def create(cfg: RunConfig, plan: Plan, logs: SweepLog | None, background: Background) -> local.Watcher:
    """`cfg` is of any of the points. The plan is in the ledger already. What is shown is printed in `background`."""
    return InBackground(shown(cfg, plan), logs, background)


def shown(cfg: RunConfig, plan: Plan) -> Lines | Block:
    """A block that is drawn anew on a terminal, lines elsewhere; `cfg.display.live` decides otherwise."""
    live = sys.stdout.isatty() if cfg.display.live is None else cfg.display.live
    if live:
        return Block(LiveSweepDisplay(read_tally(cfg.records_dir, plan.name), sys.stdout))
    return Lines(len(plan.in_state(PlanState.to_run)))


class InBackground(local.Watcher):
    """Has another watcher told in a thread, so that a terminal that stands still keeps no sweep; keeps `logs` up to date."""

    def __init__(self, shown: local.Watcher, logs: SweepLog | None, background: Background) -> None:
        self._shown = shown
        self._logs = logs
        self._background = background

    def started(self, job: local.Job) -> None:
        self._background.post(partial(self._shown.started, job))

    def said(self, job: local.Job, said: Said) -> None:
        latest = ("progress", job.point.key) if said.text is None else None
        self._background.post(partial(self._shown.said, job, said), replaces=latest)

    def ended(self, job: local.Job, result: PointResult, *, again: bool) -> None:
        self._background.post(partial(self._shown.ended, job, result, again=again))

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


class Lines(local.Watcher):
    """A line or two a point, as it ends."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0

    def started(self, job: local.Job) -> None: ...

    def said(self, job: local.Job, said: Said) -> None:
        if said.text is not None:
            print(f"{label(job.point)}: {said.text}", flush=True)

    def ended(self, job: local.Job, result: PointResult, *, again: bool) -> None:
        if result.elsewhere and again:
            print(f"{label(job.point)}: {result.message}; looked at again at the end", flush=True)
            return
        self._ended += not again
        if result.message:
            tail = f" (try {result.attempt}, to be tried again)" if again else ""
            print(f"wattcount: {label(job.point)}: {result.message}{tail}", file=sys.stderr, flush=True)
        if result.done and not result.measured_before:
            evidence = evidence_of(result.record_path) if result.record_path else None
            figures = f"{result_text(event_of(result))}{f'; {evidence}' if evidence else ''}"
            print(f"[{self._ended}/{self._total}] {label(job.point)}: {figures}")
        if result.measured_before:
            print("already measured (resume=false measures again):")
        if result.record_path:
            print(f"record: {result.record_path}", flush=True)

    def notice(self, text: str) -> None:
        print(f"wattcount: {text}", file=sys.stderr, flush=True)

    def tick(self) -> None: ...

    def close(self) -> None: ...


class Block(local.Watcher):
    """Every lane and the sweep as a whole, live; records and what went wrong stay above it."""

    def __init__(self, display: LiveSweepDisplay) -> None:
        self._display = display
        self._numbers: dict[str, int] = {}
        """Of the lanes at work, by the key of their point."""

    def started(self, job: local.Job) -> None:
        number = next(n for n in range(1, len(self._numbers) + 2) if n not in self._numbers.values())
        self._numbers[job.point.key] = number
        self._display.event(Event(EventKind.started, key=job.point.key, attempt=job.attempt))
        self._display.lane_started(number, job.point)

    def said(self, job: local.Job, said: Said) -> None:
        if said.progress is not None and job.point.key in self._numbers:
            self._display.lane_progress(self._numbers[job.point.key], said.progress)
        if said.text is not None:
            self._display.notice(f"{label(job.point)}: {said.text}")

    def ended(self, job: local.Job, result: PointResult, *, again: bool) -> None:
        del again  # the block shows it as waiting
        self._numbers.pop(job.point.key, None)
        event = event_of(result)
        if result.reason == local.LANE_DIED:
            event = dataclasses.replace(event, kind=EventKind.lost)
        self._display.event(dataclasses.replace(event, key=job.point.key, attempt=job.attempt))
        if result.record_path:
            self._display.record(result.record_path)

    def notice(self, text: str) -> None:
        self._display.notice(text)

    def tick(self) -> None:
        self._display.tick()

    def close(self) -> None:
        self._display.close()
