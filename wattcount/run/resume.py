"""What was measured before, or is being measured by someone else, so that nothing is measured twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wattcount import ownership
from wattcount.errors import MeasuredElsewhereError, WattcountError
from wattcount.records.reader import Record
from wattcount.records.writer import CLAIMS_FOLDER, POINT_LOCK_SUFFIX, final_folder, point_lock_file

POLL_S = 0.2


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
