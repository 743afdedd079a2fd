from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_record import BOUNDS_S, SyntheticRun, at, request

from wattcount.figures.trace import AROUND, GENERATING, IN_WINDOW, WAITING, run_trace
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan, Validity


def step(end_s: float, prefill: int, decode: int) -> dict[str, object]:
    return {
        "logged_ns": at(end_s),
        "engine_ts_ns": at(end_s),
        "duration_ns": 100_000_000,
        "prefill_tokens": prefill,
        "decode_tokens": decode,
        "running": 1,
        "waiting": 0,
    }


def made(tmp_path: Path, **given: object) -> Record:
    return Record.open(SyntheticRun(**given).write(tmp_path / "r0-x"))  # type: ignore[arg-type]


def test_power_of_the_stretches_adds_up_to_the_energy(tmp_path: Path) -> None:
    record = made(tmp_path, power_w=lambda s: 100.0 if s < 40 else 300.0 + 100 * np.sin(s))
    trace = run_trace(record)
    (power,) = trace.power_w
    inside = (trace.edges_s[:-1] >= 0) & (trace.edges_s[1:] <= 60)
    joules = float(np.nansum((power.values * np.diff(trace.edges_s))[inside]))
    estimate = record.power.energy(at(40), at(100), record.power.gpu_uuids[0])
    assert joules == pytest.approx(estimate.value_j, rel=1e-9)


def test_time_0_is_the_windows_start_and_phases_have_their_names(tmp_path: Path) -> None:
    trace = run_trace(made(tmp_path))
    spans = {span.phase: (span.start_s, span.end_s) for span in trace.phases}
    assert spans["window"] == (0.0, 60.0)
    assert spans["loaded idle after"] == (70.0, 80.0)
    assert trace.edges_s[0] == -40.0
    assert trace.edges_s[-1] == 80.0


def test_there_are_no_more_stretches_than_a_screen_shows(tmp_path: Path) -> None:
    trace = run_trace(made(tmp_path))
    assert len(trace.edges_s) <= IN_WINDOW + AROUND + 2
    assert np.all(np.diff(trace.edges_s) > 0)


def test_requests_wait_until_their_first_token_and_then_generate(tmp_path: Path) -> None:
    # Sent at 50 s, first token 2 s later, then a token each second: 5 tokens end at 56 s.
    one = request(0, 50.0, ttft_ms=2000.0, itl_ms=1000.0, tokens=5)
    trace = run_trace(made(tmp_path, requests=[one]))
    seconds = np.diff(trace.edges_s)
    there = {series.name: float((series.values * seconds).sum()) for series in trace.flight}
    assert there == {WAITING: pytest.approx(2.0), GENERATING: pytest.approx(4.0)}


def test_a_request_that_never_ended_stays_to_the_end(tmp_path: Path) -> None:
    one = request(0, 50.0, status="cancelled")
    trace = run_trace(made(tmp_path, requests=[one]))
    generating = next(series for series in trace.flight if series.name == GENERATING)
    assert generating.values[-1] == pytest.approx(1.0)


def test_tokens_of_the_steps_are_all_there(tmp_path: Path) -> None:
    trace = run_trace(made(tmp_path, steps=[step(50.0, 512, 0), step(50.2, 0, 8), step(50.4, 0, 8)]))
    seconds = np.diff(trace.edges_s)
    tokens = {series.name: float((series.values * seconds).sum()) for series in trace.tokens_per_s}
    assert tokens == {"prefill": pytest.approx(512), "decode": pytest.approx(16)}


def test_each_gpu_has_a_line_of_its_own(tmp_path: Path) -> None:
    trace = run_trace(made(tmp_path, gpus=2))
    assert [series.name for series in trace.power_w] == ["GPU 0 (0000)", "GPU 1 (0000)"]


def test_a_run_that_broke_off_is_drawn_as_far_as_it_went(tmp_path: Path) -> None:
    spans = [PhaseSpan(phase, at(a), at(b)) for phase, (a, b) in list(BOUNDS_S.items())[:4]]
    spans.append(PhaseSpan(Phase.WINDOW, at(40), None))
    record = made(
        tmp_path, phases=spans, complete=False, validity=Validity(False, ["engine_died"]), last_read_s=60.0
    )
    trace = run_trace(record)
    assert trace.phases[-1].phase == "window"
    assert 19.0 < trace.phases[-1].end_s <= 20.0


def test_a_run_without_phases_has_an_empty_trace(tmp_path: Path) -> None:
    trace = run_trace(made(tmp_path, phases=[], complete=False, requests=[]))
    assert not len(trace.edges_s)
    assert not trace.phases
