"""SIGINT and SIGTERM of a sweep: noted while it works, and acted upon by its loop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED


class Signals(list[int]):
    """The signals that came, in their order."""

    @property
    def exit_code(self) -> int | None:
        """Of a sweep that the first of them ended; None: there was none."""
        if not self:
            return None
        return EXIT_INTERRUPTED if self[0] == signal.SIGINT else EXIT_TERMINATED

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Notes them from now on; outside of the main thread, which Python gives no signals, none will come."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, _frame: FrameType | None) -> None:
            self.append(number)

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
