"""What killed runs left behind on this host, cleared away before the next one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from wattcount import ownership
from wattcount.errors import WattcountError
from wattcount.records.writer import close_orphans
from wattcount.run.resume import remove_stale_claims

TEMPORARY_PREFIX = "wattcount-"
"""Of the folders that runs make for temporary files."""


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
