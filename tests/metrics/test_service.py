"""Requests, throughput and latencies that are known exactly."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_record import (
    SyntheticRun,
    at,
    findings_of,
    metrics_of,
    request,
    steady_requests,
    step,
    values_of,
)

from wattcount.config.schema import SloConfig
from wattcount.load.stalls import MIN_STEPS, Stalls
from wattcount.metrics import compute
from wattcount.metrics.observations import Requests, phase_window
from wattcount.metrics.service import stalls
from wattcount.records import Record
from wattcount.records.schema import Phase


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


def test_goodput_counts_what_the_window_completed_whenever_it_was_sent(tmp_path):
    """More is sent in the window than completed in it, all of it good; what was sent before it and completed in it is not."""
    requests = [
        request(0, 39.0, ttft_ms=2000, tokens=5, phase="warmup"),  # completed in the window, too late
        request(1, 50.0, tokens=5),
        request(2, 99.99, ttft_ms=50, tokens=5),  # sent in the window, completed in the drain
        request(3, 99.99, ttft_ms=50, tokens=5),
    ]
    found = values_of(SyntheticRun(requests=requests, slo=SloConfig(ttft_ms=100)), tmp_path)
    assert (found["requests/sent"], found["requests/good"], found["requests/completed_in_window"]) == (
        3,
        3,
        2,
    )
    assert found["throughput/goodput_rps"] == pytest.approx(1 / 60)
    assert found["energy/gpu_j_per_good_request"] == pytest.approx(2 * found["energy/gpu_j_per_request"])


@given(
    times=st.lists(st.tuples(st.floats(30, 105), st.floats(1, 9000), st.integers(1, 20)), max_size=40),
    bound_ms=st.floats(1, 9000),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_more_is_good_than_was_completed(tmp_path, times, bound_ms):
    requests = [
        request(
            number,
            sent_s,
            ttft_ms=ttft_ms,
            itl_ms=10,
            tokens=tokens,
            phase="window" if sent_s >= 40 else "warmup",
        )
        for number, (sent_s, ttft_ms, tokens) in enumerate(sorted(times))
    ]
    run = SyntheticRun(requests=requests, slo=SloConfig(ttft_ms=bound_ms))
    found = values_of(run, Path(tempfile.mkdtemp(dir=tmp_path)))
    assert found["throughput/goodput_rps"] <= found["throughput/requests_per_s"]
    assert found["requests/good"] <= found["requests/completed"] <= found["requests/sent"]
    if found["energy/gpu_j_per_good_request"] is not None:
        assert found["energy/gpu_j_per_good_request"] >= found["energy/gpu_j_per_request"]


def test_without_an_slo_goodput_is_null(tmp_path):
    content = metrics_of(SyntheticRun(), tmp_path)
    for key in ("throughput/goodput_rps", "energy/gpu_j_per_good_request", "requests/good"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_slo")


def test_engine_figures_of_the_window_only(tmp_path):
    steps = [
        step(35, running=99, kv_cache_usage=0.9),
        step(50, running=2, kv_cache_usage=0.25),
        step(60, running=4, waiting=3),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path)
    assert found["engine/running_mean"] == 3.0
    assert (found["engine/running_max"], found["engine/waiting_max"]) == (4, 3)
    assert found["engine/kv_cache_usage_max"] == 0.25


def test_proposals_that_were_accepted(tmp_path):
    steps = [
        step(35, draft_tokens=99, accepted_tokens=99),
        step(50, draft_tokens=8, accepted_tokens=2),
        step(60, draft_tokens=4, accepted_tokens=1),
        step(70),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path / "with")
    assert (found["engine/draft_tokens"], found["engine/draft_acceptance"]) == (12, 0.25)
    content = metrics_of(SyntheticRun(steps=[step(50)]), tmp_path / "without")
    for key in ("engine/draft_tokens", "engine/draft_acceptance"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_draft_tokens")


def test_preemptions_and_cached_tokens(tmp_path):
    rows = steady_requests(preemptions=1, cached_tokens=100)
    found = values_of(SyntheticRun(requests=rows), tmp_path)
    assert found["engine/preemptions"] == 240
    assert found["tokens/cached_input"] == 100 * 240
    rows[-1]["cached_tokens"] = None
    assert values_of(SyntheticRun(requests=rows), tmp_path)["tokens/cached_input"] is None


H200 = Path(__file__).resolve().parents[2] / "data" / "h200" / "records"

START_S = 41.0

PREFILL_S = 0.4

DECODE_S = 0.02


def engine_step(seconds: float, prefill: int | None, decode: int) -> dict[str, Any]:
    return {
        "logged_ns": at(seconds),
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "running": decode,
        "waiting": 0,
    }


def run(
    late_s: dict[int, float], count: int = 400, prefill: int | None = 2048, idle_s: float = 0.0
) -> SyntheticRun:
    """Every eighth step prefills, which takes 20 times as long; `late_s`: step -> how much longer it took.

    idle_s   between two bursts of half of the steps each; nothing is in flight then
    """
    noise = np.random.default_rng(0).uniform(0.9, 1.1, count)
    now, steps, bursts = START_S, [], [[START_S, START_S]]
    for index in range(count):
        if index == count // 2 and idle_s:
            now += idle_s
            bursts.append([now, now])
        prefills = index % 8 == 0
        now += (PREFILL_S if prefills else DECODE_S) * float(noise[index]) + late_s.get(index, 0.0)
        steps.append(engine_step(now, (prefill if prefills else 0) if prefill is not None else None, 64))
        bursts[-1][1] = now
    rows = []
    for index, (sent_s, last_s) in enumerate(bursts):
        row = request(index, sent_s, tokens=2)
        stamps = [at(sent_s + 0.01), at(last_s)]
        rows.append(row | {"token_ts_ns": stamps, "first_token_ns": stamps[0], "last_token_ns": stamps[-1]})
    return SyntheticRun(scenario="batch", requests=rows, steps=steps)


def found(run: SyntheticRun, folder: Path) -> Stalls | None:
    record = Record.open(run.write(folder))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    return stalls(record, Requests.of(record.requests), window)


def test_an_engine_that_never_stands_still(tmp_path):
    assert found(run({}), tmp_path) == Stalls(0, 0.0, 0.0)


def test_stalls_are_counted_with_what_they_took_beyond_their_steps(tmp_path):
    """A long prefill is none; a stall within one is."""
    late = {9: 0.7, 10: 0.6, 50: 0.31, 80: 0.9, 81: 0.2}
    told = found(run(late), tmp_path)
    assert told is not None
    assert told.count == 4  # 0.2 s is within what a host may do
    assert told.seconds == pytest.approx(0.7 + 0.6 + 0.31 + 0.9, rel=0.05)
    assert told.longest_s == pytest.approx(0.9 + PREFILL_S, rel=0.05)


def test_the_first_step_of_a_window_may_stand_still_too(tmp_path):
    """Nothing is reported in the window before it; the report before is of the warm-up."""
    late = run({0: 0.9})
    late.steps.insert(0, engine_step(START_S - 2.0, 0, 1))
    told = found(late, tmp_path)
    assert told is not None
    assert (told.count, told.seconds) == (1, pytest.approx(0.9, rel=0.1))


def batch_of_an_eager_mamba(first_s: float) -> SyntheticRun:
    """As seen on an H200: five steps of 256 to 16,383 tokens, each reported once the next was launched, and 64 of decoding."""
    prefills = [256, 16383, 16320, 16256, 16192] + [0] * 64
    decodes = [0, 1, 64, 128, 192] + [256] * 64
    now, steps = START_S, [engine_step(START_S - 2.0, 0, 1)]
    for took_s, prefill, decode in zip(
        [first_s, 3.6, 3.5, 3.5, 1.55] + [0.09] * 64, prefills, decodes, strict=True
    ):
        now += took_s
        steps.append(engine_step(now, prefill, decode))
    row = request(0, START_S, tokens=2)
    stamps = [at(START_S + 3.0), at(now)]
    row |= {"token_ts_ns": stamps, "first_token_ns": stamps[0], "last_token_ns": stamps[-1]}
    return SyntheticRun(scenario="batch", requests=[row], steps=steps)


def test_the_first_report_waits_for_the_launch_of_the_second_step(tmp_path):
    assert found(batch_of_an_eager_mamba(2.1), tmp_path / "as_seen") == Stalls(0, 0.0, 0.0)
    told = found(batch_of_an_eager_mamba(9.0), tmp_path / "late")
    assert told is not None
    assert told.count == 1


@pytest.mark.parametrize(("gap_s", "stalls_found"), [(0.0003, 0), (0.00001, 1)])
def test_who_sends_a_thousand_requests_hears_no_report_meanwhile(tmp_path, gap_s, stalls_found):
    """The engine is not late where its first report waits for the end of a burst of sends."""
    late = run({0: 0.9})
    late.steps.insert(0, engine_step(START_S - 2.0, 0, 1))
    last = late.requests[0]
    late.requests += [
        request(index, START_S + index * gap_s, tokens=2)
        | {name: last[name] for name in ("token_ts_ns", "first_token_ns", "last_token_ns")}
        for index in range(1, 3000)
    ]
    told = found(late, tmp_path)
    assert told is not None
    assert told.count == stalls_found


def test_a_step_of_the_warm_up_that_reaches_into_the_window_is_none_of_its(tmp_path):
    served = run({})
    served.requests[0]["actual_send_ns"] = at(START_S - 3.0)
    served.steps.insert(0, engine_step(START_S - 2.0, 0, 1))
    assert found(served, tmp_path) == Stalls(0, 0.0, 0.0)


def test_nothing_to_do_is_no_stall(tmp_path):
    assert found(run({}, idle_s=5.0), tmp_path) == Stalls(0, 0.0, 0.0)


def test_a_stall_beside_a_pause(tmp_path):
    told = found(run({300: 1.0}, idle_s=5.0), tmp_path)
    assert told is not None
    assert told.count == 1
    assert told.seconds == pytest.approx(1.0, rel=0.05)


def test_a_request_without_an_end_was_in_flight(tmp_path):
    broken = run({300: 1.0})
    for row in broken.requests:
        row["last_token_ns"] = None
    told = found(broken, tmp_path)
    assert told is not None
    assert told.count == 1


@pytest.mark.parametrize("what", ["no steps", "few steps", "no token counts"])
def test_what_cannot_be_told_is_not(tmp_path, what):
    broken = run(
        {3: 2.0}, count=MIN_STEPS if what == "few steps" else 100, prefill=None if "token" in what else 1
    )
    if what == "no steps":
        broken.steps = []
    assert found(broken, tmp_path) is None


@pytest.mark.parametrize(
    ("late", "invalidates"),
    [({}, None), ({9: 0.3}, None), ({9: 0.9}, False), (dict.fromkeys(range(9, 300, 16), 0.8), True)],
)
def test_the_finding(tmp_path, late, invalidates):
    """Windows of 70 s: some 0.4, 1.3 and 21 % of them."""
    (verdict,) = [compute(Record.open(run(late).write(tmp_path)))["validity"]["findings"]]
    codes = {finding["code"]: finding for finding in verdict}
    if invalidates is None:
        assert "engine_stalled" not in codes
    else:
        assert codes["engine_stalled"]["invalidates"] is invalidates
        assert codes["engine_stalled"]["figure"] == pytest.approx(sum(late.values()) / 60, rel=0.05)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        (
            "2127c45b5c4d/r0-20261123-174455-908-d7c081",
            0.61,
        ),  # fused_moe_kernel was compiled nine times in the batch
        ("7cb71515b882/r0-20261123-092253-387-66a951", 0.05),  # the same, once
        ("08f2265753b1/r0-20261123-174602-212-02ec1e", None),  # the next run of the first one's model
        (
            "5b4360d28259/r0-20261123-174654-569-11a92a",
            None,
        ),  # prefills that take half a second; the first report waits for the launch of the second
        ("a1d2a1b9692c/r0-20261123-092528-692-35362f", None),  # a server that is idle half of the time
    ],
)
def test_real_runs(name, share):
    record = Record.open(H200 / name)
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    told = stalls(record, Requests.of(record.requests), window)
    assert told is not None
    assert told.seconds / window.duration_s == pytest.approx(share or 0.0, abs=0.005)


def test_unfinished_requests(tmp_path):
    rows = steady_requests()
    for row in rows[-5:]:
        row["status"] = "cancelled"
    found = findings_of(SyntheticRun(requests=rows), tmp_path)
    assert found["requests_unfinished"]["figure"] == pytest.approx(5 / 240)
    assert not found["requests_unfinished"]["invalidates"]


@pytest.mark.parametrize(("failed", "invalidates"), [(2, False), (3, True)])
def test_requests_that_failed_are_not_the_load_that_was_asked_for(tmp_path, failed, invalidates):
    rows = steady_requests()
    for row in rows[-5:]:
        row["status"] = "cancelled"
    for row in rows[-failed:]:
        row.update(status="failed", error="connection reset")
    found = findings_of(SyntheticRun(requests=rows), tmp_path)["requests_unfinished"]
    assert found["invalidates"] is invalidates
    assert f"{failed} failed, the first: connection reset" in found["message"]


def test_a_load_that_was_not_the_one_asked_for(tmp_path):
    rows = steady_requests()
    for row in rows[-12:]:
        # Planned for the window, sent after it.
        row["actual_send_ns"] += 20_000_000_000
    found = findings_of(SyntheticRun(requests=rows), tmp_path)
    assert found["load_not_achieved"]["figure"] == pytest.approx(12 / 240)
    assert found["load_not_achieved"]["invalidates"]


def test_a_load_that_is_held_back_on_purpose(tmp_path):
    rows = steady_requests()
    for row in rows[-12:]:
        row["actual_send_ns"] += 20_000_000_000
    run = SyntheticRun(requests=rows)
    plain = run.config
    run.config = lambda: plain() | {"scenario": plain()["scenario"] | {"max_in_flight": 8}}  # type: ignore[method-assign]
    assert "load_not_achieved" not in findings_of(run, tmp_path)


def test_lengths_that_the_bounds_changed(tmp_path):
    changes = {
        "requests": 200, "input_cut": 28, "input_raised": 0, "output_cut": 3, "output_raised": 0,
        "input_tokens_given": 500_000, "output_tokens_given": 40_000, "input_tokens": 410_000, "output_tokens": 39_000,
    }  # fmt: skip
    finding = findings_of(SyntheticRun(length_changes=changes), tmp_path)["lengths_changed"]
    assert (finding["figure"], finding["invalidates"]) == (0.14, False)
    assert (
        "28 prompts were cut at scenario.lengths.input_tokens_max, 3 outputs were cut" in finding["message"]
    )
    assert "410,000 of the file's 500,000 prompt tokens" in finding["message"]
