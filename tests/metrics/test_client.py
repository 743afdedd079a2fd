"""Loads that were sent late, by whose fault, and tokens that nobody counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun, at, findings_of, request, steady_requests, values_of

WINDOW_S = (40.0, 100.0)


@pytest.mark.parametrize(
    ("lag_ms", "expected"), [(9.0, None), (12.0, None), (13.0, False), (240.0, False), (260.0, True)]
)
def test_a_generator_that_lags(tmp_path, lag_ms, expected):
    """4 requests/s: a warning above 5 % of the mean gap (12.5 ms), invalid above the gap itself."""
    found = findings_of(SyntheticRun(requests=steady_requests(lag_ms=lag_ms)), tmp_path)
    if expected is None:
        assert "generator_lagging" not in found
    else:
        assert found["generator_lagging"]["invalidates"] is expected


def test_one_late_request_of_many_is_no_lag(tmp_path):
    rows = [*steady_requests(), request(999, 70.0, lag_ms=500.0)]
    assert "generator_lagging" not in findings_of(SyntheticRun(requests=rows), tmp_path)


def test_a_batch_cannot_lag(tmp_path):
    rows = [request(i, 40.0, lag_ms=i) for i in range(500)]
    assert "generator_lagging" not in findings_of(SyntheticRun(scenario="batch", requests=rows), tmp_path)


def client(**details: Any) -> dict[str, Any]:
    """What client processes tell that did well."""
    start, end = (at(second) for second in WINDOW_S)
    well = {
        "processes": 2,
        "cpu": [[[start, 0], [end, 20 * 10**9]]] * 2,
        "stalls": [[], []],
        "dispatch_delay_ms": {"p50": 0.1, "p99": 0.5, "max": 2.0},
        "tokens_counted": {"usage_of_each_event": 1000},
        "usage_missing": 0,
        "usage_wrong": 0,
        "recounted": 0,
        "recounted_wrong": 0,
    }
    return {"details": {"client": well | details}}


def found(tmp_path: Path, lag_ms: float = 0.1, scenario: str = "server", **details: Any) -> dict[str, Any]:
    run = SyntheticRun(requests=steady_requests(lag_ms=lag_ms), scenario=scenario, engine=client(**details))
    return findings_of(run, tmp_path)


def test_a_client_that_keeps_up(tmp_path: Path) -> None:
    assert found(tmp_path) == {}


@pytest.mark.parametrize(("lag_ms", "limited"), [(12.0, False), (13.0, True)])
def test_a_client_that_sends_late_is_measured_itself(tmp_path: Path, lag_ms: float, limited: bool) -> None:
    """4 requests/s: the limit is 5 % of the mean gap, 12.5 ms. The generator of the run's own process would only be warned of."""
    findings = found(tmp_path, lag_ms)
    assert set(findings) == ({"client_limited"} if limited else set())
    if limited:
        assert findings["client_limited"]["invalidates"]
        assert findings["client_limited"]["figure"] == pytest.approx(13.0 / 12.5)
        assert "end what else runs here" in findings["client_limited"]["message"]


def test_a_client_that_stands_still_or_has_no_cpu_left(tmp_path: Path) -> None:
    start, end = (at(second) for second in WINDOW_S)
    stalls = [[], [[start - 10**9, 10**9 + 36 * 10**7], [end - 36 * 10**7, 10**9]]]
    findings = found(tmp_path / "a", stalls=[[], [[start - 10**9, 10**9 + 2 * 10**8]]])
    assert findings == {}  # before the window, but for a third of a percent
    assert found(tmp_path / "b", stalls=stalls)["client_limited"]["figure"] == pytest.approx(1.2)
    stalls[0] = [[start + 10**9, 10**9]]
    assert found(tmp_path / "c", stalls=stalls)["client_limited"]["figure"] == pytest.approx(100 / 60)
    busy = [[[start - 10**9, 0], [start, 10**9], [end, 58 * 10**9]], [[start, 0], [end, 10**9]]]
    limited = found(tmp_path / "d", cpu=busy)["client_limited"]
    assert limited["figure"] == pytest.approx(57 / 60 / 0.9)
    assert "set engine.client_processes higher" in limited["message"]


def test_a_batch_is_sent_at_once_whatever_its_lag(tmp_path: Path) -> None:
    assert "client_limited" not in found(tmp_path, 500.0, "batch")


def test_waiting_for_a_slot_is_not_the_client_s_fault(tmp_path: Path) -> None:
    def limited(delay_ms: float, name: str) -> dict[str, Any]:
        run = SyntheticRun(
            requests=steady_requests(lag_ms=2000.0),
            engine=client(dispatch_delay_ms={"p50": 0.1, "p99": delay_ms, "max": 99.0}),
        )
        plain = run.config()
        run.config = lambda: plain | {"scenario": plain["scenario"] | {"max_in_flight": 8}}  # type: ignore[method-assign]
        return findings_of(run, tmp_path / name)

    assert "client_limited" not in limited(9.0, "a")
    assert limited(30.0, "b")["client_limited"]["figure"] == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("details", "share"),
    [
        ({"tokens_counted": {"usage_of_each_event": 990, "events": 10}}, None),
        ({"tokens_counted": {"usage_of_each_event": 980, "events": 20}}, 0.02),
        ({"usage_wrong": 30}, 0.03),
        ({"recounted": 200, "recounted_wrong": 2}, None),
        ({"recounted": 200, "recounted_wrong": 20}, 0.1),
        ({"tokens_counted": {"usage_by_tokenizer": 1000}}, None),
    ],
)
def test_tokens_that_nobody_counted(tmp_path: Path, details: dict[str, Any], share: float | None) -> None:
    findings = found(tmp_path, **details)
    if share is None:
        assert findings == {}
    else:
        assert findings["tokens_unsure"]["figure"] == pytest.approx(share)
        assert findings["tokens_unsure"]["invalidates"]


@pytest.mark.parametrize("wrong", [None, 3, "x", [], {}, [None], [[[1]]], [[["a", 2]]]])
def test_whatever_a_record_says_of_its_client(tmp_path: Path, wrong: object) -> None:
    names = ("cpu", "stalls", "dispatch_delay_ms", "tokens_counted", "usage_wrong", "recounted")
    assert found(tmp_path / "a", **dict.fromkeys(names, wrong)) == {}
    assert findings_of(SyntheticRun(engine={"details": {"client": wrong}}), tmp_path / "b") == {}


def test_latency_from_the_planned_send(tmp_path: Path) -> None:
    rows = [request(i, 40.0 + i / 2, ttft_ms=50.0, lag_ms=30.0) for i in range(100)]
    values = values_of(SyntheticRun(requests=rows), tmp_path)
    assert values["latency/ttft_p50_ms"] == 50.0
    assert values["latency/ttft_planned_p50_ms"] == 80.0
    assert values["latency/e2e_planned_p50_ms"] == values["latency/e2e_p50_ms"] + 30.0
