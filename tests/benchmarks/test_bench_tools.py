"""The comparison with other tools, as far as it needs nothing from PyPI."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load("bench_tools")


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    return load("tools_worker")


def test_truth_of_a_step(bench: ModuleType) -> None:
    start = 5_000_000_000_000
    truth = bench.Truth(np.array([start, start + 10**9], np.int64), np.array([100_000, 300_000], np.int64))
    assert truth.energy_j(start + 10**9 // 2, start + 3 * 10**9 // 2) == pytest.approx(0.5 * 100 + 0.5 * 300)
    assert truth.energy_j(start + 2 * 10**9, start + 3 * 10**9) == pytest.approx(300)


def test_loads_are_the_same_for_the_same_seed(bench: ModuleType) -> None:
    for make in bench.LOADS.values():
        points = make(20.0, np.random.default_rng(1))
        assert points == make(20.0, np.random.default_rng(1))
        assert points != make(20.0, np.random.default_rng(2))
        t_s, power_w = np.array(points).T
        assert (np.diff(t_s) > 0).all()
        assert power_w.min() > 80
        assert power_w.max() <= 700


def test_windows_of_a_lane_do_not_overlap(bench: ModuleType) -> None:
    lanes = bench.FULL.windows(np.random.default_rng(0))
    counts: dict[float, int] = {}
    for lane in lanes:
        for (start, end), (following, _) in pairwise(lane):
            assert following - end >= 0.25
            assert start < end <= bench.FULL.duration_s
        length = round(lane[0][1] - lane[0][0], 3)
        counts[length] = counts.get(length, 0) + len(lane)
    assert set(counts) == {1.0, 5.0, 10.0}
    assert min(counts.values()) * bench.BOARDS >= bench.NEEDED_FOR_P99
    for plan in (bench.QUICK, bench.CPU):
        assert all(plan.windows(np.random.default_rng(bench.SEED)))


def test_summary(bench: ModuleType) -> None:
    def window(value_j: float | None, u95_j: float | None = None) -> object:
        return bench.Window("tool", "load", 1.0, 100.0, value_j, u95_j)

    few = bench.summary([window(101.0), window(97.0), window(None)])
    assert (few["windows"], few["refused"], few["p99_pct"], few["covered_share"]) == (3, 1, None, None)
    assert few["mean_pct"] == pytest.approx(-1)
    assert few["worst_pct"] == pytest.approx(3)
    many = bench.summary([window(100.0 + i / 100, 0.5) for i in range(101)])
    assert many["p99_pct"] == pytest.approx(0.99)
    assert many["covered_share"] == pytest.approx(51 / 101)
    assert bench.summary([window(None)])["worst_pct"] is None


def test_advantage_is_over_the_best_of_the_others(bench: ModuleType) -> None:
    p99 = {"wattcount": 0.5, "pynvml_10hz": 3.0, "counter_ends": None, "zeus_monitor": 6.0, "codecarbon": 4.0}
    rows = [{"load": "llm", "window_s": 1.0, "tool": tool, "p99_pct": value} for tool, value in p99.items()]
    (found,) = bench.advantage(rows, "p99_pct")
    assert (found["best_other"], found["times_other"]) == ("pynvml_10hz", 6.0)
    assert (found["best_package"], found["times_package"]) == ("codecarbon", 8.0)
    (alone,) = bench.advantage(rows[:1], "p99_pct")
    assert alone["best_other"] is alone["times_package"] is None


def test_own_cpu_time_is_seen(worker: ModuleType) -> None:
    before = worker.tree_cpu_s()
    sum(i * i for i in range(200_000))
    assert 0 < worker.tree_cpu_s() - before < 5


def test_a_tool_that_fails_is_named(bench: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"nonesuch on bursts ended with code 1: .*KeyError: 'nonesuch'"):
        bench.run_stage(
            bench.QUICK,
            1,
            ("nonesuch",),
            ("bursts",),
            "h200",
            {"nonesuch": Path(sys.executable)},
            tmp_path / "x",
        )


@pytest.mark.slow
def test_tools_that_need_nothing_from_pypi(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "QUICK", bench.Plan(2.6, ((1.0, 2),)))
    monkeypatch.setattr(bench, "CPU", bench.Plan(0.2, ((0.1, 1),)))
    path = tmp_path / "tools.json"
    bench.main(["--quick", "--tools", ",".join(bench.OWN), "--loads", "square_1s", "--json", str(path)])
    found = json.loads(path.read_text())
    assert found["clamped"] == 0
    assert {row["tool"] for row in found["rows"]} == set(bench.OWN)
    worst = {row["tool"]: row["worst_pct"] for row in found["rows"]}
    assert worst["wattcount"] < 3
    assert min(worst.values()) > 0  # 0: the truth was the tool's own answer
    assert {row["windows"] - row["refused"] for row in found["rows"]} <= {2, 3, 4}
    assert all(0 <= share < 0.5 for share in found["cpu_share"].values())
    head = "| load | window | windows | wattcount | counter_edges | counter_ends | pynvml_10hz |"
    assert head in capsys.readouterr().out
