"""A point of a sweep, as planned (`Point`, `Plan`), and what becomes of it: its states, and the one message that says it (`Outcome`)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from wattcount.config.schema import SweepOrder
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK

NOT_STARTED = "not_started"
"""Reason of a point that was refused before its engine started: wrong GPU, does not fit, busy."""
CANCELLED = "cancelled"
"""Reason of a lost point whose job a person took from the cluster."""
MEASURED_ELSEWHERE = "measured_elsewhere"
"""Reason of a point that was not started because another run measures it right now."""


class State(Enum):
    """State of a point."""

    waiting = "waiting"
    """The point is to be measured, by the start that is alive or by the next one."""
    running = "running"
    done = "done"
    failed = "failed"
    invalid = "invalid"
    """It went to its end, but its checks of validity say that it cannot be believed."""
    skipped = "skipped"
    """It cannot be measured, and the plan says why."""
    lost = "lost"
    """The process that measured it died; the next start measures it again."""


@dataclass(frozen=True)
class Outcome:
    """What became of a point: a row of the ledger, a message of a lane or a job, and where a point stands now.

    None: does not apply, or not known. Without a `key` it is of the sweep itself: `running` from its start, `done` when
    it has ended, with the reason.

    key          of the planned point
    t_utc_ns     when [ns since 1970]: the outcomes of several hosts are told as one story
    attempt      number of the try in this start of the sweep, from 1; of where a point stands: tries in all starts
    exit_code    of the run; EXIT_NOT_STARTED: it was refused before its engine started
    before       the record was there already, and nothing was started
    reason       stable code of what went wrong; of the end of a sweep: why it ended
    record       path; of a search for a capacity: of the run at it
    records      paths of all runs of such a search; empty: of any other point
    gpu_uuid     where it is measured; several joined by commas
    host, pid    of the process that measures, or of the sweep's own
    wall_s       from start to end, all of it [s]
    energy_j     of the run's GPUs, from start to end [J]; see `Result.run_energy_j`
    figures      of the record's window, by the name of the metric; `capacity_rps` and its interval of such a search
    session      run id of the first run on the same start of the engine
    log_line     last line of the engine's log, of a failed run
    """

    state: State
    key: str | None = None
    t_utc_ns: int = field(default_factory=time.time_ns)
    attempt: int = 1
    exit_code: int = EXIT_OK
    before: bool = False
    reason: str | None = None
    message: str | None = None
    record: str | None = None
    records: tuple[str, ...] = ()
    gpu_uuid: str | None = None
    host: str | None = field(default_factory=socket.gethostname)
    pid: int | None = field(default_factory=os.getpid)
    wall_s: float | None = None
    energy_j: float | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    session: str | None = None
    log_line: str | None = None

    @property
    def refused(self) -> bool:
        """Whether it was refused before its engine started."""
        return self.exit_code == EXIT_NOT_STARTED

    @property
    def all_records(self) -> tuple[str, ...]:
        """Paths of all records that it tells of."""
        return self.records or (() if self.record is None else (self.record,))

    @property
    def elsewhere(self) -> bool:
        """Whether another run measures it right now: it is to be looked at again."""
        return self.reason == MEASURED_ELSEWHERE

    @property
    def ran(self) -> bool:
        """Whether a run went to its end, now or before."""
        return self.state in (State.done, State.invalid)


def refused(message: str, reason: str = NOT_STARTED, **other: Any) -> Outcome:
    """The outcome of a point that was refused before its engine started."""
    return Outcome(State.failed, exit_code=EXIT_NOT_STARTED, reason=reason, message=message, **other)


def failed(reason: str, message: str, exit_code: int = EXIT_FAILED, **other: Any) -> Outcome:
    """The outcome of a point that left no record."""
    return Outcome(State.failed, exit_code=exit_code, reason=reason, message=message, **other)


_FIELDS = {item.name for item in dataclasses.fields(Outcome)}
"""Fields of an outcome, in JSON by the same names."""
_LEFT_OUT = {"attempt": 1, "exit_code": EXIT_OK, "before": False, "figures": {}, "records": ()}
"""Values that a line does not name."""
_FORMER_KINDS: dict[str, dict[str, Any]] = {
    "start": {"state": "running"},
    "started": {"state": "running"},
    "done": {"state": "done"},
    "measured_before": {"state": "done", "before": True},
    "failed": {"state": "failed", "exit_code": EXIT_FAILED},
    "invalid": {"state": "invalid"},
    "not_started": {"state": "failed", "exit_code": EXIT_NOT_STARTED},
    "lost": {"state": "lost", "exit_code": EXIT_FAILED},
    "end": {"state": "done"},
}
"""What earlier versions wrote as `kind`."""


def encode(outcome: Outcome) -> bytes:
    """One line of JSON, without what is None."""
    values = {
        name: value
        for name, value in vars(outcome).items()
        if value is not None and value != _LEFT_OUT.get(name)
    }
    return json.dumps(values | {"state": outcome.state.value}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Outcome:
    """The inverse, of lines of earlier versions too. Keys of later versions are passed over.

    Raises ValueError for what is no outcome.
    """
    try:
        data: dict[str, Any] = json.loads(line)
        if "kind" in data:
            data |= _FORMER_KINDS[data["kind"]]
            if (per_token := data.get("j_per_output_token")) is not None:
                data["figures"] = {"energy/gpu_j_per_output_token": per_token}
        absent: dict[str, Any] = {"host": None, "pid": None}
        data["records"] = tuple(data.get("records", ()))
        values = {name: value for name, value in data.items() if name in _FIELDS and value is not None}
        return Outcome(
            **(absent | values | {"state": State(data["state"]), "t_utc_ns": int(data["t_utc_ns"])})
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an outcome of a sweep's point: {line[:200]!r}") from error


INVALID_BEFORE = "invalid_before"
"""Reason of a planned skip: its record is there, but invalid, and not asked to be measured again."""


@dataclass(frozen=True)
class Point:
    """One point and repeat of a sweep, as planned.

    key        12 hexadecimal digits: the point as planned, with seed and repeat; see `identity.planned_key`
    point      12 hexadecimal digits of `config.identity.planned_point`: the same for all its repeats
    overrides  what Hydra makes its configuration from
    load       for people: `512 requests`, `0.33/s`
    state      waiting: to be measured; done: it has a valid record; or skipped
    reason     stable code of a skip; `message` has the arithmetic
    record     path, of a done one
    wall_s, energy_j   expected of a run [s], [J] (energy: of its GPUs, from start to end), as `basis` says:
               `measured` (mean of like records) or `predicted`; None: not known
    session    12 hexadecimal digits that points have in common which go on one start of the engine; None: it needs its own
    """

    key: str
    overrides: tuple[str, ...]
    model: str
    gpu: str
    scenario: str
    load: str
    seed: int
    repeat: int
    state: State = State.waiting
    reason: str | None = None
    message: str | None = None
    record: str | None = None
    wall_s: float | None = None
    energy_j: float | None = None
    basis: str | None = None
    point: str | None = None
    session: str | None = None

    @property
    def label(self) -> str:
        """`llama3_8b on h200, server 4 requests/s, r0`."""
        return f"{self.model} on {self.gpu}, {self.load}, r{self.repeat}"


@dataclass(frozen=True)
class Plan:
    """A sweep's points in the order in which they are to be measured.

    arguments   what followed `python -m wattcount`, to start the same sweep again
    """

    name: str
    points: tuple[Point, ...]
    created_utc: str
    arguments: tuple[str, ...]

    def in_state(self, state: State) -> list[Point]:
        return [point for point in self.points if point.state is state]


def ordered(points: Sequence[Point], order: SweepOrder, seed: int) -> list[Point]:
    """`given`: as they are. `starts`: as they are, but with all points of a session behind its first: one start of the engine for each.

    `blocks`: one repeat of every point, in random order, then the next; the same order for the same `seed`.

    A GPU, a room and a driver drift over days. Were the points measured as they are listed, one model after the other,
    drift would look like a difference between models; with each point's repeats in a row, it would look like precision.

    Points that share a start of the engine follow each other, in random order: what is drawn first is the order of the starts.

    A point's place within its block depends on its own key, its session and the seed alone, so a sweep that is restarted, or has
    got more points, keeps the order of those that it had.
    """
    if order is SweepOrder.given:
        return list(points)
    if order is SweepOrder.starts:
        first: dict[str, int] = {}
        for number, point in enumerate(points):
            first.setdefault(point.session or point.key, number)
        return sorted(points, key=lambda point: first[point.session or point.key])

    def place(point: Point) -> tuple[int, int, bytes, bytes]:
        return point.repeat, point.seed, _draw(seed, point.session or point.key), _draw(seed, point.key)

    return sorted(points, key=place)


def _draw(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed} {key}".encode()).digest()
