"""Records whose run was killed together with whoever watched it: found, and closed by a later run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from wattcount import ownership
from wattcount.errors import RunFailedError
from wattcount.records.place import CLAIMS_FOLDER, TEMPORARY_PREFIX, claim_file
from wattcount.records.writer import RecordWriter

WORKER_DIED = "worker_died"


@dataclass(frozen=True)
class Closed:
    """A record that was left open. `path` None: it could not be closed, `message` says why."""

    path: Path | None
    message: str


def close_orphans(records_dir: Path) -> list[Closed]:
    """Closes what runs of this host left behind when they and their parents were killed.

    A folder is touched only if the claim to it was made on this host and nobody holds it any more
    (`wattcount.ownership`), so runs that go on, and those of other hosts, are left alone. What was
    measured becomes a record with the reason `worker_died`; folders in which nothing was measured go.
    """
    closed = []
    for file in sorted((records_dir / CLAIMS_FOLDER).glob("*.lock")):
        claim = ownership.take_over(file)
        if claim is None:
            continue
        run_id = file.stem
        folder = next(records_dir.glob(f"*/{TEMPORARY_PREFIX}{run_id}"), None)
        # Whatever ends this, a signal too: as long as it is not done, the next start finds the claim and does it.
        done = False
        try:
            if folder is not None and RecordWriter(folder).has_draft():
                path = RecordWriter.recover(
                    folder, WORKER_DIED, "the run and the process that watched it were killed", late=True
                )
                closed.append(Closed(path, f"closed the record of a run that was killed: {path}"))
            elif folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            done = True
        except RunFailedError as error:
            closed.append(
                Closed(None, f"a run that was killed left {folder}, which cannot be closed: {error}")
            )
        finally:
            claim.release(remove=done)
    return closed


def open_folders(records_dir: Path) -> dict[Path, str]:
    """Folders of records that are not closed, and whose they are: `running` (on this host), `dead` (the next
    run closes it), `elsewhere` (another host's) or `unclaimed` (nobody can tell)."""
    return {folder: _whose(records_dir, folder) for folder in records_dir.glob(f"*/{TEMPORARY_PREFIX}*")}


def _whose(records_dir: Path, folder: Path) -> str:
    file = claim_file(records_dir, folder.name.removeprefix(TEMPORARY_PREFIX))
    if not file.exists():
        return "unclaimed"
    if not ownership.is_of_this_host(file):
        return "elsewhere"
    claim = ownership.take_over(file)
    if claim is None:
        return "running"
    claim.release()
    return "dead"
