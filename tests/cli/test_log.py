import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from mlflow_store import make_store
from sweep_ledger import make_sweep
from synthetic_record import SyntheticRun

from tests.tracking.bad_servers import bad_server
from wattcount.cli.main import main
from wattcount.sweep import mlflow_log
from wattcount.sweep.ledger import read_state
from wattcount.tracking import connection, resolve_uri

PROJECT = Path(__file__).parents[2]

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


def test_logs_all_below_a_folder_once(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        SyntheticRun(run_id=f"run{i}").write(tmp_path / "records" / f"r{i}")
    assert main(["log", str(tmp_path / "records")]) == 0
    first = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in first[:2]] == [str(tmp_path / "records" / f"r{i}") for i in range(2)]
    assert first[2] == f"see it with: mlflow ui --workers 1 --backend-store-uri sqlite:///{home}/mlflow.db"
    assert main(["log", str(tmp_path / "records")]) == 0
    assert capsys.readouterr().out.splitlines() == first
    assert main(["log", str(tmp_path / "records" / "r0"), "--force"]) == 0
    assert capsys.readouterr().out.splitlines()[0] != first[0]


def test_what_cannot_be_logged_is_named_and_the_rest_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    SyntheticRun(run_id="a").write(tmp_path / "records" / "a")
    (SyntheticRun(run_id="b").write(tmp_path / "records" / "b") / "power.parquet").unlink()
    assert main(["log", str(tmp_path / "records")]) == 1
    captured = capsys.readouterr()
    assert str(tmp_path / "records" / "a") in captured.out
    assert "power.parquet is missing" in captured.err
    assert captured.err.count("\n") == 1


def test_a_server_that_is_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = SyntheticRun().write(tmp_path / "r")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        assert main(["log", str(record), "--uri", uri]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"wattcount log {record}" in error


def test_nothing_to_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(tmp_path)]) == 2
    assert "no run record" in capsys.readouterr().err


def test_a_record_does_not_choose_where_it_is_logged(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(home)
    record = SyntheticRun().write(tmp_path / "r")
    info = json.loads((record / "run.json").read_text())
    tags = {
        "mlflow.parentRunId": "abc",
        "evidence": "best",
        "wattcount.logging": "complete",
        "cluster": "blue",
        "k" * 300: "x",
    }
    with bad_server("ok") as theirs:
        for uri in (theirs.uri, f"sqlite:///{tmp_path}/made/by/stranger.db"):
            info["config"]["tracking"] = {
                "uri": uri,
                "experiment": "\x1b[31mtheirs",
                "run_name": "x\ny",
                "tags": tags,
            }
            (record / "run.json").write_text(json.dumps(info))
            monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "SECRET-TOKEN")
            assert main(["log", str(record)]) == 0
            captured = capsys.readouterr()
            assert (
                f"see it with: mlflow ui --workers 1 --backend-store-uri sqlite:///{home}/mlflow.db"
                in captured.out
            )
            assert (
                f"names tracking.uri={uri} and tracking.experiment=?[31mtheirs, which is not used"
                in captured.err
            )
            assert "\x1b" not in captured.err
        assert theirs.requests == []
    assert not (tmp_path / "made").exists()
    client = MlflowClient(resolve_uri())
    assert sorted(found.name for found in client.search_experiments()) == ["Default", "wattcount"]
    (run,) = client.search_runs([client.get_experiment_by_name("wattcount").experiment_id])
    assert run.info.run_name == "x y"
    assert (run.data.tags["cluster"], run.data.tags["evidence"]) == ("blue", "measured")
    assert "mlflow.parentRunId" not in run.data.tags


def test_a_store_that_does_not_answer_is_asked_once_and_not_for_every_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "OPEN_LIMIT_S", 0.5)
    sweep = make_sweep(tmp_path)
    sweep.close()
    for record in read_state(tmp_path, "big").records:
        mlflow_log._leave_note(sweep.folder, Path(record))
    with bad_server("drip") as server:
        call = ["log", "--sweep", "big", "--records-dir", str(tmp_path), "--pending", "--uri", server.uri]
        assert main(call) == 1
        assert len(server.requests) == 1
    assert len(mlflow_log.pending(sweep.folder)) == 2
    assert "it took longer than 0.5 s" in capsys.readouterr().err


def test_the_command_line_of_a_logging_holds_no_password(tmp_path: Path) -> None:
    record = SyntheticRun().write(tmp_path / "r")
    with bad_server("hang") as server:
        uri = server.uri.replace("//", "//bob:hunter2@")
        command = [sys.executable, "-m", "wattcount", "log", str(record), "--uri", uri]
        logging = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
        try:
            assert server.arrived.wait(300)
            line = Path(f"/proc/{logging.pid}/cmdline").read_bytes().decode()
            assert "hunter2" not in line
            assert line.split("\0")[-2] == uri.replace("hunter2", "***")
            assert server.headers[0]["Authorization"] == "Basic Ym9iOmh1bnRlcjI="
        finally:
            logging.terminate()
            _, error = logging.communicate(timeout=300)
    assert "a password on the command line" in error
    assert "hunter2" not in error
