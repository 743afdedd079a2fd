"""Clocks under load, and what slowed them."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, observation

from wattcount.metrics.clocks import load_clocks
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase


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
