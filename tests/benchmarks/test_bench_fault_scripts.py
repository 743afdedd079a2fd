"""A part of the benchmark of fault scripts: the same scripts each time, through the whole pipeline."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_fault_scripts", FOLDER / "bench_fault_scripts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(FOLDER))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


@pytest.mark.parametrize("numbers", [range(first, first + 12) for first in range(0, 60, 12)])
def test_no_valid_record_is_off_by_three_of_its_intervals(bench: ModuleType, numbers: range) -> None:
    rows = [bench.run((number, True)) for number in numbers]
    failed = [row for row in rows if bench.failed(row)]
    assert not failed, failed[0]


@pytest.mark.parametrize("number", [20907, 21751, 23660, 23970, 25358, 26846, 27535])
def test_scripts_that_once_were_valid_and_off(bench: ModuleType, number: int) -> None:
    row = bench.run((number, True))
    assert not bench.failed(row), row


def test_healthy_runs_are_valid_and_right(bench: ModuleType) -> None:
    for number in range(24):
        row = bench.run((number, False))
        assert row["valid"], row
        assert not bench.failed(row), row


def test_a_script_is_a_function_of_its_number(bench: ModuleType) -> None:
    one, again, other = (bench.make(number, faulty=True) for number in (5, 5, 6))
    assert one.kinds == again.kinds
    assert (one.events == again.events).all()
    assert len(one.events) != len(other.events) or (one.events != other.events).any()


@pytest.mark.parametrize("kind", ["dropout", "gap", "errors", "zeros", "freeze", "counter freeze", "lost counting",
                                  "counter reset", "counter jump", "glitch", "counter glitch", "clock step", "slow call"])  # fmt: skip
def test_each_kind_of_fault_changes_the_trace(bench: ModuleType, kind: str) -> None:
    script = bench.make(3, faulty=False)
    changed = 0
    for seed in range(5):
        events = bench.FAULTS[kind](script, np.random.default_rng(seed), script.events.copy())
        changed += len(events) != len(script.events) or bool((events != script.events).any())
    assert changed >= 2
    assert set(bench.FAULTS) >= {kind}


def test_what_is_off_fails_and_what_is_invalid_does_not(bench: ModuleType) -> None:
    row = {"valid": True, "off": {"window": 0.9, "dynamic": 1.1}}
    assert bench.failed(row)
    assert not bench.failed(row | {"valid": False})
    assert not bench.failed(row | {"off": {"window": 0.9}})
