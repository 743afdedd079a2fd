"""CPUs and priority of the engine's processes: what an operator does with `taskset` and `nice`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from wattcount.config.schema import EngineConfig
from wattcount.errors import RunFailedError

ROUNDS = 10
"""Most times that the threads of a process are listed anew [1], while threads that were not placed start others."""


def cpus_of(usable: Iterable[int], count: int, gpus: Sequence[int], all_gpus: int) -> list[int]:
    """`count` CPUs for each GPU of a run. Each GPU of the machine has an equal share, so that runs beside each other share none.

    usable    the CPUs that the run may use
    gpus      indices of its GPUs among the `all_gpus` of the machine
    Raises `RunFailedError` where a share is smaller than `count`.
    """
    ordered = sorted(usable)
    share = len(ordered) // all_gpus
    if count > share:
        raise RunFailedError(
            "setup_failed",
            f"engine.pinned_cpus: {count} CPUs for each of {all_gpus} GPUs are more than the {len(ordered)} that this run may "
            f"use; at most {share}",
        )
    return [cpu for gpu in gpus for cpu in ordered[gpu * share : gpu * share + count]]


def place(
    engine: EngineConfig,
    pids: Iterable[int],
    cpus: Sequence[int] | None,
    *,
    proc: Path = Path("/proc"),
    set_affinity: Callable[[int, Sequence[int]], None] = os.sched_setaffinity,
    set_priority: Callable[[int, int, int], None] = os.setpriority,
) -> dict[str, Any]:
    """Places every thread of the engine's processes; returns what was done, for `run.json`. Raises `RunFailedError`."""
    placed: set[int] = set()
    pids = list(pids)
    if not pids:
        raise RunFailedError(
            "setup_failed",
            "engine.pinned_cpus and engine.nice need an engine with processes of its own: leave them null",
        )
    for pid in pids:
        for _ in range(ROUNDS):
            new = set(_threads(proc / str(pid))) - placed
            for thread in new:
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    if cpus is not None:
                        set_affinity(thread, cpus)
                    if engine.nice is not None:
                        _set_priority(set_priority, thread, engine.nice)
            placed |= new
            if not new:
                break
    return {"cpus": None if cpus is None else list(cpus), "nice": engine.nice, "processes": len(pids)}


def _threads(folder: Path) -> list[int]:
    try:
        return [int(task.name) for task in (folder / "task").iterdir()]
    except OSError:
        return []


def _set_priority(set_priority: Callable[[int, int, int], None], thread: int, nice: int) -> None:
    try:
        set_priority(os.PRIO_PROCESS, thread, nice)
    except PermissionError:
        raise RunFailedError(
            "setup_failed",
            f"engine.nice={nice} is not permitted: run as root, or raise the limit (`ulimit -e`)",
        ) from None
