"""A lane: a process of this machine that measures one point after the other, as its sweep tells it.

`python -m wattcount.sweep.lane FD` speaks with its parent over the connection FD: takes `Task`s, sends `Said` while
it measures and an `Outcome` after each. It keeps an engine for the next task of the session, until it is told None instead. It stays up over points, so what is imported is imported once. It leads a session of
its own, so that Ctrl-C at the terminal reaches the sweep alone, which ends its lanes in order; and it ends with
the sweep, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from wattcount.config.loader import from_json
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_TERMINATED, WattcountError
from wattcount.run.display import InBackground
from wattcount.run.orchestrate import Display
from wattcount.run.session import Rest, Session
from wattcount.run.waiting import Background, Signals
from wattcount.scenario.journal import Progress
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, failed
from wattcount.sweep.task import measure_planned

_PR_SET_PDEATHSIG = 1
"""Option of prctl(2): the signal for a process when its parent ends (linux/prctl.h)."""


@dataclass(frozen=True)
class Task:
    """One point to measure, as plain as it can be sent."""

    config: dict[str, Any]
    key: str
    sweep: str
    attempt: int
    gpus: tuple[str, ...]
    """UUIDs of the GPUs to use; none: the run's own choice."""
    wait_for_others: bool
    before: dict[str, dict[str, float]] = field(default_factory=dict)
    """What GPUs were like before the sweep's first run, see `run.session.Rest`."""
    session: str | None = None
    """`Point.session`: points that have the same one go on with one engine."""
    last: bool = True
    """No other point of the session follows."""


@dataclass(frozen=True)
class Said:
    """Something that is said before the outcome: a notice for a person, how the run stands, or what GPUs were like."""

    text: str | None = None
    progress: Progress | None = None
    before: dict[str, dict[str, float]] = field(default_factory=dict)


class Lane:
    """The lane's own side.

    Whatever is sent, is sent by the thread `_sender`: a sweep that stands still (Ctrl-Z, a terminal) keeps no run, and
    a signal, which Python gives to the main thread alone, tears no message.
    """

    def __init__(self, connection: Connection, signals: LaneSignals) -> None:
        self._connection = connection
        self._signals = signals
        self._sender = Background("lane")
        self._ledgers: dict[tuple[str, str], Ledger] = {}
        self._session = Session()
        self._session_name: str | None = None

    def serve(self) -> None:
        """Measures what it is sent, until the parent hangs up or a signal has come."""
        with self._session, suppress(EOFError, OSError):
            while not self._signals:
                with self._signals.raised():
                    task = self._connection.recv()
                if task is None:
                    self.end_session()
                    continue
                for message in self.measure(task):
                    self._sender.post(partial(self._connection.send, message))
                self._sender.flush()

    def end_session(self) -> None:
        """Ends the engine that was kept, if there is one."""
        self._session.close()

    def measure(self, task: Task) -> tuple[Said, Outcome]:
        cfg = from_json(task.config)
        rest = Rest(task.before)
        relay = _Relay(self._connection)
        if task.session is None or task.session != self._session_name:
            self.end_session()
        self._session_name = task.session
        try:
            with self._signals.raised():
                outcome = measure_planned(
                    cfg,
                    key=task.key,
                    ledger=self._ledger(cfg, task.sweep),
                    attempt=task.attempt,
                    gpus=task.gpus,
                    wait_for_others=task.wait_for_others,
                    rest=rest,
                    session=self._session,
                    last=task.last,
                    display=InBackground(relay, self._sender, begun=self._signals.only_note),
                )
        except _Ended as end:
            why = "interrupted before it began"
            outcome = failed("interrupted", why, end.exit_code, key=task.key, attempt=task.attempt)
        return Said(before=rest.before), outcome

    def _ledger(self, cfg: RunConfig, sweep: str) -> Ledger | None:
        place = (cfg.records_dir, sweep)
        if place not in self._ledgers:
            try:
                self._ledgers[place] = Ledger.open(*place)
            except WattcountError:
                return None  # the run will say that nothing can be written there
        return self._ledgers[place]


class _Ended(BaseException):
    """A signal ended the lane while no run's process could be told. It is no `Exception`, which runs may keep to themselves."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class LaneSignals(Signals):
    """A lane's signals: raised as `_Ended` while it waits and there is nothing to lose, else noted.

    From the beginning of a run's record on they are noted: first by the run itself (`run.orchestrate`), then here.
    """

    def __init__(self) -> None:
        super().__init__()
        self._raising = False

    def install(self) -> None:
        """Takes the signals of the whole process from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._came)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises them until this ends, or until `only_note`; one that was noted before is raised at once."""
        try:
            self._raising = True
            if self:
                raise _Ended(self.exit_code or EXIT_TERMINATED)
            yield
        finally:
            self._raising = False

    def only_note(self) -> None:
        self._raising = False

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self.append(number)
        if self._raising:
            raise _Ended(self.exit_code or EXIT_TERMINATED)


class _Relay(Display):
    """Sends what a display would show. Silent where nobody listens any more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def started(self, cfg: RunConfig) -> None: ...

    def progress(self, progress: Progress) -> None:
        self._connection.send(Said(progress=progress))

    def notice(self, text: str) -> None:
        self._connection.send(Said(text=text))

    def tick(self) -> None: ...

    def ended(self, record_path: Path | None) -> None: ...


def _end_with_parent(parent: int) -> None:
    """SIGTERM when the sweep has died: a run that goes on closes its record."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(EXIT_TERMINATED)


def main(arguments: list[str]) -> int:
    signals = LaneSignals()
    signals.install()
    descriptor, parent = map(int, arguments)
    try:
        _end_with_parent(parent)
        with Connection(descriptor) as connection:
            os.set_inheritable(descriptor, False)
            Lane(connection, signals).serve()
    except _Ended as end:
        return end.exit_code
    return signals.exit_code or 0


if __name__ == "__main__":
    # What is sent must be of the module by its name, not of `__main__`.
    from wattcount.sweep import lane

    sys.exit(lane.main(sys.argv[1:]))
