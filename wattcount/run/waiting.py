"""For whoever waits for runs and writes to a terminal: a thread that prints (`Background`), and noted signals (`Signals`).

A terminal may stand still (Ctrl-S, a pager, a dead ssh, a full pipe), and writing to it then blocks. Whoever has limits
to judge or runs to listen to leaves the writing to that thread. SIGINT and SIGTERM are noted meanwhile, and acted upon by its loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from types import FrameType

from wattcount.errors import EXIT_INTERRUPTED, EXIT_TERMINATED


class Background:
    """Makes the calls that it is given, one after the other, in a daemon thread.

    ::

        background = Background("display")
        background.post(call)                      # returns at once
        background.post(call, replaces="progress") # the latest wins: one that still waits under this name is dropped
        background.flush()                         # returns when all of them are made

    An error of a call does not reach whoever posted it. After an OSError, which means that nobody can read the output
    any more, further calls are dropped; the traceback of the first other error goes to standard error.
    """

    def __init__(self, name: str) -> None:
        self._waiting: OrderedDict[Hashable, Callable[[], object]] = OrderedDict()
        self._changed = threading.Condition()
        self._number = 0
        self._busy = False
        self._gone = False
        self._told = False
        self._name = f"wattcount-{name}"
        self._thread: threading.Thread | None = None
        _all.add(self)

    def post(self, call: Callable[[], object], *, replaces: Hashable | None = None) -> None:
        """Has `call` made once all that was posted before is; returns at once."""
        with self._changed:
            self._number += 1
            if replaces is not None:
                self._waiting.pop(("latest", replaces), None)
            self._waiting[("latest", replaces) if replaces is not None else self._number] = call
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits until every call is made, which a signal can interrupt; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                _, call = self._waiting.popitem(last=False)
                self._busy = True
            try:
                self._make(call)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _make(self, call: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            call()
        except OSError:
            self._gone = True
        except Exception:  # whatever a display does wrong, the run goes on
            if not self._told:
                self._told = True
                with contextlib.suppress(Exception):
                    traceback.print_exc()


_all: weakref.WeakSet[Background] = weakref.WeakSet()


def leave_if_stuck(exit_code: int) -> None:
    """Ends this process at once where a call stands still: Python's own end would wait for its output for ever.

    For whoever was told to end by a signal, and has let go of all that it held.
    """
    if not all(background.flush(0.0) for background in _all):
        os._exit(exit_code)


class Signals(list[int]):
    """The signals that came, in their order."""

    @property
    def exit_code(self) -> int | None:
        """Exit code of what the first of them ended; None: there was none."""
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
