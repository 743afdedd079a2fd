"""Logging to real stores: sqlite, and a server in a process of its own that lives, dies and hangs."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import mlflow.data
import numpy as np
import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow_store import make_store
from synthetic_record import UTC_NS, SyntheticRun, at, hash_files, observation, steady_requests

from tests.tracking.conftest import Server, free_port, start_server
from wattcount.config.composition import compose
from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError
from wattcount.metrics import write
from wattcount.records import Record
from wattcount.records.schema import Evidence, Validity
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.tracking import (
    TrackingError,
    log_predicted,
    log_record,
    prepare,
    resolve_uri,
    store,
    sweep_run,
    ui_command,
    ways_to_see,
)
from wattcount.tracking.content import metrics
from wattcount.tracking.store import fetch_record

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PROJECT = Path(__file__).parents[2]


def polled() -> list[dict]:
    return [observation("power_instant", t / 10, 300_000 + t % 7) for t in range(1211)]


@pytest.fixture
def folder(tmp_path) -> Path:
    path = SyntheticRun(observations=polled()).write(tmp_path / "record")
    write(path)
    return path


def all_runs(uri: str, experiment: str = "wattcount"):
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id], run_view_type=1))


def assert_logged_whole(uri: str, run_id: str, folder: Path, status: str = "FINISHED"):
    client = MlflowClient(uri)
    run = client.get_run(run_id)
    record = Record.open(folder)
    assert run.info.status == status
    invalid = "" if status == "FINISHED" else "INVALID "
    assert run.info.run_name == f"{invalid}llama3_8b h200 server 4 rps window 60 s r0"
    assert (run.info.start_time, run.info.end_time) == (UTC_NS // 10**6, UTC_NS // 10**6 + 120_000)
    expected = metrics(Result.of(record))
    logged = dict(run.data.metrics)
    logged.pop("power_w")
    assert logged.pop("system/gpu_0_power_usage_watts") == pytest.approx(300.0)
    assert logged == expected
    assert run.data.params["model.name"] == "llama3_8b"
    assert run.data.tags["evidence"] == "measured"
    assert run.data.tags["wattcount.logging"] == "complete"
    curve = client.get_metric_history(run_id, "power_w")
    assert 500 < len(curve) <= 1000
    steps = [point.step for point in curve]
    assert min(steps) == pytest.approx(-40_000, abs=200)  # milliseconds from the window's start
    assert np.mean([point.value for point in curve]) == pytest.approx(300, rel=1e-3)
    assert curve[0].timestamp == pytest.approx(UTC_NS / 10**6 + 40_000 + curve[0].step, abs=2)
    artifacts = {item.path for item in client.list_artifacts(run_id, "record")}
    assert artifacts == {f"record/{path.name}" for path in folder.iterdir()}
    pages = {item.path for item in client.list_artifacts(run_id)} - {"record"}
    assert pages == {"summary.md", "summary.html", "plots"}
    plots = {item.path for item in client.list_artifacts(run_id, "plots")}
    assert plots == {"plots/power_trace.png", "plots/latency_distribution.png"}
    (workload,) = run.inputs.dataset_inputs
    assert workload.dataset.name == "server seed 0 r0"
    assert json.loads(workload.dataset.profile)["num_rows"] == 280
    return run


@pytest.mark.usefixtures("home")
def test_a_predicted_row_is_a_run_of_its_own_evidence():
    cfg = compose(["model=llama3_8b", "gpu=h100", "scenario=server", "scenario.rate_rps=4"])
    row = Result.predicted(cfg, {PER_TOKEN: 0.5}, {PER_TOKEN: (0.4, 0.6)}, "a guess")
    run_id = log_predicted(row)
    assert log_predicted(row) == run_id
    run = MlflowClient(resolve_uri()).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["evidence"], run.data.tags["basis"]) == ("predicted", "a guess")
    assert run.data.tags["wattcount.logging"] == "complete"
    assert (run.data.metrics[PER_TOKEN], run.data.metrics[f"{PER_TOKEN}_p95"]) == (0.5, 0.6)
    assert run.data.params["scenario.rate_rps"] == "4"
    assert "500.0 mJ (400 mJ to 600 mJ)" in run.data.tags["mlflow.note.content"]
    with pytest.raises(ValueError, match="only predicted rows"):
        log_predicted(dataclasses.replace(row, evidence=Evidence.MEASURED))


# -- the default store ----------------------------------------------------------------------------


def test_the_default_store_is_sqlite_at_a_fixed_place(folder, home):
    uri = resolve_uri()
    assert uri == f"sqlite:///{home}/mlflow.db"
    assert ui_command(uri) == f"mlflow ui --workers 1 --backend-store-uri sqlite:///{home}/mlflow.db"
    run = assert_logged_whole(uri, log_record(folder), folder)
    assert run.info.artifact_uri.startswith(f"file://{home}/mlflow-artifacts/wattcount/")
    # Nothing in the working directory, where MLflow would put things by itself.
    assert list(Path.cwd().iterdir()) == []


def test_the_data_set_leads_back_to_the_requests(folder):
    run = MlflowClient(resolve_uri()).get_run(log_record(folder))
    source = mlflow.data.get_source(run.inputs.dataset_inputs[0].dataset)
    assert Path(source.load()) == folder / "requests.parquet"


def test_uri_from_config_goes_before_the_environment_and_the_default(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-env:5000")
    assert resolve_uri() == "http://from-env:5000"
    assert resolve_uri(TrackingConfig(uri="sqlite:////x.db")) == "sqlite:////x.db"
    assert ui_command("http://from-env:5000") == "open http://from-env:5000"


def test_config_of_name_experiment_and_tags(folder):
    tracking = TrackingConfig(experiment="a sweep/1", run_name="mine", tags={"cluster": "blue"})
    run = MlflowClient(resolve_uri()).get_run(log_record(folder, tracking))
    assert run.info.run_name == "mine"
    assert run.data.tags["cluster"] == "blue"
    assert len(all_runs(resolve_uri(), "a sweep/1")) == 1


def test_more_tags_than_fit_one_batch(folder):
    tags = {f"tag{i}": str(i) for i in range(150)}
    logged = MlflowClient(resolve_uri()).get_run(log_record(folder, TrackingConfig(tags=tags))).data.tags
    assert tags.items() <= logged.items()


def test_a_record_is_logged_once_unless_forced(folder):
    first = log_record(folder)
    assert log_record(folder) == first
    assert len(all_runs(resolve_uri())) == 1
    assert log_record(folder, force=True) != first
    assert len(all_runs(resolve_uri())) == 2


def test_the_environment_is_left_as_it_was(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    log_record(folder)
    assert dict(os.environ) == before


def test_prepare_makes_the_store_and_never_raises(home):
    prepare()
    assert (home / "mlflow.db").is_file()
    prepare(TrackingConfig(uri="sqlite:////proc/no/such.db"))


@pytest.mark.parametrize("reason", ["engine_died", "interrupted"])
def test_a_failed_run_is_failed(tmp_path, reason):
    path = SyntheticRun(observations=polled(), validity=Validity(False, [reason], ["why"])).write(
        tmp_path / "r"
    )
    run = assert_logged_whole(resolve_uri(), log_record(path), path, status="FAILED")
    assert (run.data.tags["valid"], run.data.tags["reasons"]) == ("false", reason)
    assert "why" in run.data.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.note.content"].startswith("**INVALID: do not use these numbers**")


def test_a_run_that_its_own_checks_find_invalid_cannot_be_taken_for_a_good_one(tmp_path):
    # It ran to its end, on a board that it shared with another process.
    run = SyntheticRun(observations=[*polled(), observation("compute_processes", 1, 2)])
    path = run.write(tmp_path / "r")
    logged = assert_logged_whole(resolve_uri(), log_record(path), path, status="FAILED")
    assert (logged.data.tags["valid"], logged.data.tags["reasons"]) == ("false", "foreign_process")
    assert log_record(path) == logged.info.run_id
    assert MlflowClient(resolve_uri()).get_run(logged.info.run_id).info.status == "FAILED"


def test_the_printed_address_opens_the_list_of_runs_with_its_saved_view(folder, home):
    uri = resolve_uri()
    log_record(folder)
    number = MlflowClient(uri).get_experiment_by_name("wattcount").experiment_id
    command, address = ways_to_see(uri, "wattcount")
    assert command == f"see it with: {ui_command(uri)}"
    view = f"#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey=wattcount-energy"
    assert address == f"then open: http://127.0.0.1:5000/{view}"
    assert ways_to_see(uri, "never logged to") == [command]
    assert ways_to_see("http://bob:secret@host:5000", "x") == ["see it: open http://bob:***@host:5000"]
    assert home


def test_an_almost_empty_record_is_logged_too(tmp_path):
    run = SyntheticRun(
        requests=[], phases=[], gpus=0, validity=Validity(False, ["out_of_memory"], ["too big"])
    )
    path = run.write(tmp_path / "r")
    logged = MlflowClient(resolve_uri()).get_run(log_record(path))
    assert logged.info.status == "FAILED"
    assert logged.inputs.dataset_inputs == []


def test_a_folder_that_is_no_record(tmp_path):
    with pytest.raises(WattcountError, match="no run record"):
        log_record(tmp_path)


def test_experiments_have_a_view_with_the_columns_that_matter(folder):
    log_record(folder)
    tags = MlflowClient(resolve_uri()).get_experiment_by_name("wattcount").tags
    (view,) = [json.loads(value) for key, value in tags.items() if key.startswith("mlflow.sharedViewState.")]
    assert view["name"] == "Energy"
    assert "metrics.`energy/gpu_mj_per_output_token`" in json.loads(view["state"])["selectedColumns"]


def test_a_big_record_is_logged_by_few_points(tmp_path):
    """The store is given a thousand points of a curve, and the record as files."""
    rng = np.random.default_rng(0)
    noise = [
        observation("power_instant", i / 5000, int(v)) for i, v in enumerate(rng.integers(1, 2**40, 600_000))
    ]
    path = SyntheticRun(observations=noise, requests=steady_requests(16, tokens=128)).write(tmp_path / "r")
    write(path)
    assert sum(file.stat().st_size for file in path.iterdir()) > 3e6
    run_id = log_record(path)
    client = MlflowClient(resolve_uri())
    for name in client.get_run(run_id).data.metrics:
        assert len(client.get_metric_history(run_id, name)) <= 1000


# -- a logging that is killed ---------------------------------------------------------------------

KILLED = """
import os, signal, sys
from wattcount.tracking import store
at = sys.argv[2]
kept = getattr(store, at)
def die(*args, **kwargs):
    if sys.argv[3] == "after":
        kept(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(store, at, die)
store.log_record(sys.argv[1])
"""


@pytest.mark.parametrize("place", ["_log_facts", "_log_curves", "_log_workload"])
def test_a_killed_logging_leaves_no_running_run_and_is_replaced(folder, place):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), place, "after"], cwd=PROJECT, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = all_runs(resolve_uri())
    assert left.info.status == "FAILED"
    assert left.data.tags["wattcount.logging"].startswith("incomplete")
    run_id = log_record(folder)
    assert_logged_whole(resolve_uri(), run_id, folder)
    assert [run.info.run_id for run in all_runs(resolve_uri())] == [run_id]


def test_a_run_left_running_is_reaped(folder):
    log_record(SyntheticRun(run_id="other").write(folder.parent / "other"))
    client = MlflowClient(resolve_uri())
    experiment = client.get_experiment_by_name("wattcount").experiment_id
    run_id = Record.open(folder).info.run_id
    stale = client.create_run(
        experiment, tags={"wattcount.run_id": run_id, "wattcount.logging": "incomplete elsewhere 1"}
    )
    logged = log_record(folder)
    reaped = client.get_run(stale.info.run_id).info
    assert (reaped.status, reaped.lifecycle_stage) == ("FAILED", "deleted")
    assert sorted(
        r.info.run_id for r in all_runs(resolve_uri()) if r.data.tags["wattcount.run_id"] == run_id
    ) == [logged]


def test_a_record_that_another_process_is_logging_is_left_to_it(folder):
    log_record(SyntheticRun(run_id="other").write(folder.parent / "other"))
    client = MlflowClient(resolve_uri())
    experiment = client.get_experiment_by_name("wattcount").experiment_id
    mark = f"incomplete {socket.gethostname()} {os.getppid()}"
    tags = {"wattcount.run_id": Record.open(folder).info.run_id, "wattcount.logging": mark}
    client.create_run(experiment, tags=tags)
    with pytest.raises(TrackingError, match="being logged by another process"):
        log_record(folder)


def test_a_logging_killed_before_its_last_word_is_finished_by_the_next(folder, monkeypatch):
    set_terminated = MlflowClient.set_terminated

    def dies(self, run_id, status=None, end_time=None):
        if status == "FINISHED":
            raise ConnectionError("killed here")
        set_terminated(self, run_id, status, end_time)

    monkeypatch.setattr(MlflowClient, "set_terminated", dies)
    with pytest.raises(TrackingError, match="killed here"):
        log_record(folder)
    (left,) = all_runs(resolve_uri())
    assert (left.info.status, left.data.tags["wattcount.logging"]) == ("FAILED", "complete")
    monkeypatch.undo()
    monkeypatch.setenv("WATTCOUNT_HOME", str(folder.parent / "home"))
    run_id = log_record(folder)
    assert_logged_whole(resolve_uri(), run_id, folder)
    assert [run.info.run_id for run in all_runs(resolve_uri())] == [run_id]


def test_three_logs_of_one_record_at_once_make_one_run(folder, home):
    make_store(home)
    together, answers = threading.Barrier(3), []

    def log() -> None:
        together.wait()
        answers.append(log_record(folder))

    loggers = [threading.Thread(target=log) for _ in range(3)]
    for logger in loggers:
        logger.start()
    for logger in loggers:
        logger.join()
    assert len(answers) == 3
    assert {run.info.run_id for run in all_runs(resolve_uri())} == set(answers)
    assert len(set(answers)) == 1
    assert_logged_whole(resolve_uri(), answers[0], folder)


def test_two_hosts_that_log_a_record_at_once_keep_the_same_run(folder, home, monkeypatch):
    make_store(home)
    client, made = MlflowClient(resolve_uri()), []
    workload = store._log_workload

    def another_host_is_done_meanwhile(inner, run_id, record):
        workload(inner, run_id, record)
        tags = {"wattcount.run_id": record.info.run_id, "wattcount.logging": "complete"}
        experiment = client.get_experiment_by_name("wattcount").experiment_id
        made.append(client.create_run(experiment, tags=tags).info.run_id)
        made.append(run_id)

    monkeypatch.setattr(store, "_log_workload", another_host_is_done_meanwhile)
    run_id = log_record(folder)
    assert run_id == min(made)
    assert [run.info.run_id for run in all_runs(resolve_uri())] == [run_id]


@pytest.mark.parametrize(("age_s", "alive"), [(10, True), (10_000, False)])
def test_a_mark_of_another_host_holds_for_as_long_as_a_logging_may_take(folder, home, age_s, alive):
    make_store(home)
    log_record(SyntheticRun(run_id="other").write(folder.parent / "other"))
    client = MlflowClient(resolve_uri())
    mark = f"incomplete elsewhere 1 {time.time() - age_s:.0f}"
    tags = {"wattcount.run_id": Record.open(folder).info.run_id, "wattcount.logging": mark}
    client.create_run(client.get_experiment_by_name("wattcount").experiment_id, tags=tags)
    if alive:
        with pytest.raises(TrackingError, match=r"being logged by another process \(elsewhere 1\)"):
            log_record(folder)
    else:
        assert_logged_whole(resolve_uri(), log_record(folder), folder)


# -- what people do in MLflow, and what a record may not ------------------------------------------


def test_a_run_that_was_deleted_there_is_logged_again(folder, home):
    make_store(home)
    first = log_record(folder)
    MlflowClient(resolve_uri()).delete_run(first)
    second = log_record(folder)
    assert [run.info.run_id for run in all_runs(resolve_uri())] == [second]


@pytest.mark.parametrize("how", ["deleted", "gone"])
def test_a_record_whose_page_was_deleted_gets_the_new_one(folder, home, how):
    make_store(home)
    page = sweep_run("big", "/f")
    run_id = log_record(folder, parent=page)
    client = MlflowClient(resolve_uri())
    if how == "deleted":
        client.delete_run(page)
    else:  # as `mlflow gc` leaves it
        client.set_tag(run_id, "mlflow.parentRunId", "0" * 32)
    other = sweep_run("other", "/g")
    assert log_record(folder, parent=other) == run_id
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == other
    third = sweep_run("third", "/h")
    log_record(folder, parent=third)  # it has one that is there
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == other


def test_no_tag_of_a_user_stands_in_place_of_our_own(folder, home):
    make_store(home)
    tags = {
        "evidence": "mine", "valid": "mine", "wattcount.run_id": "x", "wattcount.logging": "complete", "mlflow.parentRunId": "abc",
        "mlflow.note.content": "mine", "version.wattcount": "9", "k" * 300: "x", "a//b": "x", "long": "x" * 9000, "cluster": "blue",
    }  # fmt: skip
    run_id = log_record(folder, TrackingConfig(tags=tags))
    assert log_record(folder, TrackingConfig(tags=tags)) == run_id
    run = assert_logged_whole(resolve_uri(), run_id, folder)
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.tags["valid"] == "true"
    assert run.data.tags["cluster"] == "blue"
    assert len(run.data.tags["long"]) == 8000
    assert not {"k" * 300, "a//b"} & run.data.tags.keys()
    assert "mine" not in run.data.tags.values()


def test_links_and_odd_files_of_a_record_are_not_logged(folder, home, tmp_path):
    make_store(home)
    (tmp_path / "private").write_text("PRIVATE KEY")
    (folder / "notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(WattcountError, match=r"notes\.txt"):
        log_record(folder)
    assert all_runs(resolve_uri()) == []


def test_a_run_id_that_is_none_is_no_filter(folder, home):
    make_store(home)
    info = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(info | {"run_id": "x' or 'a' = 'a"}))
    with pytest.raises(WattcountError, match="run_id must be"):
        log_record(folder)


# -- a server -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server(folder, server: Server, capfd):
    tracking = TrackingConfig(uri=server.uri)
    run_id = log_record(folder, tracking)
    assert_logged_whole(server.uri, run_id, folder)
    assert log_record(folder, tracking) == run_id
    assert capfd.readouterr().out == ""  # MLflow would print where it is, with the password


def assert_refused(folder: Path, uri: str) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(TrackingError) as caught:
        log_record(folder, TrackingConfig(uri=uri))
    assert f"wattcount log {folder}" in str(caught.value)
    assert uri in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_server_that_is_down(folder):
    assert_refused(folder, f"http://127.0.0.1:{free_port()}")


def test_a_server_that_never_answers(folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert_refused(folder, f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_store_that_cannot_be_written(folder):
    assert_refused(folder, "sqlite:////proc/wattcount/mlflow.db")


@pytest.mark.slow
def test_a_server_that_dies_midway(folder, tmp_path, monkeypatch):
    (tmp_path / "server").mkdir()
    dying = start_server(tmp_path / "server")
    facts = store._log_facts

    def log_facts_then_die(*args, **kwargs):
        facts(*args, **kwargs)
        dying.kill()

    monkeypatch.setattr(store, "_log_facts", log_facts_then_die)
    try:
        assert_refused(folder, dying.uri)
    finally:
        dying.kill()
    # What it had stored by then is FAILED, not RUNNING.
    (left,) = all_runs(f"sqlite:///{tmp_path / 'server' / 'server.db'}")
    assert left.info.status == "FAILED"


def test_times_are_those_of_the_run_not_of_the_logging(folder):
    run = MlflowClient(resolve_uri()).get_run(log_record(folder))
    assert run.info.end_time - run.info.start_time == (at(120) - at(0)) // 10**6


class Refusing:
    """A client whose store refuses the first data sets with these messages."""

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)
        self.calls = 0

    def log_inputs(self, run_id: str, datasets: list[object]) -> None:  # noqa: ARG002
        self.calls += 1
        if self.messages:
            raise MlflowException(self.messages.pop(0))


UNIQUE = 'BAD_REQUEST: (psycopg2.errors.UniqueViolation) duplicate key value violates unique constraint "dataset_pk"'


def test_a_data_set_that_another_run_makes_at_the_same_moment_is_logged_by_another_try(folder) -> None:
    client = Refusing(UNIQUE, UNIQUE)
    store._log_workload(client, "run", Record.open(folder))
    assert client.calls == 3


@pytest.mark.parametrize(
    ("messages", "calls"), [([UNIQUE] * store.DATASET_TRIES, store.DATASET_TRIES), (["no such run"], 1)]
)
def test_a_data_set_that_is_refused_for_good_is_an_error(folder, messages, calls) -> None:
    client = Refusing(*messages)
    with pytest.raises(MlflowException, match=messages[0].split()[0]):
        store._log_workload(client, "run", Record.open(folder))
    assert client.calls == calls


# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def its_store(tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    polled = [observation("power_instant", t / 10, 300_000 + t % 7) for t in range(1211)]
    path = SyntheticRun(observations=polled).write(tmp_path / "node" / "record")
    write(path)
    return path


def test_a_record_comes_back_as_it_was(tmp_path: Path, its_store: TrackingConfig, measured: Path) -> None:
    info = Record.open(measured).info
    log_record(measured, its_store)
    here = tmp_path / "here"
    found = fetch_record(info.run_id, here, its_store)
    assert found == here / info.point_id[:12] / f"r{info.repeat}-{info.run_id}"
    assert {file.name: file.read_bytes() for file in found.iterdir()} == {
        file.name: file.read_bytes() for file in measured.iterdir()
    }
    assert fetch_record(info.run_id, here, its_store) == found
    assert not list(here.glob(".tmp-*"))


def test_a_record_that_was_not_logged_is_told(
    tmp_path: Path, its_store: TrackingConfig, measured: Path
) -> None:
    log_record(measured, its_store)
    with pytest.raises(TrackingError, match=r"it is not in MLflow at .*set records_dir to a folder"):
        fetch_record("20260101-000000-000-abcdef", tmp_path / "here", its_store)
    assert not list((tmp_path / "here").iterdir())


def test_a_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    nobody = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError, match="it could not be fetched from MLflow at http"):
        fetch_record("r", tmp_path / "here", nobody)


def test_a_record_that_was_damaged_in_the_store_is_not_taken(
    tmp_path: Path, its_store: TrackingConfig, measured: Path
) -> None:
    info = Record.open(measured).info
    log_record(measured, its_store)
    (kept,) = [file for file in tmp_path.rglob("run.json") if "node" not in file.parts]
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"run_id": "another"}))
    with pytest.raises(TrackingError, match=r"another record \(another\) in its place"):
        fetch_record(info.run_id, tmp_path / "here", its_store)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    "change", [{"point_id": "../../../../"}, {"run_id": "../x"}, {"repeat": "/../OUTSIDE"}, {"seed": 1}]
)
def test_a_record_names_no_place_and_is_what_was_measured(
    tmp_path: Path, its_store: TrackingConfig, measured: Path, change: dict[str, object]
) -> None:
    """As a stranger may have put it into a store that others use too."""
    hash_files(measured)
    run_id = Record.open(measured).info.run_id
    log_record(measured, its_store)
    (logged,) = (tmp_path / "mlflow-artifacts").rglob("run.json")
    data = json.loads(logged.read_text())
    logged.write_text(json.dumps(data | change))
    if "seed" in change:  # the record may say of itself what it likes; its raw files are held against it
        data["files"]["power.parquet"]["sha256"] = "0" * 64
        logged.write_text(json.dumps(data))
    before = sorted(tmp_path.rglob("*"))
    records_dir = tmp_path / "a" / "b" / "c" / "records"
    with pytest.raises(WattcountError):
        fetch_record(run_id, records_dir, its_store)
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path for path in new if path.is_file()} == set()
    assert list(records_dir.iterdir()) == []
