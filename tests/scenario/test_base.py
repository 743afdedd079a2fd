"""What both scenarios do around their load: the rehearsal."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from wattcount.engine.tiny import TinyEngine
from wattcount.errors import RunFailedError
from wattcount.record.schema import Phase


def rehearsed(record: Any) -> list[dict[str, Any]]:
    return [row for row in record.requests.to_pylist() if row["phase"] == "rehearsal"]


def at_once(rows: list[dict[str, Any]]) -> int:
    """The most that were in flight at one time."""
    bounds = [(row["actual_send_ns"], 1) for row in rows] + [(row["last_token_ns"], -1) for row in rows]
    return max(accumulate(change for _, change in sorted(bounds)), default=0)


@pytest.mark.parametrize("batch", [True, False])
def test_a_rehearsal_ends_before_the_load_begins_and_counts_for_nothing(
    bench: Any, tiny_run: Any, batch: bool
) -> None:
    run = bench(tiny_run(batch=batch, rehearsal_requests=5))
    run.run()
    record = run.record()
    spans = {span.phase: span for span in record.info.phases}
    rows = rehearsed(record)
    assert at_once(rows) == 5
    assert {row["status"] for row in rows} == {"completed"}
    assert len(set(record.requests["request_id"].to_pylist())) == len(record.requests)
    assert all(row["last_token_ns"] <= spans[Phase.REHEARSAL].end_ns for row in rows)
    assert spans[Phase.LOADED_IDLE].end_ns <= spans[Phase.REHEARSAL].start_ns
    assert spans[Phase.REHEARSAL].end_ns <= spans[Phase.WARMUP].start_ns
    last = run.reports[-1]
    assert last.requests_done == len(record.requests) - len(rows) == last.requests_total
    steps = record.steps.to_pandas()
    inside = steps[steps["logged_ns"].between(spans[Phase.REHEARSAL].start_ns, spans[Phase.REHEARSAL].end_ns)]
    assert inside["running"].max() >= 4
    assert {1, 2, 3} <= set(inside["running"])


def test_an_engine_that_compiles_nothing_has_none_unless_asked(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True))
    run.run()
    assert Phase.REHEARSAL not in [span.phase for span in run.ctx.phases.spans]


@pytest.mark.parametrize(
    ("asked", "max_num_seqs", "expected"), [(None, 3, 3), (None, 99, 8), (0, 3, 0), (2, 3, 2)]
)
def test_as_many_as_run_at_once_at_most_the_load_s(
    bench: Any, tiny_run: Any, monkeypatch: Any, asked: int | None, max_num_seqs: int, expected: int
) -> None:
    monkeypatch.setattr(TinyEngine, "compiles_on_first_use", True)
    cfg = tiny_run(batch=True, num_requests=8, warmup_requests=0, rehearsal_requests=asked)
    cfg.engine.max_num_seqs = max_num_seqs
    run = bench(cfg)
    run.run()
    assert at_once(rehearsed(run.record())) == expected


def test_a_server_that_is_held_back_rehearses_no_more_than_it_lets_in(
    bench: Any, tiny_run: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(TinyEngine, "compiles_on_first_use", True)
    run = bench(tiny_run(max_in_flight=2))
    run.run()
    assert at_once(rehearsed(run.record())) == 2


def test_an_engine_that_dies_in_it(bench: Any, tiny_run: Any) -> None:
    engine = {"die_after_s": 1.0, "step_base_ms": 100.0}
    run = bench(tiny_run(batch=True, loaded_idle_s=0.1, rehearsal_requests=64, engine=engine))
    with pytest.raises(RunFailedError) as caught:
        run.run()
    assert caught.value.reason == "engine_died"
    assert run.ctx.phases.current.phase is Phase.REHEARSAL


def test_one_that_takes_too_long_is_cut_off_and_the_run_goes_on(
    bench: Any, tiny_run: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.REHEARSAL_LIMIT_S", 0.2)
    run = bench(tiny_run(batch=True, num_requests=2, rehearsal_requests=64, engine={"step_base_ms": 20.0}))
    run.run()
    record = run.record()
    status = {(row["phase"], row["status"]) for row in record.requests.to_pylist()}
    assert ("rehearsal", "cancelled") in status
    assert ("window", "completed") in status
    assert record.info.phases[-1].end_ns is not None
