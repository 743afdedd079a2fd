"""What is read out of `/metrics`, and what of it was others' load."""

from __future__ import annotations

import json
import urllib.request

import pytest
from echo_server import EchoServer

from wattcount.engines.http.counters import (
    MAX_SNAPSHOTS,
    Count,
    CounterLog,
    OwnLoad,
    ServerCounters,
    others_load,
    parse,
    restarted,
)
from wattcount.engines.http.fetch import Site

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 900.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 48.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1e+03
vllm:prompt_tokens_total{engine="1",model_name="m"} 24.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.79e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 512.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 7.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a \\"b\\", c"} 4.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 5.0
vllm:iteration_tokens_total_sum{engine="0",model_name="m"} 1512.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 200.0
process_start_time_seconds 1.79e+09
"""

SGLANG = """\
sglang:num_running_reqs{dp_rank="0",tp_rank="0",model_name="m"} 4.0
sglang:num_running_reqs{dp_rank="0",tp_rank="1",model_name="m"} 4.0
sglang:num_running_reqs{dp_rank="1",tp_rank="0",model_name="m"} 2.0
sglang:num_queue_reqs{tp_rank="0",model_name="m"} 0.0
sglang:token_usage{tp_rank="0",model_name="m"} 0.28
sglang:prompt_tokens_total{model_name="m"} 8128902.0
sglang:generation_tokens_total{model_name="m"} 7557572.0
sglang:cached_tokens_total{cache_source="device",model_name="m"} 100.0
sglang:cached_tokens_total{cache_source="host",model_name="m"} 20.0
sglang:num_requests_total{model_name="m"} 1234.0
"""

TENSORRT_LLM = """\
trtllm_request_success_total{engine_type="trtllm",finished_reason="length",model_name="m"} 5.0
trtllm_prompt_tokens_total{engine_type="trtllm",model_name="m"} 640.0
trtllm_generation_tokens_total{engine_type="trtllm",model_name="m"} 320.0
trtllm_num_requests_running{engine_type="trtllm",model_name="m",pid="1"} 2.0
trtllm_num_requests_running{engine_type="trtllm",model_name="m",pid="2"} 2.0
"""

LLAMA_CPP = """\
llamacpp:prompt_tokens_total 6886
llamacpp:prompt_seconds_total 2903.63
llamacpp:tokens_predicted_total 3469
llamacpp:n_decode_total 3500
llamacpp:requests_processing 1
llamacpp:requests_deferred 0
"""


def counters(**values: int) -> ServerCounters:
    return ServerCounters(t_ns=1, asked_ns=0, family="vllm", **values)


def read(text: str) -> ServerCounters:
    found = parse(text, 1, 2)
    assert found is not None
    return found


def test_counters_of_vllm_are_summed_over_its_replicas() -> None:
    assert read(VLLM) == ServerCounters(
        t_ns=2,
        asked_ns=1,
        family="vllm",
        requests=11,
        prompt_tokens=1024,
        generation_tokens=512,
        prefix_hits=48,
        prefix_queries=900,
        preemptions=2,
        steps=200,
        step_tokens=1512,
        running=5,
        waiting=1,
        kv_cache_usage=0.5,
        started_s=1.79e9,
    )


def test_ranks_of_one_replica_tell_the_same_requests() -> None:
    found = read(SGLANG)
    assert (found.running, found.waiting, found.prefix_hits, found.requests) == (6, 0, 120, 1234)
    assert read(TENSORRT_LLM).running == 2


def test_what_a_server_does_not_tell_is_null() -> None:
    found = read(LLAMA_CPP)
    assert (found.family, found.prompt_tokens, found.generation_tokens, found.steps) == (
        "llama_cpp",
        6886,
        3469,
        3500,
    )
    assert found.requests is None
    assert found.preemptions is None
    assert found.started_s is None
    assert read(TENSORRT_LLM).steps is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[{}]",
        "python_info 1.0\n",
        "# HELP vllm:request_success_total text\n",
        "xvllm:request_success_total 1\n",
    ],
)
def test_answers_without_known_counters_are_none(text: str) -> None:
    assert parse(text, 0, 0) is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-3", "1e300", "seven", "0x10", ""])
def test_values_that_count_nothing_are_null(value: str) -> None:
    found = read(f'vllm:prompt_tokens_total{{engine="0"}} {value}\nvllm:request_success_total 3\n')
    assert (found.prompt_tokens, found.requests) == (None, 3)


def test_a_snapshot_survives_a_record() -> None:
    assert ServerCounters.from_json(read(VLLM).to_json()) == read(VLLM)
    for broken in ({}, {"t_ns": "x", "family": "vllm"}, {"t_ns": 1, "family": "vllm", "requests": []}, []):
        with pytest.raises(ValueError, match="no snapshot"):
            ServerCounters.from_json(broken)  # type: ignore[arg-type]


def test_others_load_is_what_is_not_ours() -> None:
    before = counters(requests=100, prompt_tokens=1000, generation_tokens=500)
    after = counters(requests=150, prompt_tokens=1800, generation_tokens=1000)
    ours = OwnLoad(Count(40, 42), Count(640, 640), Count(400, 450))
    found = others_load(before, after, ours)
    assert (found.low("requests"), found.high("requests")) == (8, 10)
    assert found.low("prompt_tokens") == found.high("prompt_tokens") == 160
    assert (found.low("generation_tokens"), found.high("generation_tokens")) == (50, 100)
    assert found.share("requests") == pytest.approx(8 / 42)


def test_counts_that_appear_with_their_first_request_began_at_0() -> None:
    found = others_load(counters(), counters(requests=3), OwnLoad(Count(3, 3), None, None))
    assert found.low("requests") == 0
    assert found.low("prompt_tokens") is None


def test_counts_that_go_back_or_another_process_are_a_restart() -> None:
    assert restarted(counters(requests=10), counters(requests=3))
    assert restarted(read(VLLM), read(VLLM.replace("1.79e+09", "1.80e+09")))
    assert not restarted(counters(requests=3), counters(requests=3))
    assert not restarted(counters(), counters(requests=3))
    with pytest.raises(ValueError, match="started anew"):
        others_load(counters(requests=10), counters(requests=3), OwnLoad(None, None, None))


def test_a_log_of_a_server_without_counters_is_empty() -> None:
    log = CounterLog(Site("http://127.0.0.1:1"))
    assert not log.start()
    log.stop()
    assert (log.snapshots, log.failed, log.to_json()) == ([], 0, [])


def test_a_long_log_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter(range(10**9))
    monkeypatch.setattr(
        "wattcount.engines.http.counters.scrape",
        lambda *_: ServerCounters(t_ns=next(stamps), asked_ns=0, family="vllm"),
    )
    log = CounterLog(Site("http://127.0.0.1:1"))
    for _ in range(3 * MAX_SNAPSHOTS):
        log.take()
    times = [snapshot.t_ns for snapshot in log.snapshots]
    assert len(times) <= MAX_SNAPSHOTS
    assert times == sorted(times)
    assert times[0] == 0
    assert times[-1] == 3 * MAX_SNAPSHOTS - 1


def test_a_log_follows_what_a_server_counts() -> None:
    with EchoServer() as server:
        log = CounterLog(Site(server.url), period_s=0.01)
        assert log.start()
        for tokens in (5, 7):
            body = json.dumps(
                {"model": "m", "prompt": [1, 2, 3], "max_tokens": tokens, "stream": True}
            ).encode()
            with urllib.request.urlopen(f"{server.url}/v1/completions", body) as answer:
                answer.read()
        log.stop()
        log.stop()
        first, last = log.snapshots[0], log.snapshots[-1]
    assert (first.requests, first.prompt_tokens, first.generation_tokens) == (0, 0, 0)
    assert (last.requests, last.prompt_tokens, last.generation_tokens) == (2, 6, 12)
    assert (last.family, last.running) == ("vllm", 0)
    assert [ServerCounters.from_json(row) for row in log.to_json()] == log.snapshots
    times = [snapshot.t_ns for snapshot in log.snapshots]
    assert times == sorted(times)
    assert all(snapshot.asked_ns <= snapshot.t_ns for snapshot in log.snapshots)
    assert log.failed == 0
