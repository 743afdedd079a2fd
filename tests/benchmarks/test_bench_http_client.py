from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from bench_http_client import Load, cpus_of, echo_servers, lateness_p99_ms, measured


def test_lateness_is_told_from_the_least_late_request() -> None:
    at_ms = [1000.0 + 10 * number for number in range(200)]
    at_ms[50] += 7.0
    late = [*at_ms[:100], *[at + 4.0 for at in at_ms[100:]]]
    assert lateness_p99_ms([round(at * 1e6) for at in at_ms], 100.0, 200) == pytest.approx(0.0, abs=0.2)
    assert lateness_p99_ms([round(at * 1e6) for at in late], 100.0, 200) == pytest.approx(4.0, abs=0.2)


def test_cpus_as_taskset_writes_them() -> None:
    assert (cpus_of("0,2-4"), cpus_of(None)) == ({0, 2, 3, 4}, None)


def test_the_client_is_measured_against_several_servers(tmp_path: Path) -> None:
    with echo_servers(2, 5, 1.0, None, tmp_path) as (url, arrivals):
        seen = measured("wattcount", "", Load(url, "echo", Path("none"), 50.0, 20, 5, True, 1), None)
        assert (seen.completed, len(arrivals())) == (20, 20)
        assert arrivals() == []
    assert seen.cpu_s > 0
    assert seen.tpot_ms is not None
