from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, at, observation, request, steady_requests

from wattcount.metrics import compute
from wattcount.record import Record


def findings(run: SyntheticRun, folder: Path) -> dict[str, dict]:
    content = compute(Record.open(run.write(folder)))
    found = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert content["validity"]["valid"] == (not any(f["invalidates"] for f in found.values()))
    for finding in found.values():
        assert finding["figure"] > finding["limit"]
        assert finding["message"]
        assert "\n" not in finding["message"]
    return found


def test_a_clean_run_has_none(tmp_path):
    processes = [observation("compute_processes", 1, 0), observation("compute_processes", 15, 1)]
    assert findings(SyntheticRun(observations=processes), tmp_path) == {}


def test_gpu_lost(tmp_path):
    lost = [observation("power_usage", 90, 0, nvml_return=15)]
    assert findings(SyntheticRun(observations=lost), tmp_path)["gpu_lost"]["invalidates"]


@pytest.mark.parametrize(
    "seen", [[(1, 1)], [(1, 0), (15, 1), (50, 2)], [(1, 0), (15, 1), (99.9, 2), (101, 1)]]
)
def test_another_process_on_the_gpu(tmp_path, seen):
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings(run, tmp_path)["foreign_process"]["invalidates"]


def test_processes_of_the_engine_itself_and_after_the_window_are_fine(tmp_path):
    seen = [(1, 0), (15, 2), (105, 3)]
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings(run, tmp_path) == {}


def test_reads_that_stopped_for_a_while(tmp_path):
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(60) < row["t0_ns"] < at(68)
    ]
    gap = findings(run, tmp_path)["power_gap"]
    assert gap["figure"] == pytest.approx(8000, abs=600)
    assert gap["invalidates"]


def test_a_value_that_only_stayed_the_same_is_no_gap(tmp_path):
    run = SyntheticRun()
    # The same reads left out, but the read after them says that it was asked all along.
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": at(63.5) if at(67) <= row["t0_ns"] < at(67.4) else row["prev_t0_ns"]}
        for row in rows
        if not at(60) < row["t0_ns"] < at(67)
    ]
    assert "power_gap" not in findings(run, tmp_path)


def ring(power_mw: int, start_s: float = 0.0, end_s: float = 121.0) -> list[dict]:
    """A samples ring of constant power with its clock pairs: wall clock is monotonic plus an hour."""
    hour_ns = 3_600_000_000_000
    rows = [observation("realtime", t, at(t) + hour_ns) for t in range(int(start_s), int(end_s) + 1)]
    for tick in range(int(start_s * 50), int(end_s * 50)):
        row = observation("power_samples", tick / 50, power_mw)
        rows.append(row | {"source_ts_us": (at(tick / 50) + hour_ns) // 1000})
    return rows


@pytest.mark.parametrize(
    ("power_mw", "disagrees"), [(300_000, False), (312_000, False), (320_000, True), (280_000, True)]
)
def test_ring_against_counter(tmp_path, power_mw, disagrees):
    run = SyntheticRun(observations=ring(power_mw))
    found = findings(run, tmp_path)
    assert ("sources_disagree" in found) == disagrees
    if disagrees:
        assert not found["sources_disagree"]["invalidates"]
        assert found["sources_disagree"]["figure"] == pytest.approx(abs(power_mw / 300_000 - 1), rel=1e-3)


@pytest.mark.parametrize(
    ("lag_ms", "expected"), [(9.0, None), (12.0, None), (13.0, False), (240.0, False), (260.0, True)]
)
def test_a_generator_that_lags(tmp_path, lag_ms, expected):
    """4 requests/s: a warning above 5 % of the mean gap (12.5 ms), invalid above the gap itself."""
    found = findings(SyntheticRun(requests=steady_requests(lag_ms=lag_ms)), tmp_path)
    if expected is None:
        assert "generator_lagging" not in found
    else:
        assert found["generator_lagging"]["invalidates"] is expected


def test_one_late_request_of_many_is_no_lag(tmp_path):
    rows = [*steady_requests(), request(999, 70.0, lag_ms=500.0)]
    assert "generator_lagging" not in findings(SyntheticRun(requests=rows), tmp_path)


def test_a_batch_cannot_lag(tmp_path):
    rows = [request(i, 40.0, lag_ms=i) for i in range(500)]
    assert "generator_lagging" not in findings(SyntheticRun(scenario="batch", requests=rows), tmp_path)


def test_unfinished_requests(tmp_path):
    rows = steady_requests()
    for row in rows[-5:]:
        row["status"] = "cancelled"
    found = findings(SyntheticRun(requests=rows), tmp_path)
    assert found["requests_unfinished"]["figure"] == pytest.approx(5 / 240)
    assert not found["requests_unfinished"]["invalidates"]
