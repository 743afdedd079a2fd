"""One run per GPU at a time, on the whole host: two would count each other's energy.

A GPU's lock is a file named by its UUID in `config.paths.gpu_lock_dir`. The run's parent takes it and its
process inherits it, so it is free once both have ended, however they ended. Of another machine's GPU (`power.remote`)
the listener there takes it, for as long as it is connected with the run's parent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import GpuFacts, NvmlSession
from wattcount.gpu.remote.client import RemoteNvml
from wattcount.run.gpu_settings import restore_before

POLL_S = 0.1
Lock = TypeVar("Lock", ownership.Claim, None)


@contextlib.contextmanager
def gpus_locked(
    gpus: Sequence[GpuFacts],
    purpose: str,
    limit_s: float,
    notice: Callable[[str], object],
    remote: RemoteNvml | None = None,
) -> Iterator[list[int]]:
    """Holds the locks of all `gpus`, waiting up to `limit_s` for other runs; yields their descriptors.

    remote   the machine that they are of, which has no descriptors to give; None: this one
    Raises `NotStartedError` where another run holds one for longer, or the locks cannot be made.
    """
    deadline_s = time.monotonic() + limit_s
    with contextlib.ExitStack() as held:
        locks: list[ownership.Claim] = []
        # Always in the same order, or two runs would wait for each other.
        for gpu in sorted(gpus, key=lambda gpu: gpu.uuid):
            if remote is not None:
                _wait_for(gpu, remote.lock, purpose, deadline_s, limit_s, notice)
                held.callback(remote.unlock, gpu.uuid)
                continue
            try:
                locks.append(_wait_for(gpu, _lock, purpose, deadline_s, limit_s, notice))
            except OSError as error:
                raise _no_lock(gpu.uuid, error) from error
            held.callback(locks[-1].release)
        yield [lock.descriptor for lock in locks]


class HostLocks:
    """The locks of this host's GPUs for a listener (`gpu.remote.listener.Locks`), which restores what killed runs left."""

    def __init__(self, session: NvmlSession, notice: Callable[[str], object]) -> None:
        self._session, self._notice = session, notice

    def take(self, uuid: str, purpose: str) -> Callable[[], None] | str:
        """Raises `NotStartedError` where the locks cannot be made, or settings not restored."""
        try:
            taken = _lock(uuid, purpose)
        except OSError as error:
            raise _no_lock(uuid, error) from error
        if isinstance(taken, str):
            return taken
        try:
            restore_before(
                self._session, [gpu for gpu in self._session.gpus() if gpu.uuid == uuid], self._notice
            )
        except BaseException:
            taken.release()
            raise
        return taken.release

    def is_free(self, uuid: str) -> bool:
        return is_free(uuid)


def is_free(gpu_uuid: str, remote: RemoteNvml | None = None) -> bool:
    """Whether no run holds the GPU, of the machine `remote` or this one, right now; where nobody can tell, it is."""
    if remote is not None:
        return remote.is_free(gpu_uuid)
    try:
        return not ownership.is_held(gpu_lock_dir() / f"{gpu_uuid}.lock")
    except OSError:
        return True  # it was never locked


def _lock(uuid: str, purpose: str) -> ownership.Claim | str:
    """The lock of this host's GPU, or who holds it. Raises OSError."""
    make_shared(gpu_lock_dir())
    file = gpu_lock_dir() / f"{uuid}.lock"
    return ownership.lock(file, purpose, for_everyone=True) or ownership.holder(file)


def _no_lock(uuid: str, error: OSError) -> NotStartedError:
    return NotStartedError(
        f"cannot lock {uuid} in {gpu_lock_dir()}: {error.strerror}; set $WATTCOUNT_LOCK_DIR to a folder that all who use "
        "this GPU can write to"
    )


def _wait_for(
    gpu: GpuFacts,
    take: Callable[[str, str], Lock | str],
    purpose: str,
    deadline_s: float,
    limit_s: float,
    notice: Callable[[str], object],
) -> Lock:
    """What `take` gives for the GPU and the purpose; a text is who holds it."""
    told = False
    while isinstance(taken := take(gpu.uuid, purpose), str):
        who = f"{gpu.name} ({gpu.uuid}) is measured by another run ({taken})"
        if time.monotonic() >= deadline_s:
            raise NotStartedError(
                f"{who}; it did not end within gpu_lock_timeout_s={limit_s:g} s: wait for it, or choose "
                "another GPU with gpu.devices=[UUID]"
            )
        if not told:
            notice(f"{who}; waiting up to {limit_s:g} s for it to end")
            told = True
        time.sleep(POLL_S)
    return taken


def make_shared(folder: Path) -> None:
    """As /tmp: everyone may make files, and remove their own."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)
