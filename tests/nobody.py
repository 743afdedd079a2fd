"""Another user than root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def as_nobody() -> Iterator[None]:
    """Not root, whom permissions do not stop."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("cannot become another user here")
    try:
        yield
    finally:
        os.seteuid(0)
