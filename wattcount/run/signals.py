"""SIGINT and SIGTERM of whoever waits for runs: noted while it works, and acted upon by its loop."""

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
        """Of what the first of them ended; None: there was none."""
        if not self:
            return None
        return EXIT_INTERRUPTED if self[0] == signal.SIGINT else EXIT_TERMINATED

    @contextlib.contextmanager
    def watching(self, patience: int | None = None) -> Iterator[None]:
        """Notes them from now on; outside of the main thread, which Python gives no signals, none will come.

        patience  how many are noted; one that comes after them goes to the handler that was there before, so that
                  a person is never held for ever. None: all are noted.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            if patience is None or len(self) < patience:
                self.append(number)
                return
            handler = before[signal.Signals(number)]
            if callable(handler):
                handler(number, frame)
            elif handler is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def waking(descriptor: int) -> Iterator[None]:
    """Has a byte written to `descriptor` with each signal, so that whoever waits for it looks at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
