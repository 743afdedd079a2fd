"""Sets clock and power limit of a run's GPUs for as long as it lasts, and puts back what was there, whatever happens.

What to go back to is on disk before anything is set: a journal beside the GPU's lock. It is worked off by the
first of these that gets to it, each holding that lock:

    the run's process, at its end          everything went well: the record says what was restored
    its parent                             the run's process died
    the guard (`main`)                     both died; it waits on a pipe to the parent, in a session of its own
    the next run, or `wattcount doctor`    all three died: the host was switched off, or the whole job was killed
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import GpuConfig
from wattcount.errors import NotStartedError, WattcountError
from wattcount.files import sync_folder, write_atomically
from wattcount.gpu.nvml import GpuFacts, NvmlSession, attach_session
from wattcount.gpu.settings import Setting, UndoError, plan, put_in_force, undo

GUARD_LIMIT_S = 30.0
"""The longest that a guard may take to start, and to end [s]."""
JOURNAL_SUFFIX = ".settings.json"
"""Ending of the names of journals."""

Notice = Callable[[str], object]


@dataclass(frozen=True)
class Journal:
    """What one run has changed on a GPU and is to be undone."""

    setting: Setting
    pid: int
    """Process id of the run's parent."""
    boot_id: str
    """Locked clocks are gone after a restart of the host, and a lock found then is someone else's."""

    @property
    def path(self) -> Path:
        return journal_file(self.setting.uuid)

    def write(self) -> None:
        """Raises OSError; when it returns, the journal is on the disk."""
        write_atomically(self.path, json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, uuid: str) -> Journal | None:
        """None where there is none that this user may believe: anyone can write to the folder of the locks."""
        try:
            descriptor = os.open(journal_file(uuid), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(file.fileno()).st_uid not in (0, os.geteuid()):
                return None
            try:
                values = json.loads(file.read())
                journal = cls(Setting(**values["setting"]), int(values["pid"]), str(values["boot_id"]))
            except (OSError, ValueError, TypeError, KeyError):
                return None
        return journal if journal.setting.uuid == uuid else None


def journal_file(uuid: str) -> Path:
    return gpu_lock_dir() / f"{uuid}{JOURNAL_SUFFIX}"


def remove_journal(uuid: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        journal_file(uuid).unlink()
        sync_folder(gpu_lock_dir())


@contextlib.contextmanager
def gpu_settings(
    gpu: GpuConfig, gpus: Sequence[GpuFacts], session: NvmlSession, notice: Notice
) -> Iterator[dict[str, Any]]:
    """Has what `gpu` asks for in force; yields what was found, by GPU UUID, for `RunInfo.gpu_settings`.

    The caller holds the locks of `gpus`. Raises `NotStartedError`, with nothing changed, where it cannot be done.
    """
    wanted = plan(gpu, gpus, session.native)
    if not wanted:
        yield {}
        return
    # A machine that was made for this run ends with it.
    kept = session.machine is None
    to_undo: dict[str, Setting] = {}
    found: dict[str, Any] = {}
    with _guarded([setting.uuid for setting in wanted] if kept else []):
        try:
            for setting in wanted:
                if kept:
                    _keep(Journal(setting, os.getpid(), ownership.boot_id()))
                to_undo[setting.uuid] = dataclasses.replace(setting, sm_clock_mhz=None)
                found[setting.uuid] = put_in_force(session.native, setting)
                to_undo[setting.uuid] = setting
            yield found
        finally:
            for uuid, setting in to_undo.items():
                _put_back(session, setting, found.get(uuid, {}), notice)


def _keep(journal: Journal) -> None:
    try:
        journal.write()
    except OSError as error:
        raise NotStartedError(
            f"gpu.sm_clock_mhz, gpu.power_limit_w: what is to be restored cannot be kept in {gpu_lock_dir()}: "
            f"{error.strerror}; set $WATTCOUNT_LOCK_DIR to a folder of this user"
        ) from error


def _put_back(session: NvmlSession, setting: Setting, found: dict[str, Any], notice: Notice) -> None:
    try:
        _undo(session, setting, found)
        if session.machine is None:
            remove_journal(setting.uuid)
    except (UndoError, OSError) as error:
        notice(f"{setting.uuid} could not be restored: {error}")


def _undo(session: NvmlSession, setting: Setting, found: dict[str, Any]) -> None:
    for name, value in undo(session.native, setting).items():
        if name in found:
            found[name]["restored"] = value


def restore_recorded(session: NvmlSession, facts: dict[str, Any]) -> None:
    """Undoes what `gpu_settings` has yielded, and notes in it what is in force now. Raises `UndoError`."""
    for uuid, found in facts.items():
        power, clock = found.get("power_limit_mw", {}), found.get("sm_clock_mhz", {})
        _undo(session, Setting(uuid, clock.get("asked"), power.get("asked"), power.get("before")), found)


def restore_left(session: NvmlSession, uuid: str) -> str | None:
    """Undoes what a dead run has left on a GPU whose lock the caller holds; what that was, None: nothing.

    Raises `UndoError` or OSError where it cannot be undone; the journal then stays.
    """
    journal = Journal.read(uuid)
    if journal is None:
        return None
    undo(session.native, journal.setting, clocks=journal.boot_id == ownership.boot_id())
    remove_journal(uuid)
    return f"{journal.setting.describe()}, by pid {journal.pid}"


def restore_if_free(session: NvmlSession, uuid: str) -> str | None:
    """`restore_left`, unless a run holds the GPU's lock."""
    lock = ownership.lock(gpu_lock_dir() / f"{uuid}.lock", "restoring its settings", for_everyone=True)
    if lock is None:
        return None
    try:
        return restore_left(session, uuid)
    finally:
        lock.release()


def restore_before(session: NvmlSession, gpus: Sequence[GpuFacts], notice: Notice) -> None:
    """`restore_left` before a run; raises `NotStartedError` where it fails, or the run would not be what it says."""
    for gpu in gpus:
        try:
            left = restore_left(session, gpu.uuid)
        except (UndoError, OSError) as error:
            raise NotStartedError(
                f"{gpu.name} ({gpu.uuid}) still has the settings of a run that was killed, and they cannot be restored "
                f"({error}): run wattcount doctor as root"
            ) from error
        if left is not None:
            notice(f"{gpu.name} ({gpu.uuid}): restored what a run that was killed had left: {left}")


def left_behind() -> list[str]:
    """UUIDs of GPUs with a journal, whether or not its run goes on."""
    return sorted(
        file.name.removesuffix(JOURNAL_SUFFIX) for file in gpu_lock_dir().glob(f"GPU-*{JOURNAL_SUFFIX}")
    )


@contextlib.contextmanager
def _guarded(uuids: Sequence[str]) -> Iterator[None]:
    """A guard that restores should this process die. It has started when this yields."""
    if not uuids:
        yield
        return
    guard = subprocess.Popen(
        [sys.executable, "-m", "wattcount.run.gpu_settings", str(os.getpid()), *uuids],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    try:
        said, _, _ = select.select([guard.stdout], [], [], GUARD_LIMIT_S)
        if not said:
            guard.kill()
            raise NotStartedError(
                "gpu.sm_clock_mhz, gpu.power_limit_w: the process that guards them did not start within "
                f"{GUARD_LIMIT_S:g} s: try again when the host is less busy, or leave both unset"
            )
        if guard.stdout.read(1) != b"+":
            raise NotStartedError(
                "gpu.sm_clock_mhz, gpu.power_limit_w: the process that guards them did not start"
            )
        yield
    finally:
        guard.stdin.close()
        guard.stdout.close()
        try:
            guard.wait(GUARD_LIMIT_S)
        except subprocess.TimeoutExpired:
            guard.kill()
            with contextlib.suppress(
                subprocess.TimeoutExpired
            ):  # it waits in the kernel; nothing more can be done
                guard.wait(GUARD_LIMIT_S)


POLL_S = 0.05
"""Time between two looks at whether the GPU's lock is free [s]."""


def main(argv: Sequence[str]) -> int:
    """The guard, a process of its own: `python -m wattcount.run.gpu_settings PID UUID...`.

    The run's parent (PID) starts it. It says `+` when it is ready, and waits until the pipe on its standard input is
    closed: by the parent, which has restored everything then, or by the kernel, because the parent is dead.
    """
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
