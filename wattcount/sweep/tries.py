"""The points that a sweep still has to measure: which are tried again, and when the sweep stops by itself."""

from __future__ import annotations

import errno
import os
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from wattcount.config.schema import RunConfig, SweepConfig
from wattcount.records.writer import UNWRITABLE
from wattcount.run.orchestrate import NOT_LAUNCHED
from wattcount.run.signals import Signals
from wattcount.sweep.lane import Said
from wattcount.sweep.outcome import CANCELLED, NOT_STARTED, Outcome, State
from wattcount.sweep.plan import Point

START_REASONS = ("engine_start_failed", "setup_failed", "worker_died", "lane_died", "job_lost", NOT_STARTED)
"""Reasons that the machine's installation can have. A model that is too large or unsupported is one point's own."""
_HOST_ERRORS = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE)
)
"""What the system says when a disk or the process table is full: an engine, too, may be told so."""


@dataclass(frozen=True)
class Job:
    """One point to measure, with the GPUs of this machine that it may use (none: emulated for it)."""

    point: Point
    cfg: RunConfig
    gpus: tuple[str, ...] = ()
    attempt: int = 1
    wait_for_others: bool = False


class Watcher(Protocol):
    """Is told how a sweep goes on, to show it. Its calls must not block: the sweep makes them in its loop."""

    def started(self, job: Job) -> None: ...
    def said(self, job: Job, said: Said) -> None: ...
    def ended(self, job: Job, outcome: Outcome, *, again: bool) -> None:
        """`again`: it will be tried once more."""

    def notice(self, text: str) -> None:
        """A line for a person, about the sweep."""

    def tick(self) -> None:
        """Called about once a second."""

    def close(self) -> None:
        """The sweep has ended."""


class Halt:
    """Says when a sweep is to stop, because what goes wrong is not its points' fault: each further one would fail too.

    same_failures  so many different points that fail alike before any is measured end the sweep; None: never
    here           the points are measured on this machine: what it lacks, all of them lack
    """

    def __init__(self, same_failures: int | None, *, here: bool) -> None:
        self._limit = same_failures
        self._here = here
        self._measured = False
        self._alike: set[str] = set()
        self._last: tuple[str | None, str | None] | None = None
        self.why: str | None = None
        """A line for a person; None: the sweep goes on."""

    def is_of_host(self, outcome: Outcome) -> bool:
        """Whether the machine, not the point, is what failed: this is no try of the point."""
        if outcome.ran:
            return False
        if outcome.reason == UNWRITABLE:
            return True
        message = outcome.message or ""
        return self._here and (
            outcome.reason == NOT_LAUNCHED or any(text in message for text in _HOST_ERRORS)
        )

    def note(self, key: str, outcome: Outcome) -> None:
        """To be called with the outcome of every try."""
        if self.why is not None:
            return
        if self.is_of_host(outcome):
            self.why = f"{outcome.message}: the sweep stops here, for every point would fail like this"
            return
        if outcome.ran:
            self._measured = self._measured or not outcome.before
            return
        if self._measured or self._limit is None or outcome.elsewhere:
            return
        alike = (outcome.reason, outcome.message if outcome.reason == NOT_STARTED else None)
        if outcome.reason not in START_REASONS or alike != self._last:
            self._alike.clear()
        self._last = alike
        if outcome.reason in START_REASONS:
            self._alike.add(key)
        if len(self._alike) >= self._limit:
            self.why = (
                f"the first {len(self._alike)} points all failed with {outcome.reason}, and none was measured: the sweep "
                "stops here; mend what their messages name (`wattcount doctor` may know), or set "
                "sweep.stop_after_same_failures=null to try every point"
            )


class Tries:
    """The points that are still to be measured, and what became of the others.

    queue     to be measured now, in their order
    outcomes  latest outcome of each point that was begun, by key
    signals   that the sweep got: then no further point is begun
    """

    def __init__(self, options: SweepConfig, watcher: Watcher, *, here: bool) -> None:
        self.queue: deque[Job] = deque()
        self.outcomes: dict[str, Outcome] = {}
        self.signals = Signals()
        self._options = options
        self._watcher = watcher
        self._halt = Halt(options.stop_after_same_failures, here=here)
        self._elsewhere: list[Job] = []

    @property
    def goes_on(self) -> bool:
        """Whether further points are to be begun."""
        return not self.signals and self._halt.why is None

    def look_again(self) -> None:
        """Queues the points that other runs were measuring, once nothing else is left to do."""
        if not self.queue:
            self.queue.extend(replace(job, wait_for_others=True) for job in self._elsewhere)
            self._elsewhere.clear()

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Keeps what became of a try, queues the next one of the point, and tells the watcher."""
        self.outcomes[job.point.key] = outcome
        stopped_before = self._halt.why is not None
        self._halt.note(job.point.key, outcome)
        again = False
        if outcome.elsewhere and not job.wait_for_others:
            self._elsewhere.append(job)
            again = self._halt.why is None
        elif self.goes_on and job.attempt < self._options.attempts and self._is_worth_a_try(outcome):
            self.queue.append(replace(job, attempt=job.attempt + 1))
            again = True
        self._watcher.ended(job, outcome, again=again)
        if self._halt.why is not None and not stopped_before:
            self._watcher.notice(self._halt.why)

    def _is_worth_a_try(self, outcome: Outcome) -> bool:
        if outcome.ran:
            return outcome.state is State.invalid and self._options.retry_invalid
        return outcome.reason not in (NOT_STARTED, CANCELLED) and not outcome.elsewhere
