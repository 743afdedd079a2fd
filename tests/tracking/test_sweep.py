"""Sweeps in real stores: sqlite, and servers that hang and die."""

import csv
import json
import socket
import threading
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_store import make_store
from synthetic_record import SyntheticRun

from tests.tracking.conftest import Server, start_server
from wattcount.config.schema import TrackingConfig
from wattcount.tracking import SweepPage, TrackingError, log_record, log_sweep, resolve_uri, sweep_run

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FOLDER = "/data/it's here/.sweeps/quick"


@pytest.fixture(autouse=True)
def _store(home: Path) -> None:
    make_store(home)


def page(**other) -> SweepPage:
    values = {
        "name": "quick", "folder": FOLDER, "state": "running", "status": "KILLED",
        "metrics": {"sweep/done": 1, "sweep/points": 2, "sweep/energy_j": None},
        "columns": ["model", "message", "j_per_output_token"],
        "rows": [["a", 'says "no",\nand so', 0.5], ["b", None, None]],
        "note": "**half**", "results": "| a | b |", "tags": {"evidence": "emulated"}, "pictures": {"load_curve.png": b"\x89PNG"},
    }  # fmt: skip
    return SweepPage(**(values | other))


def assert_page(client: MlflowClient, run_id: str, tmp_path: Path) -> None:
    run = client.get_run(run_id)
    assert run.data.metrics == {"sweep/done": 1, "sweep/points": 2}
    assert run.data.tags["wattcount.sweep"] == "quick"
    assert Path(client.download_artifacts(run_id, "results.md", str(tmp_path))).read_text() == "| a | b |"
    assert (
        Path(client.download_artifacts(run_id, "plots/load_curve.png", str(tmp_path))).read_bytes()
        == b"\x89PNG"
    )
    assert run.data.tags["evidence"] == "emulated"
    assert run.data.tags["mlflow.note.content"] == "**half**"
    assert run.info.run_name == "quick"
    shown = client.download_artifacts(run_id, "results.json", str(tmp_path))
    assert json.loads(Path(shown).read_text())["data"] == page().rows
    with Path(client.download_artifacts(run_id, "results.csv", str(tmp_path))).open(newline="") as file:
        assert list(csv.reader(file))[1] == ["a", 'says "no",\nand so', "0.5"]


def test_a_sweep_is_one_run_however_often_it_is_written(tmp_path):
    first = sweep_run("quick", FOLDER)
    client = MlflowClient(resolve_uri())
    assert client.get_run(first).info.status == "KILLED"
    assert log_sweep(page()) == first
    assert_page(client, first, tmp_path)
    assert client.get_run(first).info.status == "KILLED"
    done = page(state="finished", status="FINISHED", metrics={"sweep/done": 2}, rows=[["a", None, 1.0]])
    assert log_sweep(done) == first
    run = client.get_run(first)
    assert (run.info.status, run.data.metrics["sweep/done"], run.data.tags["wattcount.sweep_state"]) == (
        "FINISHED", 2, "finished",
    )  # fmt: skip
    assert [point.value for point in client.get_metric_history(first, "sweep/done")] == [1, 2]
    table = json.loads(Path(client.download_artifacts(first, "results.json", str(tmp_path))).read_text())
    assert table["data"] == [["a", None, 1.0]]


def test_the_page_that_an_earlier_version_made_is_gone_on_with():
    made = sweep_run("quick", FOLDER)
    client = MlflowClient(resolve_uri())
    for key in ("", "_folder", "_id", "_state"):
        value = client.get_run(made).data.tags[f"wattcount.sweep{key}"]
        client.set_tag(made, f"wattcount.study{key}", value)
        client.delete_tag(made, f"wattcount.sweep{key}")
    assert sweep_run("quick", FOLDER) == log_sweep(page()) == made
    tags = client.get_run(made).data.tags
    assert (tags["wattcount.sweep"], tags["wattcount.sweep_folder"]) == ("quick", FOLDER)
    assert tags["wattcount.sweep_id"] == tags["wattcount.study_id"]


def test_the_ui_shows_the_results_as_a_table():
    tags = MlflowClient(resolve_uri()).get_run(log_sweep(page())).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "results.json", "type": "table"}]


def test_sweeps_of_the_same_name_in_other_folders_are_others():
    assert sweep_run("quick", "/a") != sweep_run("quick", "/b")


def test_two_that_make_the_run_at_once_take_the_same(monkeypatch):
    from wattcount.tracking import sweep

    sweep_run("warm", FOLDER)  # the store and the experiment are there
    found: list[str] = []
    both = threading.Barrier(2)
    oldest = sweep._oldest
    asked = threading.local()

    def slow(*args):
        answer = oldest(*args)
        if not getattr(asked, "once", False):
            asked.once = True
            both.wait(20)  # neither has found one
        return answer

    monkeypatch.setattr(sweep, "_oldest", slow)
    threads = [threading.Thread(target=lambda: found.append(sweep_run("quick", FOLDER))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(set(found)) == 1


def test_records_are_below_their_sweep(tmp_path):
    path = SyntheticRun().write(tmp_path / "record")
    alone = log_record(path)
    parent = sweep_run("quick", FOLDER)
    client = MlflowClient(resolve_uri())
    assert "mlflow.parentRunId" not in client.get_run(alone).data.tags
    assert log_record(path, parent=parent) == alone  # measured before it was of a sweep
    assert client.get_run(alone).data.tags["mlflow.parentRunId"] == parent
    other = log_record(path, parent="of another sweep")
    assert client.get_run(other).data.tags["mlflow.parentRunId"] == parent
    new = log_record(SyntheticRun(run_id="new").write(tmp_path / "new"), parent=parent)
    assert client.get_run(new).data.tags["mlflow.parentRunId"] == parent


def test_a_store_that_cannot_be_written():
    tracking = TrackingConfig(uri="sqlite:////proc/wattcount/mlflow.db")
    with pytest.raises(TrackingError, match="wattcount log --sweep quick"):
        log_sweep(page(), tracking)


def test_a_server_that_accepts_and_never_answers_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        tracking = TrackingConfig(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(TrackingError):
            log_sweep(page(), tracking, limit_s=3.0)


@pytest.mark.slow
def test_a_slow_server_is_given_up_in_time(server: Server):
    """Each answer takes half a second: none is late, all together are."""
    upstream = server.uri.removeprefix("http://").split(":")

    def pump(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(delay_s)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    with socket.create_server(("127.0.0.1", 0)) as front:

        def serve() -> None:
            while True:
                try:
                    client, _ = front.accept()
                except OSError:
                    return
                back = socket.create_connection((upstream[0], int(upstream[1])))
                threading.Thread(target=pump, args=(client, back, 0.5), daemon=True).start()
                threading.Thread(target=pump, args=(back, client, 0.0), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(TrackingError, match="could not log"):
            log_sweep(page(), TrackingConfig(uri=f"http://127.0.0.1:{front.getsockname()[1]}"), limit_s=3.0)


@pytest.mark.slow
def test_a_server_that_dies_midway_leaves_no_running_sweep(tmp_path, monkeypatch):
    from wattcount.tracking import sweep

    (tmp_path / "server").mkdir()
    dying = start_server(tmp_path / "server")
    write = sweep._write

    def die_first(*args):
        dying.kill()
        write(*args)

    monkeypatch.setattr(sweep, "_write", die_first)
    try:
        with pytest.raises(TrackingError):
            log_sweep(page(), TrackingConfig(uri=dying.uri), limit_s=5.0)
    finally:
        dying.kill()
    client = MlflowClient(f"sqlite:///{tmp_path / 'server' / 'server.db'}")
    (left,) = client.search_runs([client.get_experiment_by_name("wattcount").experiment_id])
    assert left.info.status == "KILLED"
