"""vLLM's processes, and threads to wait for it in."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing.resource_tracker
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil

_T = TypeVar("_T")


def own_children() -> list[psutil.Process]:
    """This process' descendants, without Python's resource tracker, which is shared and outlives engines."""
    tracker = getattr(multiprocessing.resource_tracker, "_resource_tracker", None)
    tracker_pid = getattr(tracker, "_pid", None)
    return [child for child in psutil.Process().children(recursive=True) if child.pid != tracker_pid]


def kill_all(processes: Sequence[psutil.Process], grace_s: float = 0.0) -> None:
    """Ends processes that are still there and waits until they are gone."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)


def in_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Runs `work` in a daemon thread: unlike the loop's own pool, one that hangs does not keep the program."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result: _T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=body, name="wattcount-engine", daemon=True).start()
    return future
