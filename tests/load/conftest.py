from __future__ import annotations

import os
from pathlib import Path

import pytest

_PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def azure() -> Path:
    """Folder of the Azure LLM inference traces of 2023."""
    shared = Path(os.environ.get("WATTCOUNT_SHARED_DATA", _PROJECT.parent / "shared" / "data"))
    if not (shared / "azure").is_dir():
        pytest.skip(f"the Azure traces are not in {shared}; set WATTCOUNT_SHARED_DATA")
    return shared / "azure"
