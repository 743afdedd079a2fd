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
