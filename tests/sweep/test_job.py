"""What a job does on its node: one point, in this process."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from short_run import SHORT_RUN

from wattcount.config.composition import compose
from wattcount.config.loader import to_json
from wattcount.errors import EXIT_NOT_STARTED
from wattcount.masking import reveal
from wattcount.records import Record
from wattcount.sweep.job import Place, measure_job
from wattcount.sweep.lane import Task
from wattcount.sweep.outcome import State, decode


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path), str(tmp_path / "rest"))


def a_task(records_dir: Path, *overrides: str) -> Task:
    cfg = compose([*SHORT_RUN, "power=emulated", "gpu=l4", f"records_dir={records_dir}", *overrides])
    return Task(to_json(cfg), "k", "s", 2, (), wait_for_others=False)


def test_a_job_measures_its_point_and_tells_the_ledger(place: Place, tmp_path: Path) -> None:
    result = measure_job(place, a_task(tmp_path / "records"))
    assert (result.state, result.key, result.attempt) == (State.done, "k", 2)
    assert result.record is not None
    assert Record.open(Path(result.record)).path.is_relative_to(tmp_path / "records")
    (file,) = (tmp_path / "records").glob(".sweeps/s/events/*.jsonl")
    events = [decode(line) for line in file.read_bytes().splitlines()[1:]]
    assert [(event.state.value, event.key, event.attempt) for event in events] == [
        ("running", "k", 2),
        ("done", "k", 2),
    ]


def test_jobs_know_what_a_gpu_was_like_before_the_first_of_them(place: Place, tmp_path: Path) -> None:
    first = measure_job(place, a_task(tmp_path / "records"))
    (file,) = (tmp_path / "rest").glob("GPU-*.json")
    assert first.gpu_uuid == file.stem
    before = json.loads(file.read_text())
    file.write_text(json.dumps(before | {"temperature_c": 3.0}))
    second = measure_job(place, a_task(tmp_path / "records", "repeat=1", "cooldown_limit_s=0"))
    assert second.record is not None
    cooldown = Record.open(Path(second.record)).info.cooldown
    assert cooldown is not None
    assert cooldown["before"][file.stem]["temperature_c"] == 3.0
    assert json.loads(file.read_text())["temperature_c"] == 3.0


def test_a_password_reaches_a_job_and_is_in_nothing_that_is_printed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    sent = replace(place, tracking_uri="http://bob:hunter2@127.0.0.1:9")
    assert "hunter2" not in repr(sent)
    result = measure_job(sent, a_task(tmp_path / "records", "power=nvml"))
    assert result.exit_code == EXIT_NOT_STARTED
    assert reveal("http://bob:***@127.0.0.1:9") == "http://bob:hunter2@127.0.0.1:9"


def test_a_ledger_that_cannot_be_written_costs_no_result(place: Place, tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    result = measure_job(place, a_task(tmp_path / "records"))
    assert result.exit_code == EXIT_NOT_STARTED
