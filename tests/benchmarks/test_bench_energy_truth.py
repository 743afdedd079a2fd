"""The load shapes and windows of the comparison with the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_energy_truth as bench


@pytest.mark.parametrize("load", bench.ALIGNED)
@pytest.mark.parametrize("length_s", bench.WINDOWS_S)
def test_aligned_windows_begin_and_end_with_the_load(load: str, length_s: float) -> None:
    t_s, share = bench.LOADS[load](np.random.default_rng(3))
    start_ns, end_ns = bench.windows(np.random.default_rng(0), load, (t_s, share), 100, length_s)
    assert len(start_ns) >= 1
    idle_s = t_s[share == bench.IDLE_SHARE]
    for start, end in zip(start_ns, end_ns, strict=True):
        assert (end - start) / bench.S == pytest.approx(length_s, abs=1e-6)
        # Idle before it, load from its first moment on, idle again from its end on.
        at = np.searchsorted(t_s, (start - bench.START_NS) / bench.S + 1e-6, side="right") - 1
        assert share[at] > bench.IDLE_SHARE
        assert share[at - 1] == bench.IDLE_SHARE
        assert np.abs(idle_s - (end - bench.START_NS) / bench.S).min() < 1e-6


@pytest.mark.parametrize("load", [load for load in bench.LOADS if load != "LLM recorded"])
def test_every_load_covers_the_trace_and_stays_within_the_limit(load: str) -> None:
    t_s, share = bench.LOADS[load](np.random.default_rng(5))
    assert t_s[0] <= 0
    assert (np.diff(t_s) >= 0).all()
    assert share.min() > 0
    assert share.max() <= 1.0


def test_pooled_coverage_counts_every_window_once(capsys: pytest.CaptureFixture[str]) -> None:
    def row(error: float) -> dict[str, object]:
        return {"error": np.array([error, 0.0]), "u95": np.array([0.1, 0.1])}

    cells = {(False, "a30", "ramps", 1.0): [row(0.0)], (False, "a30", "ramps", 10.0): [row(0.5)], (True, "a30", "ramps", 1.0): [row(9.0)]}  # fmt: skip
    bench.pooled("profile", cells, 1)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("a30"))
    assert line.split()[1] == "75.0"


@pytest.mark.parametrize("number", [0, 1])
def test_every_window_of_a_trace_has_its_error_and_its_interval(number: int) -> None:
    rows = bench.one(("h200", "LLM steps", number, 5))
    assert [row["window_s"] for row in rows] == list(bench.WINDOWS_S)
    for row in rows:
        assert len(row["error"]) == len(row["u95"]) == 5
        assert np.abs(row["error"]).max() < 0.2
        assert ("oracle" in row) == (number == 0)
