"""Restores the settings of GPUs should the run that made them be killed: `python -m wattcount.run.gpu_guard PID UUID...`.

It is started by the run's parent (PID), says `+` when it is ready, and waits until the pipe on its standard input is
closed: by the parent, which has restored everything then, or by the kernel, because the parent is dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.errors import WattcountError
from wattcount.gpu.nvml import attach_session
from wattcount.gpu.settings import UndoError
from wattcount.run.gpu_settings import Journal, restore_left

POLL_S = 0.05


def main(argv: Sequence[str]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"+")
    while os.read(0, 1):
        pass
    parent = int(argv[0])
    for uuid in argv[1:]:
        _restore(uuid, parent)
    return 0


def _restore(uuid: str, parent: int) -> None:
    """Once the run's process, which outlives its parent by a moment, has ended, too, and let go of the GPU's lock.

    Another run that gets the lock first has restored, and the journal is gone or its own.
    """
    while (journal := Journal.read(uuid)) is not None and journal.pid == parent:
        lock = ownership.lock(gpu_lock_dir() / f"{uuid}.lock", "restoring its settings", for_everyone=True)
        if lock is None:
            time.sleep(POLL_S)
            continue
        try:
            # What cannot be restored now is left to the next run or to `wattcount doctor`.
            with contextlib.suppress(UndoError, WattcountError, OSError), attach_session() as session:
                restore_left(session, uuid)
            return
        finally:
            lock.release()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
