"""A thread that makes calls for others, in their order: printing, above all.

A terminal may stand still (Ctrl-S, a pager, a dead ssh, a full pipe), and writing to it then blocks. Whoever has limits
to judge or runs to listen to leaves the writing to this thread.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable


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
