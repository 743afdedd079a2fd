"""What the engine reported and what the GPU's slow sources said, in the window."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_record import (
    SyntheticRun,
    findings_of,
    observation,
    values_of,
)

from wattcount.metrics import compute
from wattcount.metrics.gpu import load_clocks
from wattcount.metrics.observations import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase


def test_slow_sources_hold_until_the_next_value(tmp_path):
    seen = [
        observation("temperature_gpu", 1, 30),
        observation("temperature_gpu", 30, 55),  # holds at the window's start
        observation("temperature_gpu", 80, 70),
        observation("temperature_gpu", 105, 90),  # after the window
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1000),  # half the window each
        observation("clock_event_reasons", 1, 0x1),
        observation("clock_event_reasons", 85, 0x4 | 0x20),
        observation("clock_event_reasons", 91, 0x0),
    ]
    found = values_of(SyntheticRun(observations=seen), tmp_path)
    assert (found["gpu/temperature_min_c"], found["gpu/temperature_max_c"]) == (55, 70)
    assert found["gpu/clock_sm_mean_mhz"] == 1500.0
    assert found["gpu/clock_event_reasons"] == 0x25
    assert found["gpu/power_capped_share"] == found["gpu/thermal_slowdown_share"] == pytest.approx(0.1)


def test_errors_of_a_source_hold_nothing(tmp_path):
    seen = [
        observation("clock_sm", 1, 1000),
        observation("clock_sm", 50, 12345, nvml_return=999),
        observation("clock_sm", 90, 2000),
    ]
    assert values_of(SyntheticRun(observations=seen), tmp_path)["gpu/clock_sm_mean_mhz"] == 1500.0


def clocks_of(run: SyntheticRun, folder: Path):
    record = Record.open(run.write(folder))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    return load_clocks(record, window)


@pytest.mark.parametrize(
    ("bit", "why"),
    [
        (0x4, "the power limit"),
        (0x20, "temperature"),
        (0x40, "temperature"),
        (0x8, "the board's own protection"),
        (0x80, "an external power brake"),
        (0x10, "its sync boost group"),
    ],
)
def test_whatever_slowed_them_is_named(bit: int, why: str, tmp_path: Path) -> None:
    run = SyntheticRun()  # its window is from 40 to 100 s
    run.observations = [
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1000),
        observation("clock_event_reasons", 1, 0),
        observation("clock_event_reasons", 70, bit),
    ]
    found = clocks_of(run, tmp_path)
    assert found.mean_mhz == pytest.approx(1500)
    assert found.highest_mhz == 2000
    assert found.slowdown == pytest.approx(0.25)
    assert found.slowed_share == pytest.approx(0.5)
    assert found.slowed_by == (why,)


def test_clocks_of_an_idle_gpu_do_not_count(tmp_path: Path) -> None:
    run = SyntheticRun()
    run.observations = [
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 300),
        observation("clock_event_reasons", 1, 0),
        observation("clock_event_reasons", 70, 0x1),
    ]
    assert clocks_of(run, tmp_path).slowdown == 0.0


def test_of_several_gpus_the_one_that_was_slowed_most(tmp_path: Path) -> None:
    run = SyntheticRun(gpus=2)
    run.observations = [
        observation("clock_sm", 1, 2000, gpu=0),
        observation("clock_sm", 1, 2000, gpu=1),
        observation("clock_sm", 40, 1600, gpu=1),
    ]
    assert clocks_of(run, tmp_path).slowdown == pytest.approx(0.2)


def test_what_was_not_recorded_is_not_known(tmp_path: Path) -> None:
    found = clocks_of(SyntheticRun(), tmp_path)
    assert (found.mean_mhz, found.highest_mhz, found.slowed_share, found.slowdown) == (None, None, None, None)


@pytest.mark.parametrize(
    "seen", [[(1, 1)], [(1, 0), (15, 1), (50, 2)], [(1, 0), (15, 1), (99.9, 2), (101, 1)]]
)
def test_another_process_on_the_gpu(tmp_path, seen):
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings_of(run, tmp_path)["foreign_process"]["invalidates"]


def test_processes_of_the_engine_itself_and_after_the_window_are_fine(tmp_path):
    seen = [(1, 0), (15, 2), (105, 3)]
    run = SyntheticRun(observations=[observation("compute_processes", t, n) for t, n in seen])
    assert findings_of(run, tmp_path) == {}


def held_at(source: str, *seen: tuple[float, int]) -> list[dict]:
    return [observation(source, t, value) for t, value in seen]


def asking(folder: Path, observations: list[dict], **gpu: float) -> dict[str, dict]:
    run = SyntheticRun(observations=observations)
    plain = run.config()
    plain["gpu"] |= gpu
    run.config = lambda: plain  # type: ignore[method-assign]
    return findings_of(run, folder)


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
    found = findings_of(SyntheticRun(observations=seen), tmp_path)
    assert list(found) == ([code] if code else [])
    if code:
        assert found[code]["figure"] == pytest.approx(min(seconds, 50) / 60)
        assert found[code]["invalidates"] is invalidates
        assert f"{seconds:.3g} s of the window" in found[code]["message"]


def test_a_slowdown_before_the_window_does_not_count(tmp_path):
    seen = held_at("clock_event_reasons", (1, 0x48), (39, 0))
    assert findings_of(SyntheticRun(observations=seen), tmp_path) == {}


def test_reasons_that_bite_together_are_told_apart_and_the_gpu_is_named_where_there_are_two(tmp_path):
    run = SyntheticRun(gpus=2)
    run.observations = [
        observation("clock_event_reasons", 1, 0, gpu=0), observation("clock_event_reasons", 1, 0x44, gpu=1),
    ]  # fmt: skip
    found = findings_of(run, tmp_path)
    assert set(found) == {"power_capped", "thermal_slowdown"}
    assert all(run.uuid(1) in finding["message"] for finding in found.values())


def test_a_power_limit_that_changed(tmp_path):
    found = findings_of(
        SyntheticRun(observations=held_at("power_limit", (1, 700_000), (70, 500_000))), tmp_path
    )
    assert found["power_limit_changed"]["figure"] == 200.0
    assert found["power_limit_changed"]["invalidates"]
    assert "between 500 and 700 W" in found["power_limit_changed"]["message"]


def test_a_power_limit_that_changed_before_the_window(tmp_path):
    seen = held_at("power_limit", (1, 700_000), (35, 500_000), (105, 700_000))
    assert findings_of(SyntheticRun(observations=seen), tmp_path) == {}


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
    found = findings_of(SyntheticRun(observations=seen), tmp_path)
    code = "sm_clock_varied" if source == "clock_sm" else "memory_clock_varied"
    assert list(found) == ([code] if told else [])
    if told:
        assert found[code]["figure"] == pytest.approx((1980 - 1200) / 1980)
        assert not found[code]["invalidates"]


def test_a_clock_that_a_known_reason_lowers_is_told_once(tmp_path):
    seen = held_at("clock_sm", (1, 1980), (60, 1200)) + held_at("clock_event_reasons", (1, 0), (60, 0x4))
    assert list(findings_of(SyntheticRun(observations=seen), tmp_path)) == ["power_capped"]


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
    found = findings_of(SyntheticRun(gpu_facts=facts), tmp_path)
    assert list(found) == (["power_shared"] if told else [])
    if told:
        assert found["power_shared"]["invalidates"]
