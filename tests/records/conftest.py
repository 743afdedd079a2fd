from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from synthetic_record import SyntheticRun

from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.engines.base import EngineStep
from wattcount.load.generator import RequestRecord
from wattcount.records.schema import RunInfo

UUID = SyntheticRun().uuid(0)


@pytest.fixture
def info() -> RunInfo:
    return SyntheticRun(complete=False).info()


@pytest.fixture
def events() -> Callable[..., NDArray[np.void]]:
    """`events(n, start)`: n readings of power, one a millisecond, some without a stamp."""

    def make(n: int, start: int = 0, gpu: int = 0) -> NDArray[np.void]:
        made = np.zeros(n, EVENT_DTYPE)
        made["t0_ns"] = (start + np.arange(n)) * 1_000_000
        made["t1_ns"] = made["t0_ns"] + 500
        made["prev_t0_ns"] = made["t0_ns"] - 1_000_000
        made["prev_t0_ns"][:1] = -1
        made["source_ts_us"] = -1
        made["value"] = 100_000 + np.arange(n)
        made["source"] = Source.POWER_INSTANT
        made["gpu"] = gpu
        return made

    return make


@pytest.fixture
def request_row() -> Callable[..., RequestRecord]:
    def make(index: int, tokens: int = 0, **other: Any) -> RequestRecord:
        row = RequestRecord(f"w{index}", index, "window", planned_send_ns=1000 * index)
        row.token_ts_ns = [1000 * index + i for i in range(tokens)]
        row.token_count = [1] * tokens
        for name, value in other.items():
            setattr(row, name, value)
        return row

    return make


@pytest.fixture
def step() -> Callable[[int], EngineStep]:
    return lambda t: EngineStep(t, None, 5, 16, None, 1, 0, 0.5)


@pytest.fixture
def limit_file_size() -> Callable[[int], Any]:
    """`with limit_file_size(n)`: no file can grow beyond n bytes, as on a full disk."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit
