from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that outlives a single call, as engines do."""
    with asyncio.Runner() as runner:
        yield runner
