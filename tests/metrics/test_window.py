"""The steady window of batches whose schedule is known exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_record import BOUNDS_S, SyntheticRun, at, request

from wattcount.metrics import compute
from wattcount.metrics.observations import Requests, Window
from wattcount.metrics.window import Steady, _by_stamps, steady_window
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan

H200 = sorted((Path(__file__).resolve().parents[2] / "data" / "h200" / "records").glob("*/*/"))


def step(seconds: float, running: int, waiting: int, prefill: int | None = 0) -> dict[str, Any]:
    return {
        "logged_ns": at(seconds),
        "engine_ts_ns": None,
        "duration_ns": None,
        "prefill_tokens": prefill,
        "decode_tokens": running,
        "running": running,
        "waiting": waiting,
        "kv_cache_usage": None,
    }


def schedule(lengths: list[int], capacity: int, step_s: float = 0.5, start_s: float = 41.0) -> SyntheticRun:
    """A batch on an engine that admits what fits at each step and gives each running request a token a step."""
    waiting, running = list(range(len(lengths))), dict[int, int]()
    arrivals: dict[int, list[float]] = {index: [] for index in waiting}
    steps, now = [], start_s
    while waiting or running:
        admitted = 0
        while waiting and len(running) < capacity:
            running[waiting.pop(0)] = 0
            admitted += 1
        steps.append(step(now, len(running), len(waiting), prefill=512 * admitted))
        for index in list(running):
            arrivals[index].append(now)
            running[index] += 1
            if running[index] == lengths[index]:
                del running[index]
        now += step_s
    last_s = max(times[-1] for times in arrivals.values())
    rows = []
    for index, times in arrivals.items():
        row = request(index, start_s - 0.5, tokens=len(times))
        stamps = [at(t) for t in times]
        rows.append(row | {"token_ts_ns": stamps, "first_token_ns": stamps[0], "last_token_ns": stamps[-1]})
    phases = [PhaseSpan(p, at(a), at(b)) for p, (a, b) in BOUNDS_S.items()]
    for span in phases:
        if span.phase is Phase.WINDOW:
            span.start_ns, span.end_ns = at(start_s - 0.5), at(last_s)
    return SyntheticRun(
        scenario="batch",
        requests=rows,
        steps=steps,
        phases=phases,
        engine={"details": {"max_num_seqs": capacity}},
    )


def found_in(run: SyntheticRun, folder: Path) -> tuple[Steady, Steady]:
    """By steps, and by stamps alone."""
    record = Record.open(run.write(folder))
    span = next(p for p in record.info.phases if p.phase is Phase.WINDOW)
    assert span.end_ns is not None
    requests, window = Requests.of(record.requests), Window(span.start_ns, span.end_ns)
    return steady_window(record, requests, window), _by_stamps(requests, window, 4)


def test_from_full_to_nothing_left_to_take_a_place(tmp_path):
    # Steps at 41.0, 41.5, ...: the engine is full at once; 4 x 3 requests of 5 tokens run in three waves.
    steady, by_stamps = found_in(schedule([5] * 12, capacity=4), tmp_path)
    assert steady.window == Window(at(41.0), at(46.0))
    assert by_stamps.window == steady.window


def test_as_many_begin_as_complete_and_the_energy_is_theirs(tmp_path):
    content = compute(Record.open(schedule([5] * 12, capacity=4).write(tmp_path)))
    found = content["metrics"]
    # 12 - 4 requests of 5 tokens in 5 s at 300 W.
    assert found["window_steady/duration_s"] == 5.0
    assert found["energy_steady/gpu_j"] == pytest.approx(1500.0)
    assert found["energy_steady/gpu_j_per_request"] == pytest.approx(1500.0 / 8)
    assert found["energy_steady/gpu_j_per_output_token"] == pytest.approx(1500.0 / 40)
    assert found["throughput_steady/output_tokens_per_s"] == 8.0
    assert found["power_steady/gpu_mean_w"] == pytest.approx(300.0)
    assert found["energy/gpu_j"] > found["energy_steady/gpu_j"]
    assert content["window_steady"]["start_ns"] == at(41.0)


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=40), capacity=st.integers(1, 6))
def test_steps_and_stamps_agree_and_the_window_is_balanced(tmp_path_factory, lengths, capacity):
    folder = tmp_path_factory.mktemp("record")
    run = schedule(lengths, capacity)
    record = Record.open(run.write(folder))
    span = next(p for p in record.info.phases if p.phase is Phase.WINDOW)
    if span.end_ns <= span.start_ns:
        return
    requests, window = Requests.of(record.requests), Window(span.start_ns, span.end_ns)
    steady = steady_window(record, requests, window).window
    by_stamps = _by_stamps(requests, window, capacity).window
    if steady is None:
        assert by_stamps is None or by_stamps.duration_s < 1.0
        return
    assert by_stamps == steady
    begun = ((requests.first_token_ns > steady.start_ns) & (requests.first_token_ns <= steady.end_ns)).sum()
    # Nothing that began is left out but what filled the engine; the last one to begin may also be at its end.
    assert begun == len(lengths) - capacity


@pytest.mark.parametrize(
    ("lengths", "capacity", "reason"),
    [([5] * 4, 4, "never_saturated"), ([5] * 3, 4, "never_saturated"), ([1] * 5, 4, "steady_too_short")],
)
def test_batches_without_one(tmp_path, lengths, capacity, reason):
    content = compute(Record.open(schedule(lengths, capacity).write(tmp_path)))
    assert content["window_steady"] is None
    assert content["null_reasons"]["energy_steady/gpu_j"] == reason
    assert content["metrics"]["window_steady/duration_s"] is None
    assert content["metrics"]["energy/gpu_j"] is not None


def test_a_full_kv_cache_saturates_before_max_num_seqs(tmp_path):
    run = schedule([5] * 12, capacity=4)
    run.engine = {"details": {"max_num_seqs": 256}}
    # Nothing is prefilled in the second step although requests wait.
    assert found_in(run, tmp_path)[0].window == Window(at(41.5), at(46.0))


def test_a_prompt_that_takes_several_steps_is_no_saturation(tmp_path):
    run = SyntheticRun(
        scenario="batch",
        requests=[request(i, 40.0, tokens=5) for i in range(8)],
        steps=[step(41 + i / 2, 1 + i // 4, 7 - i // 4, prefill=2048) for i in range(28)] + [step(56, 8, 0)],
        engine={"details": {"max_num_seqs": 256}},
    )
    assert found_in(run, tmp_path)[0].reason == "never_saturated"


def test_without_steps_the_stamps_tell(tmp_path):
    run = schedule([5] * 12, capacity=4)
    run.steps = []
    assert found_in(run, tmp_path)[0].window == Window(at(41.0), at(46.0))


def test_without_steps_and_capacity_nothing_tells(tmp_path):
    run = schedule([5] * 12, capacity=4)
    run.steps, run.engine = [], {}
    assert found_in(run, tmp_path)[0].reason == "capacity_unknown"


@pytest.mark.parametrize("with_steps", [True, False])
def test_a_batch_that_broke_off_while_requests_waited(tmp_path, with_steps):
    run = schedule([5] * 12, capacity=4)
    run.steps = [row for row in run.steps if row["logged_ns"] <= at(44)] if with_steps else []
    run.requests = [
        row if row["first_token_ns"] <= at(44) else row | {"first_token_ns": None, "last_token_ns": None, "token_ts_ns": [], "token_count": [], "status": "cancelled"}
        for row in run.requests
    ]  # fmt: skip
    assert found_in(run, tmp_path)[0].reason == "window_broke_off"


def test_a_failed_request_gives_its_place_away(tmp_path):
    run = schedule([5] * 12, capacity=4)
    run.steps = []
    none = {"first_token_ns": None, "last_token_ns": None, "token_ts_ns": [], "token_count": []}
    run.requests.append(request(99, 40.5, status="failed") | none)
    assert found_in(run, tmp_path)[0].window == Window(at(41.0), at(46.0))


def test_a_server_has_none(tmp_path):
    content = compute(Record.open(SyntheticRun().write(tmp_path)))
    assert content["null_reasons"]["energy_steady/gpu_j"] == "not_a_batch"


BATCHES = [path for path in H200 if Record.open(path).info.config["scenario"]["kind"] == "batch"]


@pytest.mark.parametrize("path", BATCHES, ids=lambda path: path.parent.name)
def test_recorded_batches(path):
    """Real engines: both rules agree to a few steps, and the window is balanced."""
    record = Record.open(path)
    scenario = record.info.config["scenario"]
    count, output_tokens = scenario["num_requests"], scenario["lengths"]["output_tokens"]
    if count not in (256, 512):
        # 128 at once never wait; of prompts with one token out, none runs on after its step.
        assert compute(record)["null_reasons"]["energy_steady/gpu_j"] == "never_saturated"
        return
    span = next(p for p in record.info.phases if p.phase is Phase.WINDOW)
    assert span.end_ns is not None
    requests, window = Requests.of(record.requests), Window(span.start_ns, span.end_ns)
    steady, by_stamps = (
        steady_window(record, requests, window).window,
        _by_stamps(requests, window, 128).window,
    )
    if path.parent.name in ("1813e7e74ba5", "6e3d3e97191c"):
        # GPT-2's and Llama 3.2 1B's shapes: over in less than two seconds.
        assert compute(record)["null_reasons"]["energy_steady/gpu_j"] == "steady_too_short"
        return
    assert steady is not None
    assert by_stamps is not None
    logged = record.steps["logged_ns"].to_numpy()
    for one, other in ((steady.start_ns, by_stamps.start_ns), (steady.end_ns, by_stamps.end_ns)):
        between = (logged > min(one, other)) & (logged <= max(one, other))
        assert between.sum() <= 3
    metrics = compute(record)["metrics"]
    completed = metrics["throughput_steady/requests_per_s"] * metrics["window_steady/duration_s"]
    assert completed == pytest.approx(count - 128, abs=2)
    tokens = metrics["throughput_steady/output_tokens_per_s"] * metrics["window_steady/duration_s"]
    # Of a batch that stood still for most of the time, whose steps' reports are later.
    share = 0.002 * 256 / output_tokens if compute(record)["validity"]["valid"] else 0.015
    # A step of 128 tokens: what a bound may be off by at most.
    step_tokens = 128 if output_tokens == 64 else 0
    assert tokens == pytest.approx(
        (count - 128) * output_tokens, abs=max(step_tokens, share * (count - 128) * output_tokens)
    )
