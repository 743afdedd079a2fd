"""A sweep's points on this machine: as many at once as there are free GPUs, in lanes.

    queue of points --> [first for whose GPUs there is room] --> lane (`lane`), one process each, kept over points
          ^                                                        |
          '-- tried again: failed, or the lane died (`lost`) <-----'--> outcome

A point that finds too few free GPUs keeps those that it could use from the points behind it, so that the order
holds and one that needs two is not passed for ever. A GPU that another sweep or program uses is passed over while
there is another one; a run that gets none waits for it itself.

Points of one session (`Point.session`) go to one lane, one after the other, as long as nothing else comes before them in the
queue: the lane keeps the engine for the next one. A GPU that would have nothing else to do takes a share of them.

`Tries` has the points that are still to be measured, here or on a cluster (`cluster`): which are tried again, and when the sweep
stops by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Protocol

from wattcount.config.loader import to_json
from wattcount.config.schema import RunConfig, SweepConfig
from wattcount.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TERMINATED
from wattcount.records.writer import UNWRITABLE
from wattcount.run.claims import is_free
from wattcount.run.orchestrate import NOT_LAUNCHED
from wattcount.run.waiting import Signals
from wattcount.sweep.lane import Said, Task
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import CANCELLED, NOT_STARTED, Outcome, Point, State, failed

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
        """Takes the outcome of a try; is called for every one."""
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


LANE_DIED = "lane_died"
"""Reason of a point whose lane ended without an outcome."""
TICK_S = 1.0
"""Time between two looks at lanes that do not report [s]."""
EXIT_LIMIT_S = 120.0
"""Most time from an interruption to the end of a lane [s]: its run closes its record, which may take 90 s."""

KILL_LIMIT_S = 10.0
"""Most time from the kill of a lane to its end [s]."""


class ChildLane:
    """A lane as its sweep sees it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        with theirs:
            command = [
                sys.executable,
                "-m",
                "wattcount.sweep.lane",
                str(theirs.fileno()),
                str(os.getpid()),
            ]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True
            )

    @property
    def connection(self) -> Connection:
        """Readable when it has said something, or died."""
        return self._connection

    @property
    def pid(self) -> int:
        return self._process.pid

    def give(self, task: Task | None) -> None:
        """None ends the session that it keeps. A lane that has died says so when it is listened to."""
        with contextlib.suppress(OSError):
            self._connection.send(task)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def close(self, limit_s: float = EXIT_LIMIT_S) -> int:
        """Hangs up, waits for its end, and returns its exit code (minus the signal that killed it)."""
        self._connection.close()
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        try:
            return self._process.wait(KILL_LIMIT_S)
        except subprocess.TimeoutExpired:  # it waits in the kernel: for a device, or a disk
            return -signal.SIGKILL


@dataclass
class _Busy:
    job: Job
    gpus: tuple[str, ...]


class Lanes:
    """Runs jobs until all are done, or the person has had enough.

    sweep, ledger   whose points they are
    options         how often a point is tried, and when the sweep stops by itself
    limit           lanes at once
    """

    def __init__(
        self, sweep: str, ledger: Ledger, watcher: Watcher, options: SweepConfig, *, limit: int
    ) -> None:
        self._sweep = sweep
        self._ledger = ledger
        self._watcher = watcher
        self._limit = limit
        self._tries = Tries(options, watcher, here=True)
        self._all_gpus: set[str] = set()
        self._lanes: dict[ChildLane, _Busy | None] = {}
        self._kept: dict[ChildLane, _Busy] = {}
        """Lanes that keep an engine after this job, until `_place` has decided on it."""
        self._before: dict[str, dict[str, float]] = {}
        self._signals_passed = 0

    def run(self, jobs: Sequence[Job]) -> tuple[dict[str, Outcome], int | None]:
        """Outcomes by key, and the exit code of an interruption. Points that were never begun have none."""
        self._tries.queue.extend(jobs)
        self._all_gpus = {uuid for job in jobs for uuid in job.gpus}
        try:
            with self._tries.signals.watching():
                self._loop()
        finally:
            for lane in self._lanes:
                lane.close()
        return self._tries.outcomes, self._tries.signals.exit_code

    def _loop(self) -> None:
        while True:
            self._pass_signals_on()
            if not self._running():
                self._tries.look_again()
            self._place()
            if not self._running():
                return
            connections = {lane.connection: lane for lane, busy in self._lanes.items() if busy is not None}
            for ready in wait(list(connections), TICK_S):
                assert isinstance(ready, Connection)
                self._listen(connections[ready])
            self._ledger.beat()
            self._watcher.tick()

    def _running(self) -> list[ChildLane]:
        return [lane for lane, busy in self._lanes.items() if busy is not None]

    # --- placing --------------------------------------------------------------------------------

    def _place(self) -> None:
        """Gives points to lanes in their order, as far as there are GPUs and lanes for them."""
        for lane, busy in self._kept.items():
            job = self._next(busy)
            if job is None:
                lane.give(None)
            else:
                self._tries.queue.remove(job)
                self._give(job, busy.gpus, lane)
        self._kept.clear()
        self._fill(share=False)
        self._fill(share=True)

    def _next(self, busy: _Busy) -> Job | None:
        """The point that goes on with the engine of `busy`; None: another one comes before it."""
        others = self._sessions() - {busy.job.point.session}
        for job in self._tries.queue if self._tries.goes_on else ():
            if job.point.session == busy.job.point.session:
                return job if job.point.session is not None else None
            if job.point.session not in others and (not job.gpus or set(job.gpus) & set(busy.gpus)):
                return None
        return None

    def _sessions(self) -> set[str | None]:
        """Sessions of the points that are being measured."""
        return {busy.job.point.session for busy in self._lanes.values() if busy is not None} - {None}

    def _fill(self, *, share: bool) -> None:
        """`share`: points of sessions that are under way in another lane, too."""
        taken = {uuid for busy in self._lanes.values() if busy is not None for uuid in busy.gpus}
        kept: set[str] = set()
        waiting: deque[Job] = deque()
        while self._tries.queue and len(self._running()) < self._limit and self._tries.goes_on:
            job = self._tries.queue.popleft()
            free = [uuid for uuid in job.gpus if uuid not in taken and uuid not in kept]
            idle = [uuid for uuid in free if is_free(uuid)]
            if not share and job.point.session in self._sessions():
                waiting.append(job)
            elif not job.gpus:
                self._give(job, ())
            elif len(idle) >= job.cfg.gpu.count:
                chosen = tuple(idle[: job.cfg.gpu.count])
                self._give(job, chosen)
                taken.update(chosen)
            elif not self._running() and len(free) >= job.cfg.gpu.count:
                self._give(job, tuple(free[: job.cfg.gpu.count]))  # and waits for them
                taken.update(job.gpus)
            else:
                waiting.append(job)
                kept.update(job.gpus)
                if kept | taken >= self._all_gpus:
                    break
        self._tries.queue.extendleft(reversed(waiting))

    def _give(self, job: Job, gpus: tuple[str, ...], lane: ChildLane | None = None) -> None:
        """`lane`: that keeps its engine; else one that has nothing to do, or a new one."""
        if lane is None:
            lane = next((lane for lane, busy in self._lanes.items() if busy is None), None)
        if lane is None:
            try:
                lane = ChildLane()
            except OSError as error:  # no memory, no more processes, too many open files
                self._watcher.started(job)
                message = f"cannot start a process to measure with: {error.strerror}"
                self._ended(job, failed(NOT_LAUNCHED, message, key=job.point.key, attempt=job.attempt))
                return
        self._lanes[lane] = _Busy(job, gpus)
        self._watcher.started(job)
        lane.give(
            Task(
                config=to_json(job.cfg),
                key=job.point.key,
                sweep=self._sweep,
                attempt=job.attempt,
                gpus=gpus,
                wait_for_others=job.wait_for_others,
                before=dict(self._before),
                session=job.point.session,
                last=self._next(_Busy(job, gpus)) is None,
            )
        )

    # --- listening ------------------------------------------------------------------------------

    def _listen(self, lane: ChildLane) -> None:
        """Takes all that a lane has said."""
        busy = self._lanes[lane]
        assert busy is not None
        while True:
            try:
                message = lane.connection.recv()
            except (EOFError, OSError):
                self._lost(lane, busy.job)
                return
            if isinstance(message, Outcome):
                self._lanes[lane] = None
                if busy.job.point.session is not None:
                    self._kept[lane] = busy
                self._ended(busy.job, message)
                return
            assert isinstance(message, Said)
            self._before = message.before | self._before
            self._watcher.said(busy.job, message)
            if not lane.connection.poll():
                return

    def _lost(self, lane: ChildLane, job: Job) -> None:
        pid = lane.pid
        del self._lanes[lane]
        status = lane.close()
        how = (
            f"by {signal.Signals(-status).name}"
            if -status in set(signal.Signals)
            else f"with exit code {status}"
        )
        code = self._tries.signals.exit_code
        outcome = Outcome(
            State.lost,
            job.point.key,
            attempt=job.attempt,
            exit_code=EXIT_FAILED if code is None else code,
            reason=LANE_DIED,
            message=f"the process that measured it ended {how}",
            pid=pid,
        )
        self._ledger.append(outcome)
        self._ended(job, outcome)

    def _ended(self, job: Job, outcome: Outcome) -> None:
        if outcome.exit_code in (EXIT_INTERRUPTED, EXIT_TERMINATED) and not self._tries.signals:
            # The run was told to end by someone else: so are its like.
            number = signal.SIGINT if outcome.exit_code == EXIT_INTERRUPTED else signal.SIGTERM
            self._tries.signals.append(number)
        self._tries.ended(job, outcome)

    # --- ending ---------------------------------------------------------------------------------

    def _pass_signals_on(self) -> None:
        """Every lane's run gets each signal: the first asks it to close its record, the second kills it."""
        while self._signals_passed < len(self._tries.signals):
            number = self._tries.signals[self._signals_passed]
            self._signals_passed += 1
            for lane in self._running():
                lane.signal(number)


def lane_limit(jobs: Sequence[Job], workers: int | None) -> int:
    """How many lanes there is work and room for. Emulated GPUs are as many as asked for: one."""
    gpus = {uuid for job in jobs for uuid in job.gpus}
    alone = any(not job.gpus for job in jobs)
    room = max(len(gpus), 1) if workers is None else workers
    if workers is not None and gpus and not alone:
        room = min(workers, len(gpus))
    return max(1, min(room, len(jobs)))
