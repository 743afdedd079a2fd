"""The errors a user can meet, and the exit code each one ends the program with."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1
"""Something failed while running; what was measured is kept, marked invalid."""
EXIT_NOT_STARTED = 2
"""Nothing was started: bad config, wrong GPU, does not fit."""
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class WattcountError(Exception):
    """Base of every error wattcount raises on purpose.

    The message is one line that says what happened and what to do about it; it is shown without a
    traceback.
    """


class NotStartedError(WattcountError):
    """Found before the engine starts: bad config, wrong GPU, model does not fit (exit code 2)."""


class MeasuredElsewhereError(NotStartedError):
    """Another run measures the same point and repeat into the same folder right now."""


class RunFailedError(WattcountError):
    """Something failed while running (exit code 1).

    `reason` is a stable code for machines (`engine_start_failed`, `out_of_memory`, `timeout`, ...);
    the message is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
