"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T]) -> T:
    """Returns the first result that is true. There is no limit: pytest's own timeout ends a test that waits for ever."""
    while not (found := condition()):
        time.sleep(0.01)
    return found
