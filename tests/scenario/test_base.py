"""What both scenarios do around their load: the rehearsal."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest

from wattcount.config.schema import RehearsalKind
from wattcount.engine.tiny import TinyEngine
from wattcount.errors import RunFailedError
from wattcount.load.stalls import Stalls
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


@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas_are_sent_as_many_times_more(
    bench: Any, tiny_run: Any, monkeypatch: Any, replicas: int
) -> None:
    """As many requests and as many tokens in a rung."""
    monkeypatch.setattr(TinyEngine, "compiles_on_first_use", True)
    cfg = tiny_run(batch=True, num_requests=16, warmup_requests=0)
    cfg.engine.max_num_seqs, cfg.engine.max_num_batched_tokens = 4, 32
    cfg.engine.data_parallel_size = replicas
    cfg.scenario.lengths.input_tokens = 16
    run = bench(cfg)
    run.run()
    rows = rehearsed(run.record())
    first_rung = [row for row in rows if row["index"] >= 4 * replicas][: 1 + 2 * replicas]
    assert at_once(rows[: 4 * replicas]) == 4 * replicas
    assert (
        sum(row["input_tokens"] for row in first_rung if row["request_id"].count("-") == 1) == 32 * replicas
    )


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
    monkeypatch.setattr("wattcount.scenario.base.BLOCK_LIMIT_S", 0.0)
    run = bench(tiny_run(batch=True, num_requests=2, rehearsal_requests=64, engine={"step_base_ms": 20.0}))
    run.run()
    record = run.record()
    status = {(row["phase"], row["status"]) for row in record.requests.to_pylist()}
    assert ("rehearsal", "cancelled") in status
    found = run.ctx.rehearsal
    assert {key: found[key] for key in ("stalled_prefills", "blocks", "settled", "limit_s")} == {
        "stalled_prefills": [],
        "blocks": None,
        "settled": False,
        "limit_s": 0.2,
    }
    assert ("window", "completed") in status
    assert record.info.phases[-1].end_ns is not None


def stands_still_always(monkeypatch: Any) -> None:
    """Every prefill of a variation counts as one that stood still."""
    monkeypatch.setattr("wattcount.load.rehearsal.STALL_MIN_S", -1.0)
    monkeypatch.setattr("wattcount.load.rehearsal.STALL_SHARE", -1.0)


COMPILES = {"compile_ms": 200.0, "step_base_ms": 1.0}


def small_steps(tiny_run: Any, **options: Any) -> Any:
    """A run whose steps have at most some 25 tokens, of 15 kinds."""
    cfg = tiny_run(batch=True, num_requests=4, warmup_requests=0, rehearsal_requests=4, **options)
    cfg.scenario.lengths.input_tokens = 8
    return cfg


def test_it_goes_on_until_nothing_stands_still(bench: Any, tiny_run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("wattcount.load.rehearsal.STALL_MIN_S", 0.1)
    run = bench(small_steps(tiny_run, engine=COMPILES))
    run.run()
    found = run.ctx.rehearsal
    assert found["settled"]
    assert len(found["stalled_prefills"]) > 1
    assert found["stalled_prefills"][0] > found["stalled_prefills"][-1] == 0
    record = run.record()
    steps = record.steps.to_pandas()
    span = next(span for span in record.info.phases if span.phase is Phase.WINDOW)
    inside = steps[steps["logged_ns"].between(span.start_ns, span.end_ns)]
    assert inside["duration_ns"].max() < 50e6
    rehearsing = next(span for span in record.info.phases if span.phase is Phase.REHEARSAL)
    earlier = steps[steps["logged_ns"].between(rehearsing.start_ns, rehearsing.end_ns)]
    assert (earlier["duration_ns"] > 200e6).sum() >= 10


def test_an_engine_that_stands_still_is_taken_through_all_numbers_of_blocks(
    bench: Any, tiny_run: Any, monkeypatch: Any
) -> None:
    """Rounds of sizes drawn at random alone would meet the 16 numbers of blocks of 512 tokens late or never."""
    monkeypatch.setattr("wattcount.load.rehearsal.STALL_MIN_S", 0.06)
    # This engine compiles for 62 kinds of steps: rounds of 16 prefills meet the rarest ones late.
    monkeypatch.setattr("wattcount.scenario.base.VARIATIONS", 40)
    engine = {"compile_ms": 100.0, "step_base_ms": 1.0}
    cfg = tiny_run(batch=True, num_requests=9, warmup_requests=0, rehearsal_requests=9, engine=engine)
    cfg.scenario.lengths.input_tokens = 64
    run = bench(cfg)
    run.run()
    record = run.record()
    assert run.ctx.rehearsal["blocks"] == {"planned": 17, "completed": 17}
    assert run.ctx.rehearsal["settled"]
    assert run.ctx.rehearsal["stalled_prefills"][-2:] == [0, 0]
    steps = record.steps.to_pandas()
    rehearsing = next(span for span in record.info.phases if span.phase is Phase.REHEARSAL)
    inside = steps[steps["logged_ns"].between(rehearsing.start_ns, rehearsing.end_ns)]
    tokens = inside["prefill_tokens"] + inside["decode_tokens"]
    # Rounds alone leave out four.
    assert set(range(1, 18)) <= set(-(-tokens // 32))


def test_an_engine_that_does_not_stand_still_is_not(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, num_requests=9, rehearsal_requests=9))
    run.run()
    assert run.ctx.rehearsal["stalled_prefills"] == [0]
    assert run.ctx.rehearsal["blocks"] is None


def test_blocks_that_take_too_long_are_cut_off(bench: Any, tiny_run: Any, monkeypatch: Any) -> None:
    stands_still_always(monkeypatch)
    monkeypatch.setattr("wattcount.load.rehearsal.BLOCK", 1)
    monkeypatch.setattr("wattcount.scenario.base.REHEARSAL_LIMIT_S", 8.0)
    monkeypatch.setattr("wattcount.scenario.base.BLOCK_LIMIT_S", 0.0)
    cfg = tiny_run(batch=True, num_requests=9, rehearsal_requests=9, engine={"step_base_ms": 4.0})
    cfg.scenario.lengths.input_tokens = 64
    run = bench(cfg)
    run.run()
    rows = rehearsed(run.record())
    assert 0 < run.ctx.rehearsal["blocks"]["completed"] < run.ctx.rehearsal["blocks"]["planned"] == 513
    assert not run.ctx.rehearsal["settled"]
    assert any(row["request_id"].startswith("rehearsal-blocks-") for row in rows)
    unfinished = {row["status"] for row in rows} - {"completed"}
    assert unfinished
    assert unfinished <= {"cancelled", "not_sent"}


def test_an_engine_that_never_comes_to_rest_is_given_up(bench: Any, tiny_run: Any, monkeypatch: Any) -> None:
    stands_still_always(monkeypatch)
    monkeypatch.setattr("wattcount.scenario.base.VARIATIONS", 3)
    run = bench(small_steps(tiny_run))
    run.run()
    assert len(run.ctx.rehearsal["stalled_prefills"]) == 3
    assert not run.ctx.rehearsal["settled"]


def test_requests_that_fail_are_no_sign_of_rest(bench: Any, tiny_run: Any) -> None:
    run = bench(small_steps(tiny_run, engine={"fail_request_every": 3}))
    run.run()
    assert run.ctx.rehearsal["stalled_prefills"] == []
    assert not run.ctx.rehearsal["settled"]


def test_an_engine_that_dies_in_a_round_leaves_what_was_found(
    bench: Any, tiny_run: Any, monkeypatch: Any
) -> None:
    stands_still_always(monkeypatch)
    monkeypatch.setattr("wattcount.scenario.base.VARIATIONS", 10_000)
    run = bench(small_steps(tiny_run, engine={"die_after_s": 3.0}))
    with pytest.raises(RunFailedError, match="die"):
        run.run()
    assert run.ctx.phases.current.phase is Phase.REHEARSAL
    assert run.ctx.rehearsal["stalled_prefills"]
    assert not run.ctx.rehearsal["settled"]


def test_one_request_at_once_is_varied_too(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, num_requests=2, rehearsal_requests=1))
    run.run()
    assert run.ctx.rehearsal["settled"]
    assert at_once(rehearsed(run.record())) == 1


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine is, no step counts as a stall: what a round shows is what was compiled."""
    monkeypatch.setattr("wattcount.load.stalls.STALL_MIN_S", 1e9)


def dressed(tiny_run: Any, *, batch: bool = True, **options: Any) -> Any:
    return tiny_run(batch=batch, rehearsal=RehearsalKind.dress, **options)


@pytest.mark.usefixtures("unhurried")
def test_a_dress_rehearsal_plays_the_load_until_nothing_new_is_compiled(bench: Any, tiny_run: Any) -> None:
    run = bench(dressed(tiny_run, num_requests=9, rehearsal_requests=64, engine={"compile_ms": 2.0}))
    run.run()
    found = run.ctx.rehearsal
    assert found["kind"] == "dress"
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
    run = bench(dressed(tiny_run, rehearsal_requests=64))
    run.run()
    assert [told["compiled"] for told in run.ctx.rehearsal["rounds"]] == [[]]
    assert run.ctx.rehearsal["settled"]
    assert run.ctx.rehearsal["compiled_later"] == []


def test_a_step_that_stands_still_asks_for_another_round(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = iter([Stalls(1, 1.2, 1.3), None, Stalls(1, 1.2, 1.3)])
    monkeypatch.setattr("wattcount.scenario.base.stalls", lambda *_: next(told))
    run = bench(dressed(tiny_run, rehearsal_requests=64))
    run.run()
    assert [told["stalls"] for told in run.ctx.rehearsal["rounds"]] == [1, None]
    assert run.ctx.rehearsal["settled"]


def test_a_dress_rehearsal_that_never_settles_has_so_many_rounds(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.stalls", lambda *_: Stalls(1, 1.0, 1.0))
    monkeypatch.setattr("wattcount.scenario.base.DRESS_ROUNDS", 3)
    run = bench(dressed(tiny_run, rehearsal_requests=64))
    run.run()
    assert len(run.ctx.rehearsal["rounds"]) == 3
    assert not run.ctx.rehearsal["settled"]


def test_a_dress_rehearsal_that_takes_too_long_is_cut_off(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.DRESS_LIMIT_S", 0.2)
    run = bench(dressed(tiny_run, rehearsal_requests=64, engine={"step_base_ms": 200.0}))
    run.run()
    assert len(run.ctx.rehearsal["rounds"]) == 1
    assert not run.ctx.rehearsal["settled"]
    status = {(row["phase"], row["status"]) for row in run.record().requests.to_pylist()}
    assert ("rehearsal", "cancelled") in status
    assert ("window", "completed") in status


@pytest.mark.usefixtures("unhurried")
def test_a_server_plays_the_beginning_of_its_window(
    bench: Any, tiny_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.scenario.base.DRESS_PLAYED_S", 0.25)
    run = bench(dressed(tiny_run, batch=False, rehearsal_requests=1000))
    run.run()
    (told,) = run.ctx.rehearsal["rounds"]
    load = run.ctx.load
    offsets = load.main.send_offset_ns - load.window_start_offset_ns
    assert told["requests"] == int(((offsets >= 0) & (offsets < 250_000_000)).sum())
    planned = [row["planned_send_ns"] for row in rehearsed(run.record())]
    played = offsets[(offsets >= 0) & (offsets < 250_000_000)]
    assert [ns - planned[0] for ns in planned] == (played - played[0]).tolist()


@pytest.mark.usefixtures("unhurried")
def test_no_rehearsal_where_none_is_asked_for(bench: Any, tiny_run: Any) -> None:
    run = bench(tiny_run(batch=True, rehearsal=RehearsalKind.none, rehearsal_requests=8))
    run.run()
    assert rehearsed(run.record()) == []
    assert run.ctx.rehearsal == {}
