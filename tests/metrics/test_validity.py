import re
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, at, observation, request, steady_requests

from wattcount.metrics import board_findings, compute
from wattcount.records import Record
from wattcount.records.schema import Phase


def findings(run: SyntheticRun, folder: Path) -> dict[str, dict]:
    content = compute(Record.open(run.write(folder)))
    found = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert content["validity"]["valid"] == (not any(f["invalidates"] for f in found.values()))
    for finding in found.values():
        assert finding["figure"] > finding["limit"]
        assert finding["message"]
        assert "\n" not in finding["message"]
    return found


def test_a_clean_run_has_none(tmp_path):
    processes = [observation("compute_processes", 1, 0), observation("compute_processes", 15, 1)]
    assert findings(SyntheticRun(observations=processes), tmp_path) == {}


def test_gpu_lost(tmp_path):
    lost = [observation("power_usage", 90, 0, nvml_return=15)]
    assert findings(SyntheticRun(observations=lost), tmp_path)["gpu_lost"]["invalidates"]


@pytest.mark.parametrize(
    "seen", [[(1, 1)], [(1, 0), (15, 1), (50, 2)], [(1, 0), (15, 1), (99.9, 2), (101, 1)]]
)
def test_another_process_on_the_gpu(tmp_path, seen):
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings(run, tmp_path)["foreign_process"]["invalidates"]


def test_processes_of_the_engine_itself_and_after_the_window_are_fine(tmp_path):
    seen = [(1, 0), (15, 2), (105, 3)]
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings(run, tmp_path) == {}


def test_reads_that_stopped_for_a_while(tmp_path):
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(60) < row["t0_ns"] < at(68)
    ]
    gap = findings(run, tmp_path)["power_gap"]
    assert gap["figure"] == pytest.approx(8000, abs=600)
    assert gap["invalidates"]


@pytest.mark.parametrize(
    ("phase", "start_s", "end_s"),
    [
        ("bare idle", 2, 9),
        ("loaded idle", 24, 32),
        ("loaded idle after the load", 105, 113),
        ("the window", 36, 44.5),
        ("the window", 93, 101),
    ],
)
def test_reads_that_stopped_in_any_phase_whose_energy_is_told(tmp_path, phase, start_s, end_s):
    """Also where most of the gap lies outside of it: when power changed at the phase's end was not seen."""
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(start_s) < row["t0_ns"] < at(end_s)
    ]
    content = compute(Record.open(run.write(tmp_path)))
    gaps = [found for found in content["validity"]["findings"] if found["code"] == "power_gap"]
    assert all(gap["invalidates"] and gap["figure"] > gap["limit"] for gap in gaps)
    assert [gap["message"].rsplit(" in ", 1)[1] for gap in gaps] == [phase]


def test_a_gap_that_only_touches_a_phase_is_no_fault_of_it(tmp_path):
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(31.5) < row["t0_ns"] < at(40.5)
    ]
    assert "power_gap" not in findings(run, tmp_path)


def test_a_value_that_only_stayed_the_same_is_no_gap(tmp_path):
    run = SyntheticRun()
    # The same reads left out, but the read after them says that it was asked all along.
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": at(63.5) if at(67) <= row["t0_ns"] < at(67.4) else row["prev_t0_ns"]}
        for row in rows
        if not at(60) < row["t0_ns"] < at(67)
    ]
    assert "power_gap" not in findings(run, tmp_path)


def ring(power_mw: int, start_s: float = 0.0, end_s: float = 121.0) -> list[dict]:
    """A samples ring of steady power with its clock pairs: wall clock is monotonic plus an hour."""
    hour_ns = 3_600_000_000_000
    rows = [observation("realtime", t, at(t) + hour_ns) for t in range(int(start_s), int(end_s) + 1)]
    for tick in range(int(start_s * 50), int(end_s * 50)):
        # A sensor that works never gives one value for long.
        row = observation("power_samples", tick / 50, power_mw + tick % 2)
        rows.append(row | {"source_ts_us": (at(tick / 50) + hour_ns) // 1000})
    return rows


@pytest.mark.parametrize(
    ("power_mw", "disagrees"), [(300_000, False), (312_000, False), (320_000, True), (280_000, True)]
)
def test_ring_against_counter(tmp_path, power_mw, disagrees):
    run = SyntheticRun(observations=ring(power_mw))
    found = findings(run, tmp_path)
    assert ("sources_disagree" in found) == disagrees
    if disagrees:
        assert not found["sources_disagree"]["invalidates"]
        assert found["sources_disagree"]["figure"] == pytest.approx(abs(power_mw / 300_000 - 1), rel=1e-3)


@pytest.mark.parametrize(
    ("lag_ms", "expected"), [(9.0, None), (12.0, None), (13.0, False), (240.0, False), (260.0, True)]
)
def test_a_generator_that_lags(tmp_path, lag_ms, expected):
    """4 requests/s: a warning above 5 % of the mean gap (12.5 ms), invalid above the gap itself."""
    found = findings(SyntheticRun(requests=steady_requests(lag_ms=lag_ms)), tmp_path)
    if expected is None:
        assert "generator_lagging" not in found
    else:
        assert found["generator_lagging"]["invalidates"] is expected


def test_one_late_request_of_many_is_no_lag(tmp_path):
    rows = [*steady_requests(), request(999, 70.0, lag_ms=500.0)]
    assert "generator_lagging" not in findings(SyntheticRun(requests=rows), tmp_path)


def test_a_batch_cannot_lag(tmp_path):
    rows = [request(i, 40.0, lag_ms=i) for i in range(500)]
    assert "generator_lagging" not in findings(SyntheticRun(scenario="batch", requests=rows), tmp_path)


def test_unfinished_requests(tmp_path):
    rows = steady_requests()
    for row in rows[-5:]:
        row["status"] = "cancelled"
    found = findings(SyntheticRun(requests=rows), tmp_path)
    assert found["requests_unfinished"]["figure"] == pytest.approx(5 / 240)
    assert not found["requests_unfinished"]["invalidates"]


def held_at(source: str, *seen: tuple[float, int]) -> list[dict]:
    return [observation(source, t, value) for t, value in seen]


@pytest.mark.parametrize(
    ("bit", "seconds", "code", "invalidates"),
    [
        (0x4, 2.0, None, None),
        (0x4, 30.0, "power_capped", False),
        (0x20, 0.5, None, None),
        (0x20, 2.0, "thermal_slowdown", True),
        (0x40, 2.0, "thermal_slowdown", True),
        (0x8, 2.0, "hw_slowdown", True),
        (0x80, 2.0, "power_brake", True),
        (0x10, 30.0, "sync_boost", False),
        (0x1, 60.0, None, None),
        (0x2, 60.0, None, None),
        (0x100, 60.0, None, None),
    ],
)
def test_what_slowed_the_clocks_and_for_how_long(tmp_path, bit, seconds, code, invalidates):
    seen = held_at("clock_event_reasons", (1, 0), (50, bit), (50 + seconds, 0))
    found = findings(SyntheticRun(observations=seen), tmp_path)
    assert list(found) == ([code] if code else [])
    if code:
        assert found[code]["figure"] == pytest.approx(min(seconds, 50) / 60)
        assert found[code]["invalidates"] is invalidates
        assert f"{seconds:.3g} s of the window" in found[code]["message"]


def test_a_slowdown_before_the_window_does_not_count(tmp_path):
    seen = held_at("clock_event_reasons", (1, 0x48), (39, 0))
    assert findings(SyntheticRun(observations=seen), tmp_path) == {}


def test_reasons_that_bite_together_are_told_apart_and_the_gpu_is_named_where_there_are_two(tmp_path):
    run = SyntheticRun(gpus=2)
    run.observations = [
        observation("clock_event_reasons", 1, 0, gpu=0), observation("clock_event_reasons", 1, 0x44, gpu=1),
    ]  # fmt: skip
    found = findings(run, tmp_path)
    assert set(found) == {"power_capped", "thermal_slowdown"}
    assert all(run.uuid(1) in finding["message"] for finding in found.values())


def test_a_power_limit_that_changed(tmp_path):
    found = findings(SyntheticRun(observations=held_at("power_limit", (1, 700_000), (70, 500_000))), tmp_path)
    assert found["power_limit_changed"]["figure"] == 200.0
    assert found["power_limit_changed"]["invalidates"]
    assert "between 500 and 700 W" in found["power_limit_changed"]["message"]


def test_a_power_limit_that_changed_before_the_window(tmp_path):
    seen = held_at("power_limit", (1, 700_000), (35, 500_000), (105, 700_000))
    assert findings(SyntheticRun(observations=seen), tmp_path) == {}


def asking(folder: Path, observations: list[dict], **gpu: float) -> dict[str, dict]:
    run = SyntheticRun(observations=observations)
    plain = run.config()
    plain["gpu"] |= gpu
    run.config = lambda: plain  # type: ignore[method-assign]
    return findings(run, folder)


def test_a_power_limit_that_is_not_the_one_asked_for(tmp_path):
    seen = held_at("power_limit", (1, 400_000), (70, 350_000), (80, 400_000))
    found = asking(tmp_path / "a", seen, power_limit_w=400.0)["power_limit_not_held"]
    assert (found["figure"], found["limit"], found["invalidates"]) == (50.0, 1.0, True)
    assert "for 10 s of the window" in found["message"]
    assert "350 W" in found["message"]
    held = held_at("power_limit", (1, 400_400), (105, 700_000))
    assert asking(tmp_path / "b", held, power_limit_w=400.0) == {}


@pytest.mark.parametrize(("low_s", "told"), [(2.0, False), (6.0, True)])
def test_a_locked_clock_that_did_not_stay(tmp_path, low_s, told):
    seen = held_at("clock_sm", (1, 345), (39, 1410), (60, 1200), (60 + low_s, 1410), (100.5, 345))
    found = asking(tmp_path, seen, sm_clock_mhz=1410)
    assert ("sm_clock_not_held" in found) == told
    if told:
        assert found["sm_clock_not_held"]["figure"] == pytest.approx(0.1)
        assert found["sm_clock_not_held"]["invalidates"]
        assert "1200 to 1200 MHz for 10% of" in found["sm_clock_not_held"]["message"]


def test_an_idle_gpu_may_clock_down(tmp_path):
    seen = held_at("clock_sm", (1, 345), (39, 1410), (60, 345), (80, 1410))
    seen += held_at("clock_event_reasons", (1, 1), (39, 0), (60, 1), (80, 0))
    assert "sm_clock_not_held" not in asking(tmp_path / "a", seen, sm_clock_mhz=1410)
    # A read that failed says nothing of the clock.
    lost = [*held_at("clock_sm", (39, 1410)), observation("clock_sm", 60, 0, nvml_return=999)]
    assert "sm_clock_not_held" not in asking(tmp_path / "b", lost, sm_clock_mhz=1410)


@pytest.mark.parametrize("source", ["clock_sm", "clock_memory"])
@pytest.mark.parametrize(("low", "told"), [(1900, False), (1200, True)])
def test_clocks_that_moved(tmp_path, source, low, told):
    seen = held_at(source, (1, 300), (39, 1980), (60, low), (80, 1980), (99.5, 210))
    found = findings(SyntheticRun(observations=seen), tmp_path)
    code = "sm_clock_varied" if source == "clock_sm" else "memory_clock_varied"
    assert list(found) == ([code] if told else [])
    if told:
        assert found[code]["figure"] == pytest.approx((1980 - 1200) / 1980)
        assert not found[code]["invalidates"]


def test_a_clock_that_a_known_reason_lowers_is_told_once(tmp_path):
    seen = held_at("clock_sm", (1, 1980), (60, 1200)) + held_at("clock_event_reasons", (1, 0), (60, 0x4))
    assert list(findings(SyntheticRun(observations=seen), tmp_path)) == ["power_capped"]


@pytest.mark.parametrize(
    ("degrees", "told"), [((30, 85), False), ((30, 86), True), ((10, 50), False), ((5, 50), True)]
)
def test_temperature(tmp_path, degrees, told):
    seen = held_at("temperature_gpu", (1, degrees[0]), (60, degrees[1]))
    content = compute(Record.open(SyntheticRun(observations=seen).write(tmp_path)))
    codes = [finding["code"] for finding in content["validity"]["findings"]]
    assert codes == (["temperature_out_of_range"] if told else [])
    assert content["validity"]["valid"]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"mig_mode": 1}, True),
        ({"mig_mode": 0, "virtualization_mode": 2}, True),
        ({"virtualization_mode": 3}, True),
        ({"mig_mode": 0, "virtualization_mode": 1}, False),  # passed through whole
        ({"mig_mode": None, "virtualization_mode": None}, False),
    ],
)
def test_a_board_whose_power_is_shared(tmp_path, facts, told):
    found = findings(SyntheticRun(gpu_facts=facts), tmp_path)
    assert list(found) == (["power_shared"] if told else [])
    if told:
        assert found["power_shared"]["invalidates"]


def books(**values: object) -> dict:
    sources = {"energy_counter": {"calls": 400}, "power_instant": {"calls": 600}}
    return {SyntheticRun().uuid(): {"sources": sources, **values}}


@pytest.mark.parametrize(
    ("values", "code", "figure"),
    [
        ({"dropped_events": 0, "ring_overflows": 0, "missed_deadlines": 10}, None, None),
        ({"dropped_events": 7}, "dropped_events", 7),
        ({"ring_overflows": 2}, "ring_overflows", 2),
        ({"missed_deadlines": 250}, "missed_deadlines", 0.2),
    ],
)
def test_what_the_sampler_lost(tmp_path, values, code, figure):
    found = findings(SyntheticRun(sampler=books(**values)), tmp_path)
    assert list(found) == ([code] if code else [])
    if code:
        assert found[code]["figure"] == pytest.approx(figure)
        assert not found[code]["invalidates"]


def test_a_sampler_without_books(tmp_path):
    assert findings(SyntheticRun(sampler={SyntheticRun().uuid(): {}}), tmp_path) == {}


def test_a_window_too_short_for_the_counter(tmp_path):
    """Read twice a second: a window of a second holds two or three reads."""
    run = SyntheticRun(scenario="batch", requests=[request(i, 40.0) for i in range(3)])
    for span in run.phases:
        if span.phase is Phase.WINDOW:
            span.end_ns = at(41.0)
    (finding,) = compute(Record.open(run.write(tmp_path)))["validity"]["findings"]
    assert finding["code"] == "window_too_short"
    assert finding["figure"] in (2, 3)
    assert finding["limit"] == 5
    assert not finding["invalidates"]


def test_a_sensor_that_is_far_off_invalidates(tmp_path):
    found = findings(SyntheticRun(observations=ring(400_000)), tmp_path)
    assert found["sources_disagree"]["invalidates"]


@pytest.mark.parametrize(("window_s", "told"), [(0.2, False), (0.9, False), (1.1, True)])
def test_sources_are_not_compared_over_less_than_a_second(tmp_path, window_s, told):
    """A few samples of each say nothing about a sensor: their own steps at the edges are larger than what is looked for."""
    run = SyntheticRun(
        scenario="batch", requests=[request(i, 40.0) for i in range(3)], observations=ring(400_000)
    )
    for span in run.phases:
        if span.phase is Phase.WINDOW:
            span.end_ns = at(40.0 + window_s)
    found = compute(Record.open(run.write(tmp_path)))["validity"]["findings"]
    assert "window_too_short" in {f["code"] for f in found}
    of_window = [f for f in found if f["code"] == "sources_disagree" and f["message"].endswith("the window")]
    assert bool(of_window) == told


@pytest.mark.parametrize(("power_mw", "told"), [(300_000, False), (330_000, True)])
def test_the_average_stands_in_for_a_missing_ring(tmp_path, power_mw, told):
    seen = [observation("power_average", t / 10, power_mw + t % 2) for t in range(1210)]
    found = findings(SyntheticRun(observations=seen), tmp_path)
    assert ("sources_disagree" in found) == told
    if told:
        assert "power_average" in found["sources_disagree"]["message"]


def test_a_load_that_was_not_the_one_asked_for(tmp_path):
    rows = steady_requests()
    for row in rows[-12:]:
        # Planned for the window, sent after it.
        row["actual_send_ns"] += 20_000_000_000
    found = findings(SyntheticRun(requests=rows), tmp_path)
    assert found["load_not_achieved"]["figure"] == pytest.approx(12 / 240)
    assert found["load_not_achieved"]["invalidates"]


def test_a_load_that_is_held_back_on_purpose(tmp_path):
    rows = steady_requests()
    for row in rows[-12:]:
        row["actual_send_ns"] += 20_000_000_000
    run = SyntheticRun(requests=rows)
    plain = run.config
    run.config = lambda: plain() | {"scenario": plain()["scenario"] | {"max_in_flight": 8}}  # type: ignore[method-assign]
    assert "load_not_achieved" not in findings(run, tmp_path)


def test_a_warm_up_that_did_not_settle(tmp_path):
    warmup = {
        "settled": False,
        "seconds": 60.0,
        "limit_s": 60.0,
        "unsettled": {"power": -7.5},
        "needed_s": 3.0,
    }
    found = findings(SyntheticRun(warmup=warmup), tmp_path)
    assert found["not_settled"]["figure"] == 7.5
    assert "scenario.warmup_limit_s" in found["not_settled"]["message"]
    assert not found["not_settled"]["invalidates"]


@pytest.mark.parametrize(("needed_s", "limit"), [(80.0, 80.0), (None, 60.0)])
def test_a_warm_up_that_ended_before_the_server_had_filled_up(tmp_path, needed_s, limit):
    warmup = {"settled": False, "seconds": 60.0, "limit_s": 60.0, "unsettled": {}, "needed_s": needed_s}
    content = compute(Record.open(SyntheticRun(warmup=warmup).write(tmp_path)))
    (finding,) = content["validity"]["findings"]
    assert (finding["code"], finding["figure"], finding["limit"]) == ("warmup_too_short", 60.0, limit)
    assert content["validity"]["valid"]


def test_a_warm_up_that_settled_is_no_finding(tmp_path):
    warmup = {"settled": True, "seconds": 12.0, "limit_s": 60.0, "unsettled": {}, "needed_s": 3.0}
    assert findings(SyntheticRun(warmup=warmup), tmp_path) == {}


def test_lengths_that_the_bounds_changed(tmp_path):
    changes = {
        "requests": 200, "input_cut": 28, "input_raised": 0, "output_cut": 3, "output_raised": 0,
        "input_tokens_given": 500_000, "output_tokens_given": 40_000, "input_tokens": 410_000, "output_tokens": 39_000,
    }  # fmt: skip
    finding = findings(SyntheticRun(length_changes=changes), tmp_path)["lengths_changed"]
    assert (finding["figure"], finding["invalidates"]) == (0.14, False)
    assert (
        "28 prompts were cut at scenario.lengths.input_tokens_max, 3 outputs were cut" in finding["message"]
    )
    assert "410,000 of the file's 500,000 prompt tokens" in finding["message"]


def test_docs_explain_every_code():
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    folder = Path(__file__).parents[2] / "wattcount" / "metrics"
    source = "".join(file.read_text() for file in folder.glob("*_findings.py"))
    codes = set(re.findall(r'Finding\(\s*"(\w+)"', source)) | {row[1] for row in board_findings.THROTTLES}
    codes |= {"sm_clock_varied", "memory_clock_varied", "dropped_events", "ring_overflows"}
    codes |= {"sources_disagree", "counter_not_continuous"}
    assert len(codes) > 20
    for code in codes:
        assert f"| `{code}` |" in text, code
