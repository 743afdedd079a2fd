"""The process that reads what strangers wrote: `python -P -m wattcount.dataset.confined` under limits that it sets on itself first.

It gets one line of JSON for each task and answers with one. It needs no network, and writes files only where it unpacks a bundle.
Whatever kills it, `dataset.validate` sees and tells.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from wattcount.errors import WattcountError, one_line

MOST_BREACHES = 20
"""Breaches of one rule that are told of one by one."""
MESSAGE_CHARACTERS = 500
"""Longest message of a breach [characters]: some lines of a terminal."""
MOST_FILES = 64
"""Files open at once."""
ALL_TASKS_CPU_S = 6 * 3600
"""CPU time of one process over all its tasks [s]: ten times what 10,000 records take."""


def confine(memory_bytes: int, file_bytes: int) -> None:
    """Limits of this process from now on. They cannot be taken back, but for CPU time up to `ALL_TASKS_CPU_S`."""
    for kind, most in (
        (
            resource.RLIMIT_DATA,
            memory_bytes,
        ),  # private memory; files that are mapped, as libraries, do not count
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, MOST_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _lower(kind, most)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (_least(ALL_TASKS_CPU_S, hard), _least(ALL_TASKS_CPU_S, hard)))


def no_more_processes() -> None:
    """No process and no thread is begun from now on. (The kernel does not hold root to it.)"""
    _lower(resource.RLIMIT_NPROC, 0)


def allow_cpu(seconds: int) -> None:
    """So much CPU time from now on; then the kernel ends this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(usage.ru_utime + usage.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (_least(until, hard), hard))


def _lower(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (_least(most, hard), _least(most, hard)))


def _least(one: int, other: int) -> int:
    return one if other == resource.RLIM_INFINITY else min(one, other)


# -- tasks


def unpack(task: Mapping[str, Any]) -> dict[str, Any]:
    """Unpacks a bundle: its manifest and its id."""
    from wattcount.dataset.bundle import opened_bundle

    bundle = opened_bundle(Path(task["bundle"]), Path(task["folder"]))
    return {"manifest": bundle.manifest.to_json(), "bundle_id": bundle.bundle_id}


def check_record(task: Mapping[str, Any]) -> dict[str, Any]:
    """Every rule about a record, and what rules about the bundle need of it."""
    from wattcount.dataset.checks import RULES
    from wattcount.dataset.rules import TRAITS, Submitted

    record = Submitted(Path(task["path"]), task["folder"], in_bundle=task["in_bundle"], cohort=task["cohort"])
    breaches: list[dict[str, Any]] = []
    for rule in RULES.values():
        if rule.scope == "record" and (found := _broken(rule.code, lambda rule=rule: rule.check(record))):
            breaches += found
            if rule.last:
                return {"breaches": breaches, "traits": {}}
    traits = {}
    for name in TRAITS:
        try:
            traits[name] = record.trait(name)
        except (WattcountError, *_STRANGERS) as error:
            breaches.append(_told("form/limits", f"{name} cannot be found: {_what(error)}"))
    return {"breaches": breaches, "traits": traits}


def check_bundle(task: Mapping[str, Any]) -> dict[str, Any]:
    """Every rule about the bundle as a whole."""
    from wattcount.dataset.bundle import Bundle, Manifest
    from wattcount.dataset.checks import RULES
    from wattcount.dataset.rules import Submission, Submitted

    manifest = None if task["manifest"] is None else Manifest.of_json(task["manifest"])
    bundle = None if manifest is None else Bundle(manifest, Path(task["folder"]), task["bundle_id"])
    records = [
        Submitted(Path(item["path"]), item["folder"], traits=item["traits"], in_bundle=bundle is not None)
        for item in task["records"]
    ]
    submission = Submission(bundle, records, where=task["dataset"])
    breaches: list[dict[str, Any]] = []
    for rule in RULES.values():
        if rule.scope == "bundle":
            breaches += _broken(rule.code, lambda rule=rule: rule.check(submission))
    return {"breaches": breaches}


TASKS = {"unpack": unpack, "record": check_record, "bundle": check_bundle}
"""What a confined process can be asked for."""

_STRANGERS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, OSError)
"""What a stranger's numbers can end in, in any line of the arithmetic."""


def _broken(code: str, check: Any) -> list[dict[str, Any]]:
    """The breaches of a rule, as JSON. One that cannot be judged is broken."""
    found: list[dict[str, Any]] = []
    more = 0
    try:
        breaches: Iterable[Any] = check()
        for breach in breaches:
            if len(found) < MOST_BREACHES:
                found.append(
                    _told(code, breach.message, breach.figure, breach.limit, breach.record, breach.severity)
                )
            else:
                more += 1
    except (WattcountError, *_STRANGERS) as error:
        found.append(_told(code, f"it cannot be judged: {_what(error)}"))
    if more:
        found.append(_told(code, f"and {more} more"))
    return found


def _told(
    code: str,
    message: str,
    figure: float | None = None,
    limit: float | None = None,
    record: str | None = None,
    severity: str | None = None,
) -> dict[str, Any]:
    return {
        "rule": code,
        "message": message[:MESSAGE_CHARACTERS],
        "figure": _finite(figure),
        "limit": _finite(limit),
        "record": record,
        "severity": None if severity is None else str(severity),
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _what(error: BaseException) -> str:
    return (
        one_line(error) if isinstance(error, WattcountError) else f"{type(error).__name__}: {one_line(error)}"
    )


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a task gives; `error` where it ended in one."""
    try:
        return TASKS[task["task"]](task)
    except MemoryError:
        return {"error": "it needs more memory than it may have", "memory": True}
    except (WattcountError, *_STRANGERS) as error:
        return {"error": _what(error)}


def main(given: BinaryIO, told: BinaryIO) -> None:
    """Tasks until there are no more. The first line has the limits."""
    first = json.loads(given.readline())
    confine(first["memory_bytes"], first["file_bytes"])
    _warm_up()
    no_more_processes()
    for line in given:
        allow_cpu(first["cpu_s"])
        found = answer(json.loads(line))
        told.write(json.dumps(found, allow_nan=False).encode() + b"\n")
        told.flush()
        if "memory" in found:
            return  # what is left of it is in pieces


def _warm_up() -> None:
    """Begins the threads that reading tables takes, and imports what rules need: later no thread and no file is there for it."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    from wattcount.dataset import checks  # noqa: F401

    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), file)
    pq.read_table(file)


if __name__ == "__main__":
    # What anything prints goes nowhere; answers have a pipe of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    main(sys.stdin.buffer, answers)
