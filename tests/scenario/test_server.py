from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from wattcount.config.loader import changed
from wattcount.config.schema import ArrivalKind
from wattcount.errors import RunFailedError
from wattcount.load.generator import RequestRecord
from wattcount.records.schema import Phase
from wattcount.scenario.server import Settling

ALL = list(Phase)


def test_every_phase_in_order_and_as_long_as_planned(bench: Any, tiny_run: Callable[..., Any]) -> None:
    run = bench(
        tiny_run(
            bare_idle_s=0.2,
            loaded_idle_s=0.2,
            bare_idle_after_s=0.2,
            rehearsal_requests=2,
            warmup_s=0.3,
            window_s=0.5,
        )
    )
    run.run()
    spans = run.ctx.phases.spans
    assert [span.phase for span in spans] == ALL
    length = {span.phase: (span.end_ns - span.start_ns) / 1e9 for span in spans}
    assert length[Phase.WARMUP] == 0.3
    assert length[Phase.WINDOW] == 0.5
    for phase in (Phase.BARE_IDLE, Phase.LOADED_IDLE, Phase.IDLE_AFTER, Phase.BARE_IDLE_AFTER):
        assert length[phase] == pytest.approx(0.2, abs=0.01)
    assert run.checkpoints >= len(ALL)


def test_the_window_is_where_it_was_planned_and_holds_what_was_planned(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run())
    run.run()
    record = run.record()
    window = next(span for span in record.info.phases if span.phase is Phase.WINDOW)
    for row in record.requests.to_pylist():
        in_window = window.start_ns <= row["planned_send_ns"] < window.end_ns
        assert row["phase"] == ("window" if in_window else "warmup")
        assert row["status"] == "completed"
        assert len(row["token_ts_ns"]) == sum(row["token_count"]) == 8
        assert (
            row["first_token_ns"] == row["token_ts_ns"][0] > row["actual_send_ns"] >= row["planned_send_ns"]
        )
    assert set(record.requests["phase"].to_pylist()) == {"warmup", "window"}
    assert len(record.steps) > 20
    assert len(record.power.events) > 0


def test_without_warm_up_the_window_begins_with_the_load(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(warmup_s=0.0))
    run.run()
    phases = [span.phase for span in run.ctx.phases.spans]
    assert Phase.WARMUP not in phases
    spans = run.ctx.phases.spans
    at = phases.index(Phase.WINDOW)
    assert spans[at - 1].end_ns == spans[at].start_ns


def spans_of(run: Any) -> dict[Phase, Any]:
    return {span.phase: span for span in run.ctx.phases.spans}


def test_a_warm_up_that_has_settled_ends_as_planned(bench: Any, tiny_run: Any) -> None:
    # The tokens/s of so short samples vary a lot: only steady arrivals are certain to settle.
    cfg = tiny_run(warmup_s=1.0, warmup_limit_s=5.0, rate_rps=50.0)
    cfg = changed(cfg, {"scenario.arrivals.kind": ArrivalKind.constant})
    run = bench(cfg)
    run.run()
    spans = spans_of(run)
    assert run.ctx.warmup["seconds"] == 1.0
    assert spans[Phase.WARMUP].end_ns - spans[Phase.WARMUP].start_ns == 1_000_000_000
    assert not any(row["request_id"].startswith("more-") for row in run.record().requests.to_pylist())
    assert run.ctx.warmup["settled"]


def test_a_warm_up_goes_on_until_two_lives_and_the_window_is_as_planned(bench: Any, tiny_run: Any) -> None:
    """Requests live half a second and more: 0.3 s are too short."""
    run = bench(tiny_run(engine={"step_base_ms": 60.0}, warmup_s=0.3, warmup_limit_s=6.0))
    run.run()
    spans, load = spans_of(run), run.ctx.load
    window = spans[Phase.WINDOW]
    assert spans[Phase.WARMUP].end_ns == window.start_ns
    assert 0.9 < (window.start_ns - spans[Phase.WARMUP].start_ns) / 1e9 < 6.0
    assert window.end_ns - window.start_ns == 600_000_000
    assert run.ctx.warmup["seconds"] >= run.ctx.warmup["needed_s"] > 0.9
    rows = run.record().requests.to_pylist()
    planned = np.array([row["planned_send_ns"] for row in rows if row["phase"] == "window"]) - window.start_ns
    offsets = load.main.send_offset_ns - load.window_start_offset_ns
    assert (abs(planned - offsets[offsets >= 0]) < 1000).all()  # a record has whole microseconds
    more = [row for row in rows if row["request_id"].startswith("more-")]
    assert more
    for row in more:
        assert row["phase"] == "warmup"
        assert row["status"] == "completed"
        assert spans[Phase.WARMUP].start_ns + 300_000_000 <= row["planned_send_ns"] < window.start_ns
    assert len(rows) == len(load.main) + len(more)
    assert {row["status"] for row in rows} == {"completed"}
    assert len({row["request_id"] for row in rows}) == len(rows)


def test_a_warm_up_has_a_limit(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"step_base_ms": 100.0}, warmup_s=0.3, warmup_limit_s=0.8))
    run.run()
    spans = spans_of(run)
    assert 0.5 < (spans[Phase.WINDOW].start_ns - spans[Phase.WARMUP].start_ns) / 1e9 <= 0.85
    assert not run.ctx.warmup["settled"]
    assert run.ctx.warmup["limit_s"] == pytest.approx(0.8)
    assert all(row["planned_send_ns"] is not None for row in run.record().requests.to_pylist())


def test_a_limit_just_above_the_shortest_warm_up(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"step_base_ms": 60.0}, warmup_s=0.3, warmup_limit_s=0.31))
    run.run()
    spans = spans_of(run)
    assert 0.3 <= (spans[Phase.WINDOW].start_ns - spans[Phase.WARMUP].start_ns) / 1e9 < 0.6


def test_an_engine_that_dies_in_a_warm_up_that_goes_on(bench: Any, tiny_run: Any) -> None:
    run = bench(
        tiny_run(engine={"step_base_ms": 300.0, "die_after_s": 2.0}, warmup_s=0.3, warmup_limit_s=20.0)
    )
    with pytest.raises(RunFailedError, match="died") as caught:
        run.run()
    assert caught.value.reason == "engine_died"
    assert run.ctx.phases.current.phase is Phase.WARMUP


def test_a_warm_up_that_goes_on_is_held_back_with_the_rest(bench: Any, tiny_run: Any) -> None:
    run = bench(
        tiny_run(
            engine={"step_base_ms": 40.0}, max_in_flight=2, warmup_s=0.3, warmup_limit_s=1.5, window_s=0.5
        )
    )
    run.run()
    assert max(row["running"] for row in run.record().steps.to_pylist()) <= 2


def test_idle_phases_may_be_left_out(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(bare_idle_s=0.0, loaded_idle_s=0.0, bare_idle_after_s=0.0))
    run.run()
    assert [span.phase for span in run.ctx.phases.spans] == [
        Phase.ENGINE_START, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN,
    ]  # fmt: skip


def test_what_is_left_of_an_engine_is_not_taken_for_the_bare_gpu(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run())
    run.engine_stops_cleanly = False
    run.run()
    assert run.ctx.phases.spans[-1].phase is Phase.IDLE_AFTER
    assert run.ctx.phases.spans[-1].end_ns is not None


def test_what_is_in_flight_is_drained(bench: Any, tiny_run: Any) -> None:
    slow = {"step_base_ms": 60.0}  # eight tokens take half a second
    run = bench(tiny_run(engine=slow, window_s=0.4, warmup_s=0.2))
    run.run()
    drain = next(span for span in run.ctx.phases.spans if span.phase is Phase.DRAIN)
    record = run.record()
    assert drain.end_ns - drain.start_ns > 100_000_000
    assert set(record.requests["status"].to_pylist()) == {"completed"}
    assert max(record.requests["last_token_ns"].to_pylist()) <= drain.end_ns
    assert max(record.requests["actual_send_ns"].to_pylist()) < drain.start_ns


def test_the_drain_has_a_limit(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"step_base_ms": 100.0}, window_s=0.6, warmup_s=0.6, drain_limit_s=0.3))
    run.run()
    record = run.record()
    drain = next(span for span in record.info.phases if span.phase is Phase.DRAIN)
    assert 0.3 <= (drain.end_ns - drain.start_ns) / 1e9 < 0.6
    status = record.requests["status"].to_pylist()
    assert {"completed", "cancelled"} == set(status)
    assert run.ctx.journal.unfinished() == status.count("cancelled")
    cut = next(
        row for row in record.requests.to_pylist() if row["status"] == "cancelled" and row["token_ts_ns"]
    )
    assert 0 < sum(cut["token_count"]) < 8


def test_an_engine_that_answers_nothing_is_a_timeout(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"step_base_ms": 60_000.0}, window_s=0.3, drain_limit_s=0.2))
    with pytest.raises(RunFailedError, match=r"no request completed within .*drain_limit_s=0\.2") as caught:
        run.run()
    assert caught.value.reason == "timeout"


def test_an_engine_that_fails_every_request_is_told(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"fail_request_every": 1}))
    with pytest.raises(
        RunFailedError, match=r"none of the .* requests completed; .* the first: request failed"
    ) as caught:
        run.run()
    assert caught.value.reason == "requests_failed"
    assert set(run.record().requests["status"].to_pylist()) == {"failed"}


@pytest.mark.parametrize(("warmup_s", "phase"), [(5.0, Phase.WARMUP), (0.2, Phase.WINDOW)])
def test_an_engine_that_dies_ends_the_run_in_its_phase(
    bench: Any, tiny_run: Any, warmup_s: float, phase: Phase
) -> None:
    run = bench(tiny_run(warmup_s=warmup_s, window_s=5.0))
    run.dies_in = phase
    with pytest.raises(RunFailedError, match="died") as caught:
        run.run()
    assert caught.value.reason == "engine_died"
    record = run.record()
    assert record.info.phases[-1].phase is phase
    assert record.info.phases[-1].end_ns is None
    status = record.requests["status"].to_pylist()
    assert "not_sent" in status
    assert len(record.requests) == len(run.ctx.load.main)


def test_a_death_with_nothing_left_to_send_is_noticed(bench: Any, tiny_run: Any) -> None:
    """One request early in the window, then a long wait."""
    cfg = tiny_run(
        engine={"die_after_s": 0.9, "step_base_ms": 200.0},
        rate_rps=2.0,
        warmup_s=0.1,
        window_s=0.9,
        bare_idle_s=0.0,
    )
    cfg = changed(cfg, {"scenario.arrivals.kind": ArrivalKind.constant, "scenario.window_s": 0.9})
    run = bench(cfg)
    with pytest.raises(RunFailedError) as caught:
        run.run()
    assert caught.value.reason == "engine_died"


def test_start_failures_keep_their_reason(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"fail_at_start": "out_of_memory"}))
    with pytest.raises(RunFailedError) as caught:
        run.run()
    assert caught.value.reason == "out_of_memory"
    assert [span.end_ns is None for span in run.ctx.phases.spans] == [False, True]


def test_held_back_requests_are_not_sent_after_the_window(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(engine={"step_base_ms": 40.0}, max_in_flight=2, window_s=0.5))
    run.run()
    record = run.record()
    drain = next(span for span in record.info.phases if span.phase is Phase.DRAIN)
    rows = record.requests.to_pylist()
    late = [row for row in rows if row["status"] == "not_sent"]
    assert late
    assert all(row["planned_send_ns"] is not None and row["actual_send_ns"] is None for row in late)
    assert all(row["actual_send_ns"] < drain.start_ns + 50_000_000 for row in rows if row["actual_send_ns"])


def test_progress_is_told_in_every_phase(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(rehearsal_requests=16))
    run.run(tick_s=0.05)
    reports = run.reports
    assert {report.phase for report in reports} >= set(ALL) - {Phase.DRAIN, Phase.ENGINE_START}
    total = len(run.ctx.load.main)
    window = [report for report in reports if report.phase is Phase.WINDOW]
    assert all(report.requests_total == total and report.planned_s == 0.6 for report in window)
    assert [report.requests_done for report in reports] == sorted(report.requests_done for report in reports)
    assert reports[-1].requests_done == total
    assert any((report.output_tokens_per_s or 0) > 50 for report in window)
    assert all((report.power_w or 0) > 50 for report in reports)


@pytest.mark.parametrize("args", [{}, {"fail_request_every": 1}])
def test_what_was_hidden_from_the_garbage_collector_comes_back(bench: Any, tiny_run: Any, args: Any) -> None:
    import gc

    run = bench(tiny_run(engine=args, window_s=0.2, warmup_s=0.1))
    with contextlib.suppress(RunFailedError):
        run.run()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


S = 1_000_000_000


def record(send_s: float | None, life_s: float | None = None) -> RequestRecord:
    made = RequestRecord("r", 0, "warmup")
    if send_s is not None:
        made.actual_send_ns = round(send_s * S)
        made.status = "cancelled"  # what a running one says
        if life_s is not None:
            made.last_token_ns = made.actual_send_ns + round(life_s * S)
            made.status = "completed"
    return made


def seen(tokens: object, watts: object) -> Settling:
    settling = Settling(0)
    total = 0
    for second, (count, power) in enumerate(zip(tokens, watts, strict=True), 1):  # type: ignore[call-overload]
        total += int(count)
        settling.add(second * S, total, power)
    return settling


ONE = [record(0.0, 1.0)]
STEADY = [1000] * 20


def test_what_does_not_change_has_settled() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.settled(ONE)
    assert settling.verdict(ONE) == {"settled": True, "unsettled": {}, "needed_s": 2.0}


@pytest.mark.parametrize("samples", [0, 1, 7])
def test_too_few_samples_tell_nothing(samples: int) -> None:
    assert not seen([1000] * samples, [500.0] * samples).settled(ONE)


def test_a_server_that_fills_up_has_not_settled_and_later_has() -> None:
    ramp = np.concatenate([np.linspace(100, 1000, 12), np.full(12, 1000.0)])
    early, late = (seen(ramp[:n], 100.0 + ramp[:n] / 2) for n in (12, 24))
    assert early.unsettled()["throughput"] > 20
    # Power follows the tokens: nothing of its own.
    assert "power" not in early.unsettled()
    assert not early.settled(ONE)
    assert late.settled(ONE)


def test_power_that_creeps_up_has_not_settled() -> None:
    settling = seen(STEADY, 500.0 + 8.0 * np.arange(20))
    assert list(settling.unsettled()) == ["power"]
    assert not settling.settled(ONE)
    # By less than 5 % over what is looked at: let pass.
    assert seen(STEADY, 500.0 + 1.0 * np.arange(20)).settled(ONE)


def test_chance_is_let_pass_mostly() -> None:
    random = np.random.default_rng(3)
    passed = 0
    for _ in range(300):
        tokens = random.poisson(16, 20) * 128
        passed += seen(tokens, 300.0 + tokens / 20 + random.normal(0, 5, 20)).settled(ONE)
    assert passed > 290


def test_the_load_must_go_on_for_two_lives() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.settled([record(0.0, 10.0)])
    assert not settling.settled([record(0.0, 10.1)])
    assert settling.needed_s([record(0.0, 4.0), record(1.0, 6.0), record(2.0, 30.0), record(3.0)]) == 12.0


def test_requests_of_which_none_has_ended() -> None:
    settling = seen(STEADY, [500.0] * 20)
    assert settling.needed_s([record(0.0), record(None)]) is None
    assert not settling.settled([record(0.0)])


def test_no_requests_at_all_are_waited_for_no_longer() -> None:
    assert seen([0] * 20, [100.0] * 20).settled([record(None)])


def test_a_gpu_that_tells_no_power() -> None:
    assert seen(STEADY, [None] * 20).settled(ONE)
    assert seen(STEADY, [None] * 3 + [500.0] * 17).settled(ONE)


def test_what_settling_needs_is_loaded_before_there_is_a_load() -> None:
    """Loading scipy.stats takes half a second, which would stall the requests of a warm-up; nobody else waits for it."""
    program = (
        "import sys\n"
        "from wattcount.config.schema import BatchConfig, RunConfig, ServerConfig\n"
        "from wattcount.scenario import create\n"
        "for scenario in (BatchConfig(), ServerConfig()):\n"
        "    create(RunConfig(scenario=scenario))\n"
        "    print('scipy.stats' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
