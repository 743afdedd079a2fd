"""Requests, throughput and latencies that are known exactly."""

import pytest
from synthetic_record import SyntheticRun, metrics_of, request, steady_requests, values_of

from wattcount.config.schema import SloConfig


def test_tokens_count_by_emission_and_latency_by_send(tmp_path):
    requests = [
        # Sent before the window, most tokens inside: 2 before (39.95 s, 40.0 s exactly is outside), 8 inside.
        request(0, 39.9, ttft_ms=50, itl_ms=50, tokens=10, phase="warmup"),
        # Sent inside, finished in the drain: tokens up to 100.0 s inclusive count.
        request(1, 99.9, ttft_ms=50, itl_ms=50, tokens=10),
        # Sent at the very end: not of the window.
        request(2, 100.0, tokens=5),
    ]
    found = values_of(SyntheticRun(requests=requests), tmp_path)
    assert found["tokens/output"] == 8 + 2
    assert found["tokens/input"] == 512  # only request 1 had its first token in the window
    assert found["requests/sent"] == 1
    assert found["requests/completed"] == 1
    assert found["requests/completed_in_window"] == 1  # request 0
    assert found["energy/gpu_j_per_request"] == pytest.approx(18000)
    assert found["energy/gpu_j_per_output_token"] == pytest.approx(1800)


# -- requests that went wrong ---------------------------------------------------------------------


def test_failed_requests_are_counted_and_rank_as_slowest(tmp_path):
    requests = steady_requests()
    window = [r for r in requests if r["phase"] == "window"]
    for row in window[:6]:
        row.update(status="failed", first_token_ns=None, last_token_ns=None, token_ts_ns=[], token_count=[])
    for row in window[6:9]:  # broke off after the first token
        row.update(
            status="cancelled", last_token_ns=row["first_token_ns"],
            token_ts_ns=row["token_ts_ns"][:1], token_count=row["token_count"][:1],
        )  # fmt: skip
    content = metrics_of(SyntheticRun(requests=requests, slo=SloConfig(e2e_ms=1000)), tmp_path)
    found, why = content["metrics"], content["null_reasons"]
    assert (found["requests/sent"], found["requests/completed"]) == (240, 231)
    assert (found["requests/failed"], found["requests/cancelled"]) == (6, 3)
    assert found["requests/good"] == 231
    assert found["throughput/goodput_rps"] == pytest.approx(231 / 60)
    # 6 of 240 have no first token: the top 2.5 %.
    assert found["latency/ttft_p95_ms"] == 50.0
    assert (found["latency/ttft_p99_ms"], why["latency/ttft_p99_ms"]) == (None, "requests_unfinished")
    # 9 of 240 have no end: the top 3.75 %.
    assert found["latency/e2e_p95_ms"] == 150.0
    assert why["latency/e2e_p99_ms"] == why["latency/tpot_p99_ms"] == "requests_unfinished"


def test_requests_never_sent_are_counted(tmp_path):
    requests = [*steady_requests(), *(request(900 + i, 99.0, status="not_sent") for i in range(3))]
    found = values_of(SyntheticRun(requests=requests), tmp_path)
    assert found["requests/not_sent"] == 3
    assert found["load/offered_rps"] == pytest.approx(243 / 60)
    assert found["load/achieved_rps"] == pytest.approx(4.0)


def test_latency_starts_at_the_actual_send_and_lag_is_its_own_figure(tmp_path):
    found = values_of(SyntheticRun(requests=steady_requests(lag_ms=30.0)), tmp_path)
    assert found["latency/ttft_p50_ms"] == 50.0
    assert found["load/send_lag_p50_ms"] == found["load/send_lag_p99_ms"] == 30.0
    assert found["load/send_lag_max_ms"] == 30.0


def test_few_requests_have_no_p99(tmp_path):
    content = metrics_of(SyntheticRun(requests=steady_requests(0.5)), tmp_path)
    assert content["metrics"]["requests/sent"] == 30
    assert content["metrics"]["latency/ttft_p95_ms"] == 50.0
    assert content["null_reasons"]["latency/ttft_p99_ms"] == "too_few_requests"
    assert content["null_reasons"]["load/send_lag_p99_ms"] == "too_few_requests"
    assert content["metrics"]["load/send_lag_max_ms"] == 0.0


def test_a_window_without_requests_has_energy_and_no_ratios(tmp_path):
    content = metrics_of(SyntheticRun(requests=[], slo=SloConfig(ttft_ms=1)), tmp_path)
    found, why = content["metrics"], content["null_reasons"]
    assert found["energy/gpu_j"] == pytest.approx(18000)
    assert found["throughput/output_tokens_per_s"] == 0
    assert found["requests/sent"] == 0
    assert why["energy/gpu_j_per_output_token"] == "no_output_tokens"
    assert why["energy/gpu_j_per_request"] == "no_completed_requests"
    assert why["energy/gpu_j_per_good_request"] == "no_good_requests"
    assert why["latency/ttft_p50_ms"] == why["latency/itl_p50_ms"] == "no_requests"


# -- TPOT, ITL, SLO -------------------------------------------------------------------------------


def test_single_token_outputs_have_no_tpot_and_still_meet_the_slo(tmp_path):
    run = SyntheticRun(requests=steady_requests(tokens=1), slo=SloConfig(tpot_ms=1))
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["latency/tpot_p50_ms"] == "single_token_outputs"
    assert content["null_reasons"]["latency/itl_p50_ms"] == "single_token_outputs"
    assert content["metrics"]["latency/e2e_p50_ms"] == 50.0
    assert content["metrics"]["requests/good"] == 240


def test_tokens_that_all_arrive_at_once_have_no_tpot_and_do_not_show_that_they_meet_the_slo(tmp_path):
    run = SyntheticRun(
        requests=steady_requests(chunk=64, tokens=64, ttft_ms=2000), slo=SloConfig(tpot_ms=15, e2e_ms=5000)
    )
    content = metrics_of(run, tmp_path)
    assert content["metrics"]["latency/tpot_p50_ms"] is None
    assert content["null_reasons"]["latency/tpot_p50_ms"] == "one_arrival"
    assert content["null_reasons"]["latency/itl_p50_ms"] == "one_arrival"
    assert content["metrics"]["requests/good"] == 0


def test_tokens_that_arrive_at_once_lie_within_a_bound_of_the_whole(tmp_path):
    run = SyntheticRun(
        requests=steady_requests(chunk=64, tokens=64, ttft_ms=2000), slo=SloConfig(e2e_ms=5000)
    )
    assert values_of(run, tmp_path)["requests/good"] == 240


def test_tokens_that_arrive_together(tmp_path):
    # 12 tokens in chunks of 4, 30 ms apart: three arrivals, two gaps.
    found = values_of(SyntheticRun(requests=steady_requests(tokens=12, chunk=4, itl_ms=30)), tmp_path)
    assert found["tokens/output"] == 240 * 12
    assert found["latency/tpot_p50_ms"] == pytest.approx(60 / 11)
    assert found["latency/itl_p50_ms"] == 30.0


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (SloConfig(ttft_ms=50), 240),  # exactly at the bound is met
        (SloConfig(ttft_ms=49.999), 0),
        (SloConfig(tpot_ms=10), 240),
        (SloConfig(tpot_ms=9.9), 0),
        (SloConfig(e2e_ms=150), 240),
        (SloConfig(ttft_ms=50, tpot_ms=10, e2e_ms=149), 0),
    ],
)
def test_slo_bounds(tmp_path, slo, good):
    assert values_of(SyntheticRun(slo=slo), tmp_path)["requests/good"] == good


def test_without_an_slo_goodput_is_null(tmp_path):
    content = metrics_of(SyntheticRun(), tmp_path)
    for key in ("throughput/goodput_rps", "energy/gpu_j_per_good_request", "requests/good"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_slo")
