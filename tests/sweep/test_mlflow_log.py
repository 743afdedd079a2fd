import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_store import make_store
from sweep_ledger import make_sweep

from wattcount.cli.main import main
from wattcount.config.schema import TrackingConfig
from wattcount.records.schema import Phase
from wattcount.run.claims import OwnWindow
from wattcount.sweep import mlflow_log
from wattcount.sweep.ledger import Ledger, read_state
from wattcount.sweep.mlflow_log import LaneLog, SweepLog, pending
from wattcount.sweep.point import Outcome, State
from wattcount.sweep.status import sweep_page
from wattcount.tracking import resolve_uri

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_store(tmp_path / "home")


@pytest.fixture
def sweep(tmp_path: Path) -> Ledger:
    made = make_sweep(tmp_path)
    made.close()
    return made


def records(tmp_path: Path) -> list[Path]:
    return [Path(record) for record in read_state(tmp_path, "big").records]


def children(parent: str) -> int:
    client = MlflowClient(resolve_uri())
    experiment = client.get_experiment_by_name("wattcount").experiment_id
    return len(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'"))


def the_sweep():
    client = MlflowClient(resolve_uri())
    experiment = client.get_experiment_by_name("wattcount").experiment_id
    (run,) = client.search_runs([experiment], "tags.`wattcount.sweep` = 'big'")
    return run


def dead_server() -> TrackingConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return TrackingConfig(uri=f"http://127.0.0.1:{probe.getsockname()[1]}")


# -- a lane's -------------------------------------------------------------------------------------


def test_a_lane_logs_its_record_below_the_sweep(sweep, tmp_path):
    said: list[str] = []
    assert LaneLog().record(records(tmp_path)[0], TrackingConfig(), tmp_path, "big", said.append)
    assert said == []
    assert pending(sweep.folder) == []
    assert children(the_sweep().info.run_id) == 1


def test_nothing_is_logged_while_another_run_is_in_its_window(sweep, tmp_path):
    other = OwnWindow()
    other.follow(Phase.WINDOW)
    record = records(tmp_path)[0]
    lane = LaneLog()
    assert not lane.record(record, TrackingConfig(), tmp_path, "big", print)
    assert MlflowClient(resolve_uri()).get_experiment_by_name("wattcount") is None
    assert pending(sweep.folder) == [record]
    other.release()
    assert lane.record(record, TrackingConfig(), tmp_path, "big", print)


def test_a_store_that_is_down_is_told_once_and_left_alone(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_log, "RECORD_LIMIT_S", 2.0)
    said: list[str] = []
    lane = LaneLog()
    first, second = records(tmp_path)
    assert not lane.record(first, dead_server(), tmp_path, "big", said.append)
    with monkeypatch.context() as patch:
        # However late this is on a busy machine: the store is closed for now.
        patch.setattr(lane, "_closed_until_s", float("inf"))
        assert not lane.record(second, dead_server(), tmp_path, "big", said.append)
    assert len(said) == 1
    assert "the sweep goes on" in said[0]
    assert "wattcount log --sweep big" in said[0]
    assert sorted(pending(sweep.folder)) == sorted([first, second])
    # It is tried again, after twice as long each time.
    lane._closed_until_s = 0.0
    assert not lane.record(second, dead_server(), tmp_path, "big", said.append)
    assert lane._pause_s == 4 * mlflow_log.PAUSES_S[0]


@pytest.mark.usefixtures("sweep")
def test_a_lane_survives_whatever_logging_throws(tmp_path, monkeypatch):
    def broken(*_args: object, **_kwargs: object) -> str:
        raise RuntimeError("strange\nthings")

    monkeypatch.setattr("wattcount.tracking.sweep_run", broken)
    said: list[str] = []
    assert not LaneLog().record(records(tmp_path)[0], TrackingConfig(), tmp_path, "big", said.append)
    assert "strange things" in said[0]


# -- the sweep's ----------------------------------------------------------------------------------


def test_at_the_end_everything_is_logged(sweep, tmp_path):
    first, second = records(tmp_path)
    for record in (first, second):
        mlflow_log._leave_note(sweep.folder, record)
    said: list[str] = []
    seen: list[str] = []
    log = SweepLog(tmp_path, "big", TrackingConfig(), said.append, seen.append)
    assert log.close()
    assert said == []
    assert [line.partition(":")[0] for line in seen] == ["see it with", "then open", "the sweep"]
    assert f"/runs/{the_sweep().info.run_id}?workflowType=machine_learning" in seen[2]
    assert pending(sweep.folder) == []
    run = the_sweep()
    assert children(run.info.run_id) == 2
    assert run.info.status == "KILLED"  # the start was killed before it was done
    assert run.data.metrics["sweep/done"] == 2


@pytest.mark.usefixtures("sweep")
def test_a_refresh_waits_for_nothing_and_a_hanging_server_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_log, "REFRESH_LIMIT_S", 3600.0)
    monkeypatch.setattr(mlflow_log, "END_LIMIT_S", 0.5)
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        tracking = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        log = SweepLog(tmp_path, "big", tracking, said.append)
        log.refresh()
        log.refresh()
        process = log._process
        assert process is not None
        assert process.poll() is None
        monkeypatch.setattr(mlflow_log, "REFRESH_LIMIT_S", 0.0)
        log.refresh()
        assert process.poll() is not None
        assert len(said) == 1
        monkeypatch.setattr(SweepLog, "_wait", lambda self, _limit_s: self._kill() or False)
        assert not log.close()
    assert "wattcount log --sweep big --records-dir" in said[-1]


@pytest.mark.usefixtures("sweep")
def test_no_refresh_begins_inside_a_window(tmp_path):
    window = OwnWindow()
    window.follow(Phase.WINDOW)
    log = SweepLog(tmp_path, "big", TrackingConfig(), print)
    log.refresh()
    assert log._process is None
    window.release()


# -- the page -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [("killed", ("interrupted", "KILLED")), ("finished", ("incomplete", "FAILED"))],
)
def test_the_state_of_a_sweep_with_points_left(tmp_path, how, expected):
    ledger = make_sweep(tmp_path)
    if how == "finished":
        ledger.append(Outcome(State.done, reason="finished"))
    ledger.close()
    page = sweep_page(read_state(tmp_path, "big"), tmp_path)
    assert (page.state, page.status) == expected


def test_the_page_has_a_row_a_point(tmp_path):
    with make_sweep(tmp_path):
        page = sweep_page(read_state(tmp_path, "big"), tmp_path)
    assert (page.state, page.status) == ("running", "KILLED")
    rows = {row["key"]: row for row in (dict(zip(page.columns, cells, strict=True)) for cells in page.rows)}
    assert len(rows) == 6
    assert rows["done"]["j_per_output_token"] == 0.0813
    assert rows["done"]["evidence"] == "emulated"
    assert rows["failed"]["reason"] == "out_of_memory"
    assert rows["skipped"]["message"].startswith("weights")
    assert rows["waiting"]["j_per_output_token"] is None
    assert page.metrics["sweep/energy_j"] == 10000.0
    assert "failed, out_of_memory: 1 point" in page.note


def test_the_store_is_made_once_by_processes_that_all_find_none(tmp_path):
    (tmp_path / "home" / "mlflow.db").unlink()
    command = [
        sys.executable,
        "-c",
        "from wattcount.tracking import sweep_run; print(sweep_run('big', '/f'))",
    ]
    makers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    answers = [maker.communicate(timeout=120) for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0], answers
    assert len({out for out, _ in answers}) == 1
    assert [err for _, err in answers] == ["", ""]


# -- wattcount log --sweep ------------------------------------------------------------------------


@pytest.mark.usefixtures("sweep")
def test_a_person_logs_a_whole_sweep(tmp_path, capsys):
    call = ["log", "--sweep", "big", "--records-dir", str(tmp_path)]
    assert main(call) == 0
    first = capsys.readouterr().out
    assert main(call) == 0
    assert capsys.readouterr().out == first
    assert children(the_sweep().info.run_id) == 2


@pytest.mark.usefixtures("sweep")
@pytest.mark.parametrize(
    ("args", "what"),
    [
        ([], "one of the two"),
        (["x", "--sweep", "big"], "one of the two"),
        (["x", "--pending"], "--pending is of --sweep"),
        (["--sweep", "none"], "no sweep 'none'"),
    ],
)
def test_bad_input(tmp_path, capsys, args, what):
    assert main(["log", *args, "--records-dir", str(tmp_path)]) == 2
    assert what in capsys.readouterr().err


def test_a_damaged_record_does_not_keep_the_others_back(sweep, tmp_path, capsys):
    for record in records(tmp_path):
        mlflow_log._leave_note(sweep.folder, record)
    (records(tmp_path)[0] / "run.json").write_text("{")
    assert main(["log", "--sweep", "big", "--records-dir", str(tmp_path), "--pending"]) == 1
    assert "damaged" in capsys.readouterr().err
    assert pending(sweep.folder) == []
    assert children(the_sweep().info.run_id) == 1
