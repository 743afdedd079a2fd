"""Virtual time for code on asyncio: a test of seconds takes milliseconds, and a busy machine changes nothing.

The event loop does not sleep: where it would wait for a timer, the clock jumps to that timer. Each reading of the clock takes
`READ_NS`, so that code that waits by reading the clock goes on. Work for a thread (`run_in_executor`) is done at once.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from unittest import mock

import wattcount.clock

READ_NS = 1_000
"""Time that one reading of the clock takes [ns]: small beside the tests' milliseconds."""


class VirtualClock:
    """A clock that only this class moves. It begins at CLOCK_MONOTONIC's time, so that real stamps are never after virtual ones."""

    def __init__(self) -> None:
        self._ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """The time [ns], `READ_NS` after the last reading."""
        self._ns += READ_NS
        return self._ns

    def pass_s(self, seconds: float) -> None:
        """Lets time pass: what a call that blocks the event loop does."""
        self._ns += round(seconds * 1e9)


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        # Without a timer, only something real can wake the loop.
        ready = super().select(None if timeout is None else 0)
        if not ready and timeout is not None and timeout > 0:
            self._clock.pass_s(timeout)
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        super().__init__(_Selector(clock))
        self.set_default_executor(_AtOnce())

    def time(self) -> float:
        return self._clock.now_ns() / 1e9


class _AtOnce(ThreadPoolExecutor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:
            done.set_exception(error)
        return done


@contextmanager
def virtual_clock() -> Iterator[VirtualClock]:
    """Puts a virtual clock in the place of `wattcount.clock`'s."""
    clock = VirtualClock()
    with mock.patch("wattcount.clock._monotonic_ns", clock.now_ns):
        yield clock


def block_s(seconds: float) -> None:
    """Blocks the event loop for so long, as `time.sleep` does in real time. Only below `virtual_clock` or `run`."""
    clock = getattr(wattcount.clock._monotonic_ns, "__self__", None)
    assert isinstance(clock, VirtualClock), "time is real here"
    clock.pass_s(seconds)


def run(work: Callable[[VirtualClock], Coroutine[Any, Any, Any]] | Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine in virtual time, or what a function of the clock returns. As `asyncio.run` otherwise."""
    with virtual_clock() as clock, asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(work(clock) if callable(work) else work)
