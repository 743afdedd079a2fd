"""Who measures what on this host: GPUs, points and windows; and what killed runs left behind.

A GPU's lock is a file named by its UUID in `config.paths.gpu_lock_dir`: one run per GPU at a time, for two would count each other's
energy. The run's parent takes it and its process inherits it, so it is free once both have ended, however they ended. Of another
machine's GPU (`power.remote`) the listener there takes it, for as long as it is connected with the run's parent.

The lock of a point (`Wanted`) lies with the records, so that nothing is measured twice.

A run in its window (`OwnWindow`) holds a shared lock from its loaded idle, which comes before warm-up and window, to the end of
its drain. Whoever has work that can wait asks whether that lock is free (`in_a_window`). Nobody waits for anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.errors import MeasuredElsewhereError, NotStartedError, WattcountError
from wattcount.gpu.nvml import GpuFacts, NvmlSession
from wattcount.gpu.remote.client import RemoteNvml
from wattcount.records.reader import Record
from wattcount.records.schema import Phase
from wattcount.records.writer import (
    CLAIMS_FOLDER,
    POINT_LOCK_SUFFIX,
    close_orphans,
    final_folder,
    point_lock_file,
)
from wattcount.run.gpu_settings import restore_before

POLL_S = 0.1
"""Between two looks at a lock that another run holds [s]."""
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
                held.callback(_give_back, gpu.uuid, remote, notice)
                continue
            try:
                locks.append(_wait_for(gpu, _lock, purpose, deadline_s, limit_s, notice))
            except OSError as error:
                raise _no_lock(gpu.uuid, error) from error
            held.callback(locks[-1].release)
        yield [lock.descriptor for lock in locks]


def _give_back(uuid: str, remote: RemoteNvml, notice: Callable[[str], object]) -> None:
    if not remote.unlock(uuid):
        notice(
            f"{uuid}: the connection to {remote.connection.address} was lost, and the lock with it: another run may have begun"
        )


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


@dataclass(frozen=True)
class Wanted:
    """One repeat of a point, with the seed of its load, and the folder its record is to be in."""

    records_dir: Path
    point_id: str
    seed: int
    repeat: int

    def finished(self) -> Path | None:
        """The latest valid record of it, None where there is none; only the folder of its point is looked at."""
        from wattcount.result import judge

        pattern = final_folder(self.records_dir, self.point_id, self.repeat, "*")
        for folder in sorted(pattern.parent.glob(pattern.name), reverse=True):
            with contextlib.suppress(WattcountError, OSError):  # a damaged record stands for nothing
                if self._is_of(Record.open(folder)) and judge(folder).valid:
                    return folder
        return None

    def attempts(self) -> int:
        """How many records there are of it, whatever became of them."""
        pattern = final_folder(self.records_dir, self.point_id, self.repeat, "*")
        found = 0
        for folder in pattern.parent.glob(pattern.name):
            with contextlib.suppress(WattcountError, OSError):
                found += self._is_of(Record.open(folder))
        return found

    def _is_of(self, record: Record) -> bool:
        info = record.info
        return (info.point_id, info.seed, info.repeat) == (self.point_id, self.seed, self.repeat)

    @contextlib.contextmanager
    def claimed(
        self, purpose: str, notice: Callable[[str], object], *, alone: bool, wait: bool
    ) -> Iterator[list[int]]:
        """Keeps it from those who ask for it `alone`; yields the lock's descriptor, none where it has no lock.

        alone  not while someone else has it: waits for them to end, or raises `MeasuredElsewhereError` without
               `wait`. Where the file system has no locks nobody can tell.
        """
        claim = self._claim(purpose, notice, alone, wait)
        try:
            yield [] if claim is None else [claim.descriptor]
        finally:
            if claim is not None:
                claim.release(remove=True)

    def _claim(
        self, purpose: str, notice: Callable[[str], object], alone: bool, wait: bool
    ) -> ownership.Claim | None:
        file = point_lock_file(self.records_dir, self.point_id, self.seed, self.repeat)
        told = False
        while True:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                claim = ownership.lock(file, purpose)
            except OSError:
                return None
            if claim is not None or not alone:
                return claim
            what = f"the same point is being measured by another run ({ownership.holder(file)})"
            if not wait:
                raise MeasuredElsewhereError(what)
            if not told:
                notice(f"{what}; waiting for it to end")
                told = True
            time.sleep(POLL_S)


def remove_stale_claims(records_dir: Path) -> None:
    """Removes the lock files that killed runs of this host left; they are free as it is."""
    for file in (records_dir / CLAIMS_FOLDER).glob(f"*{POINT_LOCK_SUFFIX}"):
        claim = ownership.take_over(file)
        if claim is not None:
            claim.release(remove=True)


WINDOWS_LOCK = "windows.lock"
"""Name of the lock that all runs of this host share while they are in their windows."""

_LOUD = (Phase.LOADED_IDLE, Phase.REHEARSAL, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN)
"""Phases in which a run wants quiet. Loaded idle is one of them, so that what has just begun is over before the window."""


class OwnWindow:
    """A run's word on its window; where it cannot be kept nobody is told, and the run goes on."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def follow(self, phase: Phase | None) -> None:
        """Takes or releases the lock as the phase asks. It is called with every report, so a lock that was taken is tried for again."""
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


TEMPORARY_PREFIX = "wattcount-"
"""Begin of the names of folders that runs make for temporary files."""


def clear_up(records_dir: Path, notice: Callable[[str], object]) -> None:
    """Closes records left open and removes temporary folders, of runs that are surely dead. Never raises."""
    try:
        for closed in close_orphans(records_dir):
            notice(closed.message)
            if closed.path is not None:
                _compute_metrics(closed.path, notice)
        remove_stale_claims(records_dir)
        remove_temporary(Path(tempfile.gettempdir()))
    except OSError as error:
        notice(f"what killed runs left behind could not be cleared away: {error}")


def remove_temporary(folder: Path) -> None:
    """Removes this user's `wattcount-...` folders that were claimed on this host and are held no more."""
    for file in folder.glob(f"{TEMPORARY_PREFIX}*/{ownership.CLAIM_NAME}"):
        try:
            if file.parent.lstat().st_uid != os.geteuid():
                continue
        except OSError:
            continue
        claim = ownership.take_over(file)
        if claim is not None:
            shutil.rmtree(file.parent, ignore_errors=True)
            claim.release()


def _compute_metrics(path: Path, notice: Callable[[str], object]) -> None:
    from wattcount import metrics

    try:
        metrics.write(path)
    except (WattcountError, OSError, ValueError) as error:
        notice(f"no metrics ({error}); try again with: wattcount metrics {path}")
