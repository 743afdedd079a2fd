from __future__ import annotations

import pytest
from witness import Witness


@pytest.fixture
def witness() -> Witness:
    return Witness()
