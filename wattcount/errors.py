"""The errors that a user can meet, and the exit code of each."""

from __future__ import annotations

from wattcount.masking import masked

EXIT_OK = 0
"""All was done; what was skipped is listed."""
EXIT_FAILED = 1
"""Something failed while running; what was measured is kept, marked invalid."""
EXIT_NOT_STARTED = 2
"""Nothing was started: bad config, wrong GPU, does not fit."""
EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C (SIGINT): 128 plus the number of the signal, as shells have it."""
EXIT_TERMINATED = 143
"""Ended by SIGTERM, as a scheduler sends it: 128 plus the number of the signal."""


class WattcountError(Exception):
    """Base of every error that wattcount raises on purpose.

    The message is one line that says what happened and what to do. It is shown without a traceback.
    """


class NotStartedError(WattcountError):
    """Found before the engine starts: bad config, wrong GPU, model does not fit (exit code 2)."""


class MeasuredElsewhereError(NotStartedError):
    """Another run measures the same point and repeat into the same folder right now."""


class RecordsUnwritableError(NotStartedError):
    """Nothing can be written to `records_dir`: it is full, gone, or another user's."""


class RunFailedError(WattcountError):
    """Something failed while running (exit code 1).

    `reason` is a stable code for machines (`engine_start_failed`, `out_of_memory`, `timeout`, ...);
    the message is for people.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


ONE_LINE_CHARACTERS = 300
"""Length of a text that `one_line` makes of somebody else's error [characters]: a line or two of a terminal."""

ERROR_CHARACTERS = 2000
"""Length of such a text that a record keeps [characters]: engines say what they lack in paragraphs."""


def one_line(error: object, limit: int = ONE_LINE_CHARACTERS) -> str:
    """The text of an error, or any text that others wrote, as one line for people.

    White space becomes single blanks, characters that a terminal obeys become `?`, passwords and tokens are masked, and the text
    is cut to `limit` characters. An error without a text becomes the name of its class.
    """
    text = masked(" ".join(str(error).split()))
    text = "".join(character if character.isprintable() else "?" for character in text)[:limit]
    return text or (type(error).__name__ if isinstance(error, BaseException) else "")
