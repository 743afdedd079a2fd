"""When a sweep is to stop by itself, because what goes wrong is not its points' fault: each further point would only fail too."""

from __future__ import annotations

import errno
import os

from wattcount.records.writer import UNWRITABLE
from wattcount.run.orchestrate import NOT_LAUNCHED
from wattcount.sweep.outcome import NOT_STARTED, Outcome

START_REASONS = ("engine_start_failed", "setup_failed", "worker_died", "lane_died", "job_lost", NOT_STARTED)
"""Reasons that the machine's installation can have. A model that is too large or unsupported is one point's own."""
_HOST_ERRORS = tuple(
    os.strerror(number)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ESTALE)
)
"""What the system says when a disk or the process table is full: an engine, too, may be told so."""


class Halt:
    """Watches what becomes of a sweep's points, and says when to stop.

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
