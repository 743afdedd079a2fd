from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.types import RunMode
from omegaconf import open_dict, read_write
from short_run import SHORT_RUN

from wattcount.config.composition import compose, initialized
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED, EXIT_OK, EXIT_TERMINATED
from wattcount.masking import reveal
from wattcount.records import Record
from wattcount.sweep.job import (
    JOB_LOST,
    Errand,
    measure_job,
    read_result,
    read_results,
    was_interrupted,
    write_result,
)
from wattcount.sweep.keys import plan_key
from wattcount.sweep.outcome import Outcome, State, decode

SHORT = [*SHORT_RUN, "power=emulated", "gpu=l4"]


@pytest.fixture
def errand(tmp_path: Path) -> Errand:
    return Errand("s", str(tmp_path / "start" / "call"), str(tmp_path / "records"), str(tmp_path))


@pytest.fixture
def job() -> Callable[[list[str], Errand], Outcome]:
    """Runs the task as Hydra does in a job."""

    def run(overrides: list[str], errand: Errand) -> Outcome:
        state = Singleton.get_state()
        try:
            with initialized():
                hydra = GlobalHydra.instance().hydra
                assert hydra is not None
                cfg = hydra.compose_config("config", overrides, RunMode.RUN, with_log_configuration=False)
            HydraConfig.instance().set_config(cfg)
            with read_write(cfg), open_dict(cfg):
                del cfg["hydra"]
            return measure_job(cfg, errand=errand)
        finally:
            Singleton.set_state(state)

    return run


def events(errand: Errand) -> list[tuple[str, int]]:
    files = sorted(Path(errand.records_dir).glob(".sweeps/s/events/*.jsonl"))
    lines = [line for file in files for line in file.read_bytes().splitlines()[1:]]
    return [(outcome.state.value, outcome.attempt) for outcome in map(decode, lines)]


def test_a_job_measures_its_point_and_tells(
    job: Callable[[list[str], Errand], Outcome], errand: Errand
) -> None:
    result = job(SHORT, errand)
    assert result.exit_code == EXIT_OK
    assert result.key == plan_key(compose(SHORT))
    assert result.record is not None
    assert Record.open(Path(result.record)).path.is_relative_to(errand.records_dir)
    assert read_result(Path(errand.folder) / f"{result.key}.json") == result
    assert not list(Path(errand.folder).glob("*.try"))
    assert next(kind for kind, _ in events(errand)) == "running"
    assert len(list(Path(errand.folder).parent.glob("rest/GPU-*.json"))) == 1


def test_a_job_that_its_launcher_started_again_too_often_gives_up(
    job: Callable[[list[str], Errand], Outcome], errand: Errand
) -> None:
    folder = Path(errand.folder)
    folder.mkdir(parents=True)
    key = plan_key(compose(SHORT))
    (folder / f"{key}.try").write_text("node 1\nnode 2\n")
    result = job(SHORT, replace(errand, attempts=2))
    assert (result.exit_code, result.reason, result.attempt) == (EXIT_FAILED, JOB_LOST, 2)
    assert result.record is None
    assert events(errand) == [("lost", 2)]
    assert read_result(folder / f"{key}.json") == result


def test_a_point_that_makes_no_sense_there_is_told(
    job: Callable[[list[str], Errand], Outcome], errand: Errand
) -> None:
    result = job([*SHORT, "scenario.num_requests=0"], errand)
    assert result.exit_code == EXIT_NOT_STARTED
    assert "scenario.num_requests" in (result.message or "")


def test_a_result_that_is_damaged_is_none(tmp_path: Path) -> None:
    write_result(tmp_path, Outcome(State.done, "k", record="/r"))
    file = tmp_path / "k.json"
    assert read_result(file).record == "/r"
    file.write_text(file.read_text()[:20])
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        read_result(file)
    file.write_text('{"exit_code": 0}')
    with pytest.raises(ValueError, match="not an outcome"):
        read_result(file)


def test_a_folder_that_cannot_be_written_costs_no_result(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_result(tmp_path / "file", Outcome(State.done, "k"))


def test_who_was_interrupted() -> None:
    assert was_interrupted(Outcome(State.failed, exit_code=EXIT_TERMINATED))
    assert not was_interrupted(Outcome(State.failed, exit_code=EXIT_FAILED))


def test_results_are_read_as_they_come(tmp_path: Path) -> None:
    folder = tmp_path / "call"
    assert read_results(folder, ["a", "b"]) == {}
    folder.mkdir()
    (folder / "b.json").write_text('{"exit_code":')  # as a network file system may show it
    result = Outcome(State.done, "a")
    write_result(folder, result)
    assert read_results(folder, ["a", "b", "c"]) == {"a": result}


def test_a_password_reaches_a_job_and_is_in_nothing_that_is_printed(
    job: Callable[[list[str], Errand], Outcome], errand: Errand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    sent = replace(errand, tracking_uri="http://bob:hunter2@127.0.0.1:9")
    assert "hunter2" not in repr(sent)
    result = job([*SHORT, "tracking.tags.evidence=mine"], sent)
    assert result.exit_code == EXIT_NOT_STARTED  # after it was taken in
    assert reveal("http://bob:***@127.0.0.1:9") == "http://bob:hunter2@127.0.0.1:9"
