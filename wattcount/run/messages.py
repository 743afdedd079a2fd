"""What a run's process tells its parent: JSON lines on a pipe that only the two of them hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress


@dataclass(frozen=True)
class Notice:
    """A line for a person."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The last message of a run: the record is in place, or could not be written (`record` None)."""

    record: str | None
    reason: str | None
    """None: the run is valid."""
    message: str | None
    goes_on: bool = False
    """The engine is up and well, and the process waits for its next run."""


Message = Progress | Notice | Ended
_KINDS: dict[str, type[Progress] | type[Notice] | type[Ended]] = {
    "progress": Progress,
    "notice": Notice,
    "ended": Ended,
}


def encode(message: Message) -> bytes:
    """One line."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(message, cls))
    return json.dumps({"type": kind, **dataclasses.asdict(message)}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises ValueError for what is no message."""
    try:
        data: dict[str, Any] = json.loads(line)
        kind = _KINDS[data.pop("type")]
        if data.get("phase") is not None:
            data["phase"] = Phase(data["phase"])
        return kind(**data)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a message of a run: {line[:200]!r}") from error


class Lines:
    """Puts a byte stream back together into lines."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        yield from lines
