"""Trends within a window: what is there is found, what is chance is not."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_record import SyntheticRun, findings_of, request, steady_requests

from wattcount.metrics import compute
from wattcount.records import Record


def content_of(run: SyntheticRun, folder) -> dict:
    return compute(Record.open(run.write(folder)))


def poisson(rate_rps: float, seed: int, end_s: float = 100.0, **each) -> list[dict]:
    gaps = np.random.default_rng(seed).exponential(1 / rate_rps, int(rate_rps * (end_s - 30) * 2))
    times = 30.0 + np.cumsum(gaps)
    return [request(i, float(t), **each) for i, t in enumerate(times[times < end_s])]


def codes(content: dict) -> list[str]:
    return [finding["code"] for finding in content["validity"]["findings"]]


def test_constant_load_and_power_have_none(tmp_path):
    found = content_of(SyntheticRun(), tmp_path)
    for name in ("power", "throughput", "in_flight"):
        assert found["metrics"][f"window/{name}_drift_percent"] == pytest.approx(0, abs=1e-6)
    assert codes(found) == []


@pytest.mark.parametrize(("watts", "found"), [(30.0, True), (10.0, False)])
def test_power_that_rises_by_itself_has_not_settled(tmp_path, watts, found):
    """By `watts` W in the window's 60 s, on top of 300 W: 9.5 % or 3.3 %."""
    run = SyntheticRun(power_w=lambda t: 300.0 + watts * (t - 40.0) / 60.0)
    content = content_of(run, tmp_path)
    expected = 100 * watts / (300 + watts / 2)
    assert content["metrics"]["window/power_drift_percent"] == pytest.approx(expected, rel=0.02)
    assert ("not_settled" in codes(content)) == found
    if found:
        (finding,) = content["validity"]["findings"]
        assert finding["figure"] == pytest.approx(expected, rel=0.02)
        assert not finding["invalidates"]


def test_arrivals_that_happen_to_rise_are_not_the_machines_fault(tmp_path):
    """Twice as many requests in the second half, and power that follows them."""
    rows = [*steady_requests(4.0, 30.0, 70.0), *steady_requests(8.0, 70.0, 100.0)]
    run = SyntheticRun(requests=rows, power_w=lambda t: 300.0 if t < 70 else 400.0)
    content = content_of(run, tmp_path)
    assert content["metrics"]["window/throughput_drift_percent"] > 40
    assert content["metrics"]["window/power_drift_percent"] > 15
    assert codes(content) == []


@pytest.mark.parametrize("seed", range(8))
def test_poisson_arrivals_alone_are_settled(tmp_path, seed):
    assert "not_settled" not in codes(content_of(SyntheticRun(requests=poisson(4.0, seed)), tmp_path))


def test_a_server_that_cannot_keep_up_is_overloaded(tmp_path):
    """4 requests/s come and 3 are served, one after the other, with no trend in power or tokens/s."""
    rows = [request(i, 30.0 + i / 4, ttft_ms=1e3 * (i / 3 - i / 4) + 50.0, itl_ms=1.0) for i in range(280)]
    content = content_of(SyntheticRun(requests=rows), tmp_path)
    (finding,) = content["validity"]["findings"]
    assert finding["code"] == "overloaded"
    # 10 in flight at 40 s, 70 at 100 s, 240 sent.
    assert finding["figure"] == pytest.approx(60 / 240, abs=2 / 240)
    assert not finding["invalidates"]


def test_what_never_ends_is_a_backlog_too(tmp_path):
    none = {"first_token_ns": None, "last_token_ns": None, "token_ts_ns": [], "token_count": []}
    rows = [
        row if i % 4 else row | none | {"status": "cancelled"} for i, row in enumerate(steady_requests(4.0))
    ]
    assert "overloaded" in codes(content_of(SyntheticRun(requests=rows), tmp_path))


@pytest.mark.parametrize("seed", range(8))
def test_long_requests_under_poisson_arrivals_are_no_overload(tmp_path, seed):
    rows = poisson(4.0, seed, itl_ms=400.0)
    assert "overloaded" not in codes(content_of(SyntheticRun(requests=rows), tmp_path))


def test_recorded_traffic_may_rise_and_fall(tmp_path):
    run = SyntheticRun(power_w=lambda t: 300.0 + (t - 40.0))
    plain = run.config

    def config() -> dict:
        made = plain()
        made["scenario"]["arrivals"]["kind"] = "trace"
        return made

    run.config = config  # type: ignore[method-assign]
    assert codes(content_of(run, tmp_path)) == []


def test_requests_that_live_long_make_the_bins_long(tmp_path):
    # They live 9 s: fewer than 8 bins fit into 60 s.
    rows = steady_requests(4.0, 30.0, 90.0, itl_ms=895.0)
    content = content_of(SyntheticRun(requests=rows), tmp_path)
    assert content["metrics"]["window/power_drift_percent"] is None
    assert content["null_reasons"]["window/power_drift_percent"] == "window_too_short"


def test_no_requests_no_trend_of_them(tmp_path):
    reasons = content_of(SyntheticRun(requests=[]), tmp_path)["null_reasons"]
    assert reasons["window/throughput_drift_percent"] == "no_output_tokens"
    assert reasons["window/in_flight_drift_percent"] == "no_requests"


def test_without_power_the_load_still_tells(tmp_path):
    run = SyntheticRun()
    run.power_rows = list  # type: ignore[method-assign]
    content = content_of(run, tmp_path)
    assert content["null_reasons"]["window/power_drift_percent"] == "no_power_data"
    assert content["metrics"]["window/throughput_drift_percent"] == pytest.approx(0, abs=1e-6)


def test_in_flight_counts_each_request_from_send_to_last_token(tmp_path):
    # Sent inside and never ended: in flight to the end; 1 at 50 s, 2 at 60 s, ... 5 at 90 s.
    none = {"first_token_ns": None, "last_token_ns": None, "token_ts_ns": [], "token_count": []}
    rows = [request(i, t, status="cancelled") | none for i, t in enumerate((50, 60, 70, 80, 90))]
    rows += [request(9, 30.0, tokens=11, itl_ms=7000.0)]
    content = content_of(SyntheticRun(requests=rows), tmp_path)
    assert content["metrics"]["window/in_flight_drift_percent"] > 100


def test_a_warm_up_that_did_not_settle(tmp_path):
    warmup = {
        "settled": False,
        "seconds": 60.0,
        "limit_s": 60.0,
        "unsettled": {"power": -7.5},
        "needed_s": 3.0,
    }
    found = findings_of(SyntheticRun(warmup=warmup), tmp_path)
    assert found["not_settled"]["figure"] == 7.5
    assert "scenario.warmup_limit_s" in found["not_settled"]["message"]
    assert not found["not_settled"]["invalidates"]


@pytest.mark.parametrize(("needed_s", "limit"), [(80.0, 80.0), (None, 60.0)])
def test_a_warm_up_that_ended_before_the_server_had_filled_up(tmp_path, needed_s, limit):
    warmup = {"settled": False, "seconds": 60.0, "limit_s": 60.0, "unsettled": {}, "needed_s": needed_s}
    content = compute(Record.open(SyntheticRun(warmup=warmup).write(tmp_path)))
    (finding,) = content["validity"]["findings"]
    assert (finding["code"], finding["figure"], finding["limit"]) == ("warmup_too_short", 60.0, limit)
    assert content["validity"]["valid"]


def test_a_warm_up_that_settled_is_no_finding(tmp_path):
    warmup = {"settled": True, "seconds": 12.0, "limit_s": 60.0, "unsettled": {}, "needed_s": 3.0}
    assert findings_of(SyntheticRun(warmup=warmup), tmp_path) == {}
