from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.events import EVENT_DTYPE
from wattcount.records import RecordWriter
from wattcount.scenario import Journal


class NoGpu:
    """A sampler with nothing to say."""

    gpu_uuids = ("GPU-0",)
    failure = None

    def mark(self) -> None:
        pass

    def drain(self) -> NDArray[np.void]:
        return np.empty(0, EVENT_DTYPE)

    def latest_power_w(self) -> float | None:
        return None

    def average_power_w(self) -> float | None:
        return None


def test_it_ends_when_it_is_cancelled_while_the_disk_takes_its_time(tmp_path: Path) -> None:
    """At every moment of a bound's work, and what was begun is finished."""
    finished: list[int] = []

    def slow_disk() -> Callable[[], None]:
        def sync() -> None:
            time.sleep(0.05)
            finished.append(1)

        return sync

    async def cancelled_after(writer: RecordWriter, seconds: float) -> None:
        journal = Journal(writer, NoGpu(), lambda _: None, slow_disk, tick_s=10.0)
        ticking = asyncio.create_task(journal.run())
        for _ in range(2):  # the second bound has to wait for the first one's disk
            journal.bound()
            await asyncio.sleep(0.01)
        await asyncio.sleep(seconds)
        ticking.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(ticking, return_exceptions=True)
        assert ticking.cancelled()

    for number, seconds in enumerate((0.0, 0.01, 0.04, 0.08)):
        writer = RecordWriter.create(tmp_path, "0" * 64, f"run-{number}")
        writer.open_spool(("GPU-0",))
        before = len(finished)
        asyncio.run(cancelled_after(writer, seconds))
        assert len(finished) > before
        writer.close()
