"""The emulated H200 against a recorded one; skipped where the recording is not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

LOADS = ("25on100", "25on101.7", "50on100", "10on20", "40on130", "500on1000", "100on200")


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "bench_emulator_fidelity.py"
    spec = importlib.util.spec_from_file_location("bench_emulator_fidelity", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recording(bench: ModuleType) -> object:
    folder = bench.data_folder()
    if not (folder / "sq_trace.csv").is_file():
        pytest.skip(f"the recording of a real H200 is not at {folder}; set WATTCOUNT_SHARED_DATA")
    return bench.read_recording(folder)


@pytest.mark.parametrize("load", LOADS)
def test_each_source_shows_what_the_real_one_showed(bench: ModuleType, recording: object, load: str) -> None:
    rows = bench.compare(recording, load, seeds=bench.SEEDS)
    assert {row.source for row in rows} == {"counter", "ring", "average", "usage", "instant"}
    for row in rows:
        assert abs(row.mean_error) <= 0.03, row
        assert abs(row.spread_error) <= 0.20, row
        assert abs(row.lost_error) <= 0.02, row


@pytest.mark.parametrize(
    ("held_out", "limit"), [("average", 0.03), ("instant", 0.06), ("ring", 0.06), ("counter", 0.08)]
)
def test_a_source_that_the_curve_was_estimated_without_is_predicted(
    bench: ModuleType, recording: object, held_out: str, limit: float
) -> None:
    for load in LOADS:
        rows = {row.source: row for row in bench.compare(recording, load, seeds=8, hold_out=(held_out,))}
        assert abs(rows[held_out].mean_error) <= limit, rows[held_out]


def test_a_sensor_of_another_kind_is_not_faithful(
    bench: ModuleType, recording: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can tell: through an A100's sensors the same power looks different."""
    monkeypatch.setattr(bench, "PLAYED_PROFILE", "a100")
    rows = {row.source: row for row in bench.compare(recording, "10on20", seeds=2)}
    assert not rows["ring"].faithful
    assert not rows["usage"].faithful
