"""The metrics of a record, from its `metrics.json` where that says what it was made of, else computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wattcount.errors import WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.metrics.compute import compute
from wattcount.metrics.registry import METRICS_VERSION, spec
from wattcount.records import Record
from wattcount.records.intake import DamagedError
from wattcount.records.schema import METRICS_JSON, check_metrics

INPUTS = "inputs"
"""Key of `metrics.json`: SHA-256 of the files that it was computed from, by name (`Record.digests`)."""
CHECKSUM = "checksum"
"""Key of `metrics.json`: SHA-256 of everything else in it, see `_checksum`."""


def load_metrics(record: Record) -> dict[str, Any]:
    """Content of `metrics.json`; computed afresh, and not written, where it is missing or cannot be believed.

    It is believed where it is of this version, was computed from the raw files as they are now, and was not changed
    since. Raises `WattcountError` where a raw file is not what was measured.
    """
    record.check_files()
    stored = stored_metrics(record)
    return stored if stored is not None else computed(record)


def stored_metrics(record: Record) -> dict[str, Any] | None:
    """Content of `metrics.json` where it can be believed; None where it is to be computed. Reads no table."""
    try:
        stored = record.metrics
    except DamagedError:
        return None
    if stored is None or stored.get("metrics_version") != METRICS_VERSION:
        return None
    checksum = stored.pop(CHECKSUM, None)
    if stored.pop(INPUTS, None) != record.digests or checksum != _checksum(stored, record.digests):
        return None
    try:
        check_metrics(stored)
        known = all(spec(key) for key in stored["metrics"])
    except (KeyError, ValueError):
        return None
    return stored if known else None


def computed(record: Record) -> dict[str, Any]:
    """The same as `compute`. Raises `DamagedError` in one line for raw files from which nothing can be computed."""
    try:
        return compute(record)
    except WattcountError:
        raise
    except MemoryError as error:
        raise DamagedError(f"{record.path} is damaged: its figures need more memory than there is") from error
    # A stranger's numbers can meet any line of the arithmetic; what went wrong is the record, and it is said which.
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise DamagedError(f"{record.path} is damaged: nothing can be computed from it ({what})") from error


def to_bytes(metrics: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> bytes:
    """The bytes of `metrics.json`. `inputs`: what it was computed from, `Record.digests`; without, it is believed by none."""
    content = dict(metrics)
    if inputs is not None:
        content |= {INPUTS: dict(inputs), CHECKSUM: _checksum(metrics, inputs)}
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write(record_path: str | Path) -> Path:
    """Computes `metrics.json` of a record afresh and puts it in place in one step; returns its path.

    Raises `WattcountError` for what is no record, or is damaged; OSError where it cannot be written.
    """
    record = Record.open(record_path)
    record.check_files()
    target = record.path / METRICS_JSON
    write_atomically(target, to_bytes(computed(record), record.digests))
    return target


def _checksum(metrics: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 of the canonical JSON of both: a value that was edited by hand, or by a bad disk, is found."""
    text = json.dumps([metrics, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
