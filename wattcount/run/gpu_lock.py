"""One run per GPU at a time, on the whole host: two would count each other's energy.

A GPU's lock is a file named by its UUID in `config.paths.gpu_lock_dir`. The run's parent takes it and its
process inherits it, so it is free once both have ended, however they ended.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts

POLL_S = 0.1


@contextlib.contextmanager
def gpus_locked(
    gpus: Sequence[GpuFacts], purpose: str, limit_s: float, notice: Callable[[str], object]
) -> Iterator[list[int]]:
    """Holds the locks of all `gpus`, waiting up to `limit_s` for other runs; yields their descriptors.

    Raises `NotStartedError` where another run holds one for longer, or the locks cannot be made.
    """
    folder = gpu_lock_dir()
    deadline_s = time.monotonic() + limit_s
    with contextlib.ExitStack() as held:
        locks = []
        # Always in the same order, or two runs would wait for each other.
        for gpu in sorted(gpus, key=lambda gpu: gpu.uuid):
            try:
                make_shared(folder)
                locks.append(_wait_for(gpu, folder, purpose, deadline_s, limit_s, notice))
            except OSError as error:
                raise NotStartedError(
                    f"cannot lock {gpu.uuid} in {folder}: {error.strerror}; set $WATTCOUNT_LOCK_DIR to a "
                    "folder that all who use this GPU can write to"
                ) from error
            held.callback(locks[-1].release)
        yield [lock.descriptor for lock in locks]


def is_free(gpu_uuid: str) -> bool:
    """Whether no run holds the GPU right now; where nobody can tell, it is."""
    try:
        return not ownership.is_held(gpu_lock_dir() / f"{gpu_uuid}.lock")
    except OSError:
        return True  # it was never locked


def _wait_for(
    gpu: GpuFacts,
    folder: Path,
    purpose: str,
    deadline_s: float,
    limit_s: float,
    notice: Callable[[str], object],
) -> ownership.Claim:
    file = folder / f"{gpu.uuid}.lock"
    told = False
    while (lock := ownership.lock(file, purpose, for_everyone=True)) is None:
        who = f"{gpu.name} ({gpu.uuid}) is measured by another run ({ownership.holder(file)})"
        if time.monotonic() >= deadline_s:
            raise NotStartedError(
                f"{who}; it did not end within gpu_lock_timeout_s={limit_s:g} s: wait for it, or choose "
                "another GPU with gpu.devices=[UUID]"
            )
        if not told:
            notice(f"{who}; waiting up to {limit_s:g} s for it to end")
            told = True
        time.sleep(POLL_S)
    return lock


def make_shared(folder: Path) -> None:
    """As /tmp: everyone may make files, and remove their own."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
