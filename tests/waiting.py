"""Waiting for what another process or thread does, and looking at processes that may end meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import psutil

T = TypeVar("T")


def wait_until(condition: Callable[[], T]) -> T:
    """Returns the first result that is true. There is no limit: pytest's own timeout ends a test that waits for ever."""
    while not (found := condition()):
        time.sleep(0.01)
    return found


def commands(processes: Iterable[psutil.Process]) -> dict[psutil.Process, list[str]]:
    """The command lines of those processes that have not ended: not before, and not while they were looked at."""
    found = {}
    for process in processes:
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found[process] = process.cmdline()
        except psutil.Error:
            continue
    return found


def has_ended(pid: int) -> bool:
    """Also of a process that nobody has asked how it ended: whoever adopted it may never ask."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
