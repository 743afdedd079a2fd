"""What both scenarios do around their load: the rehearsal."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest

from wattcount.config.loader import changed
from wattcount.engines.tiny.engine import TinyEngine
from wattcount.errors import RunFailedError
from wattcount.load.stalls import Stalls
from wattcount.records.schema import Phase


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
    assert len(rows) == 5
    assert {row["status"] for row in rows} == {"completed"}
    assert len(set(record.requests["request_id"].to_pylist())) == len(record.requests)
    assert all(row["last_token_ns"] <= spans[Phase.REHEARSAL].end_ns for row in rows)
    assert spans[Phase.LOADED_IDLE].end_ns <= spans[Phase.REHEARSAL].start_ns
    assert spans[Phase.REHEARSAL].end_ns <= spans[Phase.WARMUP].start_ns
    last = run.reports[-1]
    assert last.requests_done == len(record.requests) - len(rows) == last.requests_total


def test_an_engine_that_compiles_nothing_has_none_unless_asked(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True))
    run.run()
    assert Phase.REHEARSAL not in [span.phase for span in run.ctx.phases.spans]


@pytest.mark.parametrize(
    ("asked", "max_num_seqs", "replicas", "expected"),
    [(None, 3, 1, 3), (None, 3, 2, 6), (None, 99, 1, 8), (0, 3, 1, 0), (2, 3, 1, 2)],
)
def test_as_many_as_run_at_once_at_most_the_load_s(
    bench: Any,
    tiny_run: Any,
    monkeypatch: Any,
    asked: int | None,
    max_num_seqs: int,
    replicas: int,
    expected: int,
) -> None:
    monkeypatch.setattr(TinyEngine, "compiles_on_first_use", True)
    cfg = tiny_run(batch=True, num_requests=8, warmup_requests=0, rehearsal_requests=asked)
    cfg = changed(cfg, {"engine.max_num_seqs": max_num_seqs, "engine.data_parallel_size": replicas})
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


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no step counts as a stall: what a round shows is what was compiled."""
    monkeypatch.setattr("wattcount.load.stalls.STALL_MIN_S", 1e9)


@pytest.mark.usefixtures("unhurried")
def test_a_rehearsal_plays_the_load_until_nothing_new_is_compiled(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, num_requests=9, rehearsal_requests=64, engine={"compile_ms": 2.0}))
    run.run()
    found = run.ctx.rehearsal
    assert found["settled"]
    assert found["rounds"][0]["compiled"]
    assert found["rounds"][-1]["compiled"] == []
    assert len(found["rounds"]) >= 2
    assert all(told["requests"] == 9 for told in found["rounds"])
    rows = rehearsed(run.record())
    assert len(rows) == 9 * len(found["rounds"])
    assert {row["input_tokens"] for row in rows} == {16}
    assert {row["output_tokens"] for row in rows} == {8}


@pytest.mark.usefixtures("unhurried")
def test_one_round_is_enough_where_nothing_is_compiled(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, rehearsal_requests=64))
    run.run()
    assert [told["compiled"] for told in run.ctx.rehearsal["rounds"]] == [[]]
    assert run.ctx.rehearsal["settled"]
    assert run.ctx.rehearsal["compiled_later"] == []


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize(("before", "again"), [([], False), (["fused_moe_kernel"], True)])
def test_a_later_run_rehearses_only_where_something_was_compiled_before(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch, before: list[str], again: bool
) -> None:
    monkeypatch.setattr(TinyEngine, "compiles_on_first_use", True)
    monkeypatch.setattr(TinyEngine, "kernels_compiled", lambda engine: before + engine._kernels)
    run = bench(tiny_run(batch=True, num_requests=9))
    run.rehearsed = True
    run.run()
    found = run.ctx.rehearsal
    assert bool(found["rounds"]) == again
    assert found["settled"]
    assert found["compiled_later"] == []
    assert bool(rehearsed(run.record())) == again


@pytest.mark.usefixtures("unhurried")
def test_a_rehearsal_that_was_asked_for_is_played_on_every_start(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, rehearsal_requests=5))
    run.rehearsed = True
    run.run()
    assert run.ctx.rehearsal["rounds"]


def test_a_step_that_stands_still_asks_for_another_round(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([Stalls(1, 1.2, 1.3), None, Stalls(1, 1.2, 1.3)])
    monkeypatch.setattr("wattcount.scenario.base.stalls", lambda *_: next(told))
    run = bench(tiny_run(batch=True, rehearsal_requests=64))
    run.run()
    assert [told["stalls"] for told in run.ctx.rehearsal["rounds"]] == [1, None]
    assert run.ctx.rehearsal["settled"]


def test_a_rehearsal_that_never_settles_has_so_many_rounds(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.stalls", lambda *_: Stalls(1, 1.0, 1.0))
    monkeypatch.setattr("wattcount.scenario.base.REHEARSAL_ROUNDS", 3)
    run = bench(tiny_run(batch=True, rehearsal_requests=64))
    run.run()
    assert len(run.ctx.rehearsal["rounds"]) == 3
    assert not run.ctx.rehearsal["settled"]


def test_a_rehearsal_that_takes_too_long_is_cut_off(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.REHEARSAL_LIMIT_S", 0.2)
    run = bench(tiny_run(batch=True, rehearsal_requests=64, engine={"step_base_ms": 200.0}))
    run.run()
    assert len(run.ctx.rehearsal["rounds"]) == 1
    assert not run.ctx.rehearsal["settled"]
    status = {(row["phase"], row["status"]) for row in run.record().requests.to_pylist()}
    assert ("rehearsal", "cancelled") in status
    assert ("window", "completed") in status


@pytest.mark.usefixtures("unhurried")
def test_a_round_of_a_long_load_is_cut_off_and_counts(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.ROUND_LIMIT_S", 0.5)
    run = bench(tiny_run(batch=True, rehearsal_requests=64, engine={"step_base_ms": 200.0}))
    run.run()
    (told,) = run.ctx.rehearsal["rounds"]
    assert (told["requests"], told["completed"]) == (8, 0)
    assert run.ctx.rehearsal["settled"]
    status = {(row["phase"], row["status"]) for row in run.record().requests.to_pylist()}
    assert ("rehearsal", "cancelled") in status
    assert ("window", "completed") in status


@pytest.mark.usefixtures("unhurried")
def test_a_server_plays_the_beginning_of_its_window(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.PLAYED_S", 0.25)
    run = bench(tiny_run(rehearsal_requests=1000))
    run.run()
    (told,) = run.ctx.rehearsal["rounds"]
    load = run.ctx.load
    offsets = load.main.send_offset_ns - load.window_start_offset_ns
    assert told["requests"] == int(((offsets >= 0) & (offsets < 250_000_000)).sum())
    planned = np.array([row["planned_send_ns"] for row in rehearsed(run.record())])
    played = offsets[(offsets >= 0) & (offsets < 250_000_000)]
    # A record has whole microseconds.
    assert (abs((planned - planned[0]) - (played - played[0])) < 1000).all()


@pytest.mark.usefixtures("unhurried")
def test_what_is_compiled_after_it_is_told(bench: Any, tiny_run: Any) -> None:
    """One request at once is played here, and the load has eight."""
    run = bench(tiny_run(batch=True, warmup_requests=0, rehearsal_requests=1, engine={"compile_ms": 2.0}))
    run.run()
    assert run.ctx.rehearsal["settled"]
    assert run.ctx.rehearsal["compiled_later"]


@pytest.mark.usefixtures("unhurried")
def test_requests_that_fail_are_no_sign_of_rest(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, rehearsal_requests=8, engine={"fail_request_every": 3}))
    run.run()
    assert len(run.ctx.rehearsal["rounds"]) == 1
    assert not run.ctx.rehearsal["settled"]


def test_an_engine_that_dies_in_a_round_leaves_what_was_found(
    bench: Any, tiny_run: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.stalls", lambda *_: Stalls(1, 1.0, 1.0))
    monkeypatch.setattr("wattcount.scenario.base.REHEARSAL_ROUNDS", 10_000)
    run = bench(tiny_run(batch=True, rehearsal_requests=8, engine={"die_after_s": 3.0}))
    with pytest.raises(RunFailedError, match="die"):
        run.run()
    assert run.ctx.phases.current.phase is Phase.REHEARSAL
    assert run.ctx.rehearsal["rounds"]
    assert not run.ctx.rehearsal["settled"]
