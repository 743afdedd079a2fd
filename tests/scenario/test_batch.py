from __future__ import annotations

from typing import Any

import pytest

from wattcount.config.loader import changed
from wattcount.errors import RunFailedError
from wattcount.records.schema import Phase


def test_the_window_is_from_the_first_send_to_the_last_token(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, num_requests=12, rehearsal_requests=2))
    run.run()
    record = run.record()
    assert [span.phase for span in record.info.phases] == list(Phase)
    spans = {span.phase: span for span in record.info.phases}
    rows = [row for row in record.requests.to_pylist() if row["phase"] == "window"]
    assert len(rows) == 12
    window = spans[Phase.WINDOW]
    assert window.start_ns == min(row["actual_send_ns"] for row in rows)
    assert window.end_ns == max(row["last_token_ns"] for row in rows)
    assert len({row["planned_send_ns"] for row in rows}) == 1
    assert spans[Phase.DRAIN].start_ns == window.end_ns
    assert spans[Phase.IDLE_AFTER].start_ns >= window.end_ns


def test_the_warm_up_is_over_before_the_window(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, warmup_requests=3))
    run.run()
    record = run.record()
    window = next(span for span in record.info.phases if span.phase is Phase.WINDOW)
    warmup = [row for row in record.requests.to_pylist() if row["phase"] == "warmup"]
    assert len(warmup) == 3
    assert all(row["last_token_ns"] < window.start_ns for row in warmup)


def test_there_need_not_be_a_warm_up(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, warmup_requests=0))
    run.run()
    assert Phase.WARMUP not in [span.phase for span in run.ctx.phases.spans]
    assert len(run.record().requests) == 8


def test_a_batch_that_takes_too_long_fails_and_keeps_what_it_has(bench: Any, tiny_run: Any) -> None:
    cfg = tiny_run(
        batch=True, num_requests=8, warmup_requests=0, time_limit_s=0.6, engine={"step_base_ms": 30.0}
    )
    cfg = changed(cfg, {"engine.max_num_seqs": 2})  # two at a time, a quarter of a second each
    run = bench(cfg)
    with pytest.raises(
        RunFailedError, match=r"of 8 requests were not done within scenario\.time_limit_s=0\.6"
    ) as caught:
        run.run()
    assert caught.value.reason == "timeout"
    record = run.record()
    assert record.info.phases[-1].phase is Phase.WINDOW
    assert record.info.phases[-1].end_ns is None
    assert {"completed", "cancelled"} == set(record.requests["status"].to_pylist())


def test_an_engine_that_dies_in_the_window(bench: Any, tiny_run: Any) -> None:
    engine = {"die_after_s": 3.0, "step_base_ms": 500.0}
    run = bench(tiny_run(batch=True, loaded_idle_s=0.1, warmup_requests=0, engine=engine))
    with pytest.raises(RunFailedError) as caught:
        run.run()
    assert caught.value.reason == "engine_died"
    assert run.ctx.phases.current.phase is Phase.WINDOW
    rows = [row for row in run.record().requests.to_pylist() if row["phase"] == "window"]
    assert {row["status"] for row in rows} == {"failed"}
    assert any(row["token_ts_ns"] for row in rows)


def test_some_requests_may_fail(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, num_requests=9, warmup_requests=0, engine={"fail_request_every": 3}))
    run.run()
    assert run.record().requests["status"].to_pylist().count("failed") == 3
