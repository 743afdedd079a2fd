import socket
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount.cli.main import main

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


def test_logs_all_below_a_folder_once(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        SyntheticRun(run_id=f"run{i}").write(tmp_path / "records" / f"r{i}")
    assert main(["log", str(tmp_path / "records")]) == 0
    first = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in first[:2]] == [str(tmp_path / "records" / f"r{i}") for i in range(2)]
    assert first[2] == f"see them with: mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db"
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
