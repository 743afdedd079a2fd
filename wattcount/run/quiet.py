"""Whether any run of this host is in its window, so that work that can wait is done while none is.

Every run holds a shared lock from its loaded idle, which comes before warm-up and window, to the end of its drain;
whoever has such work asks whether the lock is free. Nobody waits for anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.records.schema import Phase
from wattcount.run.gpu_lock import make_shared

WINDOWS_LOCK = "windows.lock"

_LOUD = (Phase.LOADED_IDLE, Phase.REHEARSAL, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN)
"""Loaded idle is one of them so that what has just begun is over before the window."""


class OwnWindow:
    """A run's word on its window; where it cannot be kept nobody is told, and the run goes on."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def follow(self, phase: Phase | None) -> None:
        """To be called with every report; a lock that was not to be had is tried for again."""
        if phase not in _LOUD:
            self.release()
        elif self._descriptor is None:
            self._descriptor = _locked(fcntl.LOCK_SH)

    def release(self) -> None:
        """May be called more than once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def in_a_window() -> bool:
    """Whether a run of this host is between its loaded idle and its drain; False where nobody can tell."""
    try:
        descriptor = _open()
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _locked(kind: int) -> int | None:
    descriptor: int | None = None
    with contextlib.suppress(OSError):
        descriptor = _open()
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        return descriptor
    if descriptor is not None:
        os.close(descriptor)
    return None


def _open() -> int:
    folder: Path = gpu_lock_dir()
    make_shared(folder)
    return ownership.open_lock_file(folder / WINDOWS_LOCK, for_everyone=True)
