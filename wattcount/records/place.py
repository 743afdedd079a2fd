"""Where a record is made and where it ends up."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
CLAIMS_FOLDER = ".running"
"""In records_dir: a claim (`wattcount.ownership`) for each record that is being made, and for its point."""
POINT_LOCK_SUFFIX = ".point"


def new_run_id(at: datetime | None = None) -> str:
    """`YYYYMMDD-HHMMSS-mmm-xxxxxx` (UTC, milliseconds, random): sorts by time, and two are never the same."""
    at = (at or datetime.now(UTC)).astimezone(UTC)
    return f"{at:%Y%m%d-%H%M%S}-{at.microsecond // 1000:03d}-{secrets.token_hex(3)}"


def temporary_folder(records_dir: Path, point_id: str, run_id: str) -> Path:
    """Beside the final place, so that a rename puts it there in one step."""
    return records_dir / point_id[:12] / f"{TEMPORARY_PREFIX}{run_id}"


def claim_file(records_dir: Path, run_id: str) -> Path:
    return records_dir / CLAIMS_FOLDER / f"{run_id}.lock"


def point_lock_file(records_dir: Path, point_id: str, seed: int, repeat: int) -> Path:
    """Held by whoever measures this repeat of the point."""
    return records_dir / CLAIMS_FOLDER / f"{point_id}-s{seed}-r{repeat}{POINT_LOCK_SUFFIX}"


def final_folder(records_dir: Path, point_id: str, repeat: int, run_id: str) -> Path:
    return records_dir / point_id[:12] / f"r{repeat}-{run_id}"
