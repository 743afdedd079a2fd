"""What happens in a sweep, one event a line of JSON."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MEASURED_ELSEWHERE = "measured_elsewhere"
"""Reason of a `not_started`: another run measures the same point right now."""


class EventKind(Enum):
    """What happened to a point, or (`start`, `end`) to the sweep as a whole."""

    start = "start"
    """The sweep was started; whoever writes it is the sweep's process until it writes `end`, or dies."""
    started = "started"
    done = "done"
    measured_before = "measured_before"
    """Its record was there already."""
    failed = "failed"
    invalid = "invalid"
    """It went to its end but did not meet the checks of validity."""
    not_started = "not_started"
    """Found before the engine starts: wrong GPU, does not fit, busy."""
    lost = "lost"
    """The process that measured it died."""
    end = "end"


@dataclass(frozen=True)
class Event:
    """One line of the ledger; None: does not apply, or not known.

    key          of the planned point; None for `start` and `end`
    t_utc_ns     nanoseconds since 1970: the events of several hosts are told as one story
    attempt      1 for the first try of this start
    reason       stable code of what went wrong; of `end`, why the sweep ended
    record       path
    gpu_uuid     where it is measured; several joined by commas
    host, pid    of the process that measures, or of the sweep's own
    wall_s       seconds from start to end, all of it
    energy_j     joule of the run's GPUs, from start to end
    j_per_output_token   joule; of the window
    """

    kind: EventKind
    key: str | None = None
    t_utc_ns: int = field(default_factory=time.time_ns)
    attempt: int | None = None
    reason: str | None = None
    message: str | None = None
    record: str | None = None
    gpu_uuid: str | None = None
    host: str | None = field(default_factory=socket.gethostname)
    pid: int | None = field(default_factory=os.getpid)
    wall_s: float | None = None
    energy_j: float | None = None
    j_per_output_token: float | None = None


_FIELDS = {item.name for item in dataclasses.fields(Event)}


def encode(event: Event) -> bytes:
    """One line; what is None is left out."""
    values = {name: value for name, value in vars(event).items() if value is not None}
    return json.dumps(values | {"kind": event.kind.value}, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Event:
    """The inverse; keys of later versions are passed over. Raises ValueError for what is no event."""
    try:
        data: dict[str, Any] = json.loads(line)
        absent: dict[str, Any] = {"host": None, "pid": None}
        values = {name: value for name, value in data.items() if name in _FIELDS}
        event = Event(
            **(absent | values | {"kind": EventKind(data["kind"]), "t_utc_ns": int(data["t_utc_ns"])})
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an event of a sweep: {line[:200]!r}") from error
    return event
