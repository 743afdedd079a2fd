"""A sweep's way into MLflow, which never stops a sweep and never works inside a window.

::

    lane, after its run     --> a note in to_log/ --> log_record, if no run of this host is in its window
                                     |                     '--> note removed
    the sweep, now and then --> `wattcount log --sweep NAME --pending`, a process of its own: what has a note, and the page
    the sweep, at its end   --> the same, waited for up to a limit

Whatever fails or is killed leaves a note, so the next refresh, the end of the sweep, its next start or a person logs
what is missing. A store that does not answer is left alone for longer and longer.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError, one_line
from wattcount.run.claims import in_a_window
from wattcount.sweep.ledger import sweep_folder

TO_LOG = "to_log"
"""Folder of a sweep with a note for each record that is not logged yet."""
RECORD_LIMIT_S = 30.0
"""Most time that a lane waits for its store [s]: a record takes about a second."""
PAUSES_S = (60.0, 1800.0)
"""Shortest and longest pause after a failure of the store [s]; each pause is twice as long as the one before."""
REFRESH_S, REFRESH_LIMIT_S = 300.0, 240.0
"""Time between two refreshes of the sweep's page in MLflow, and most time of one [s]."""
END_LIMIT_S = 600.0
"""Most time of the logging at the end of a sweep [s]."""
KILL_LIMIT_S = 10.0
"""Most time from the kill of that process to its end [s]."""
WINDOW_POLL_S = 1.0
"""Time between two looks at whether a run of this host is in its window [s]."""
NICENESS = 10
"""Niceness of the process that logs in the background (nice(1)): runs come first."""

WAYS_TO_SEE = ("see it", "then open", "the sweep")
"""How the lines begin that say how runs can be seen (`tracking.ways_to_see`)."""
SEEN_BYTES = 4096
"""The end of what that process said in which these lines are looked for [bytes]: they are its last ones."""

Notice = Callable[[str], object]


@dataclass
class LaneLog:
    """Logs a lane's records, each after its run. Kept for as long as the lane lives: it knows how the store does."""

    _pause_s: float = field(default=PAUSES_S[0], init=False)
    _closed_until_s: float = field(default=float("-inf"), init=False)

    def record(
        self, path: Path, tracking: TrackingConfig, records_dir: str | Path, sweep: str, notice: Notice
    ) -> bool:
        """Whether it is logged now; else it has a note. Raises nothing."""
        folder = sweep_folder(records_dir, sweep)
        note = _leave_note(folder, path)
        if time.monotonic() < self._closed_until_s or in_a_window():
            return False
        from wattcount.tracking import log_record, sweep_run

        try:
            parent = sweep_run(sweep, folder, tracking, limit_s=RECORD_LIMIT_S)
            log_record(path, tracking, parent=parent, limit_s=RECORD_LIMIT_S)
        except Exception as error:  # the sweep must not be lost to its logging
            self._closed_until_s = time.monotonic() + self._pause_s
            notice(
                f"{_reason(error, tracking, sweep)}; the sweep goes on, MLflow is tried again in {self._pause_s:g} s and at the end"
            )
            self._pause_s = min(2 * self._pause_s, PAUSES_S[1])
            return False
        self._pause_s = PAUSES_S[0]
        _remove(note)
        return True


class SweepLog:
    """Keeps a sweep's page up to date while it goes on, in a process of its own that can be killed."""

    def __init__(
        self,
        records_dir: str | Path,
        sweep: str,
        tracking: TrackingConfig,
        notice: Notice,
        seen: Notice = lambda _line: None,
    ) -> None:
        """`notice` is told what went wrong, `seen` how the sweep can be seen in MLflow, a line at a time."""
        self._seen = seen
        self._records_dir = str(records_dir)
        self._sweep = sweep
        self._tracking = tracking
        self._notice = notice
        self._process: subprocess.Popen[bytes] | None = None
        self._began_s = self._next_s = float("-inf")
        self._told = False

    def refresh(self) -> None:
        """Logs what is new. May be called as often as one likes; waits for nothing."""
        now_s = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None and now_s - self._began_s < REFRESH_LIMIT_S:
                return
            self._finish(now_s)
        if now_s >= self._next_s and not in_a_window():
            self._next_s = now_s + REFRESH_S
            self._start(REFRESH_LIMIT_S)

    def close(self) -> bool:
        """Logs what is left, waiting `END_LIMIT_S` at most; whether all of it is logged. May be called more than once."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(REFRESH_LIMIT_S)
            self._kill()
        with tempfile.TemporaryFile() as said:
            self._start(END_LIMIT_S, said)
            whole = self._wait(END_LIMIT_S + 30.0)
            said.seek(max(said.seek(0, os.SEEK_END) - SEEN_BYTES, 0))
            lines = said.read().decode(errors="replace").splitlines()
        for line in lines if whole else ():
            if line.startswith(WAYS_TO_SEE):
                self._seen(line)
        left = len(pending(sweep_folder(self._records_dir, self._sweep)))
        if not whole or left:
            self._notice(
                f"the sweep is not whole in MLflow ({left} records are not logged); the records are kept, log them "
                f"with: {self._later()}"
            )
        return whole and not left

    def abandon(self) -> None:
        """Ends what works on the page; what it had not logged keeps its note."""
        self._kill()

    def _start(self, limit_s: float, stdout: IO[bytes] | int = subprocess.DEVNULL) -> None:
        command = [
            "nice", "-n", str(NICENESS), sys.executable, "-m", "wattcount", "log", "--sweep", self._sweep, "--records-dir", self._records_dir,
            "--pending", "--limit-s", f"{limit_s:g}", "--experiment", self._tracking.experiment,
        ]  # fmt: skip
        if self._tracking.uri:  # its password is masked; the environment, which the process inherits, has it
            command += ["--uri", self._tracking.uri]
        self._began_s = time.monotonic()
        with contextlib.suppress(OSError):
            # A session of its own: Ctrl-C is for the sweep, which then ends this.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _finish(self, now_s: float) -> None:
        status = self._process.poll() if self._process is not None else None
        self._kill()
        took_s = now_s - self._began_s
        self._next_s = max(self._next_s, now_s + 5 * took_s)
        if status != 0 and not self._told:
            self._told = True
            self._notice(
                f"the sweep's page could not be written to MLflow; the sweep goes on and tries again now and then; see why "
                f"with: {self._later()}"
            )

    def _later(self) -> str:
        """What a person types to log what is missing."""
        from wattcount.tracking import log_command

        what = f"--sweep {self._sweep} --records-dir {shlex.quote(self._records_dir)}"
        return log_command(what, self._tracking)

    def _wait(self, limit_s: float) -> bool:
        if self._process is None:
            return False
        try:
            return self._process.wait(limit_s) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it waits in the kernel, for a disk
                self._process.wait(KILL_LIMIT_S)
            self._process = None


def pending(folder: Path) -> list[Path]:
    """Records of a sweep (`ledger.sweep_folder`) that have a note, oldest first, so far as they are still there."""
    found = []
    for note in sorted((folder / TO_LOG).glob("*")):
        with contextlib.suppress(OSError):
            record = Path(note.read_text(encoding="utf-8"))
            if record.is_dir():
                found.append(record)
            else:
                note.unlink()
    return found


def logged(folder: Path, record: Path) -> None:
    """Removes the note of a record."""
    _remove(folder / TO_LOG / record.name)


def wait_for_quiet(limit_s: float) -> bool:
    """Waits until no run of this host is in its window; whether that came about."""
    end_s = time.monotonic() + limit_s
    while in_a_window():
        if time.monotonic() >= end_s:
            return False
        time.sleep(WINDOW_POLL_S)
    return True


def _leave_note(folder: Path, record: Path) -> Path:
    note = folder / TO_LOG / record.name
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(record), encoding="utf-8")
    return note


def _remove(note: Path) -> None:
    with contextlib.suppress(OSError):
        note.unlink()


def _reason(error: Exception, tracking: TrackingConfig, sweep: str) -> str:
    if isinstance(error, WattcountError):
        return str(error)
    from wattcount.tracking import log_command

    later = log_command(f"--sweep {sweep}", tracking)
    return f"could not log to MLflow: {one_line(error)}; log it later with: {later}"
