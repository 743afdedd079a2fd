"""What a run is worth. The one home of that rule: `results` asks it, and whoever wants to know asks a result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from wattcount.records.schema import RunInfo

INCOMPLETE = "incomplete"
DAMAGED = "damaged"
NO_REASON = "no reason was recorded"


class Status(Enum):
    """Of a record, from the best to the worst."""

    valid = "valid"
    invalid = "invalid"
    """Every phase was run, but its checks of validity say that it cannot be believed."""
    failed = "failed"
    """The run broke off, or said itself that it went wrong."""
    damaged = "damaged"
    """It cannot be read, or is not what was measured: it stands for nothing."""


@dataclass(frozen=True)
class Verdict:
    """What a record is worth and, if it is not valid, why.

    reasons    stable codes, the most serious first; empty only for a valid one
    messages   one line for people for each reason that has one
    """

    status: Status
    reasons: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return self.status is Status.valid

    @property
    def reason(self) -> str | None:
        return next(iter(self.reasons), None)

    @property
    def message(self) -> str | None:
        return next(iter(self.messages), None)


def ran_to_end(info: RunInfo) -> bool:
    """Whether the run went through all of its phases, and says itself that nothing went wrong."""
    return info.complete and info.validity.valid


def verdict(info: RunInfo, metrics: Mapping[str, Any]) -> Verdict:
    """`metrics`: the content of the record's `metrics.json`, from `load_metrics`."""
    found = metrics["validity"]
    wrong = [finding for finding in found["findings"] if finding["invalidates"]]
    codes = (*info.validity.reasons, *(finding["code"] for finding in wrong))
    messages = (*info.validity.messages, *(finding["message"] for finding in wrong))
    if not ran_to_end(info):
        broke_off = () if info.validity.reasons else (INCOMPLETE,)
        return Verdict(Status.failed, (*broke_off, *codes), messages or codes or ("it broke off",))
    if not found["valid"]:
        return Verdict(Status.invalid, codes or (NO_REASON,), messages)
    return Verdict(Status.valid)
