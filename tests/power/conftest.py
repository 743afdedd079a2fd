"""Emulated machines and recorded traces for the tests of the power package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wattcount.power.emulation import EmulatedGpu, EmulatedMachine

CURVE = "t_s,power_w\n-10,100\n0.5,400\n1.5,200\n"
Machines = Callable[..., EmulatedMachine]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machines]:
    """Makes an emulated machine and points the environment at it; by default one H200 that steps 100, 400, 200 W.

    Seconds of `curve` and `faults` count from `epoch_ns`, the moment at which the first process reads it unless told.
    """
    opened: list[EmulatedMachine] = []

    def make(
        *profiles: str, curve: str = CURVE, faults: Any = (), options: Any = None, epoch_ns: int | None = None
    ) -> EmulatedMachine:
        (tmp_path / "curve.csv").write_text(curve)
        gpus = [EmulatedGpu(p, truth="curve.csv", options=options or {}) for p in profiles or ("h200",)]
        made = EmulatedMachine(gpus, tmp_path, faults=faults, epoch_ns=epoch_ns).open()
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


@pytest.fixture
def h200_data() -> Path:
    """Recordings of a real H200, which are not part of the project."""
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    folder = Path(os.environ.get("WATTCOUNT_SHARED_DATA", default)) / "h200"
    if not folder.is_dir():
        pytest.skip(f"the H200 recordings are not at {folder}")
    return folder
