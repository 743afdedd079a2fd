"""A tracking server as teams run one: `mlflow server` with PostgreSQL and an artifact store, all real, on this machine."""

import concurrent.futures
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from synthetic_record import SyntheticRun, observation

from tests.tracking.conftest import Server, free_port, start_server
from wattcount.config.schema import TrackingConfig
from wattcount.metrics import write
from wattcount.records import Record
from wattcount.result import Result
from wattcount.tracking import SweepPage, log_record, log_sweep, sweep_run
from wattcount.tracking.content import metrics

pytestmark = [
    pytest.mark.postgres,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def program(name: str) -> str:
    """Debian keeps PostgreSQL's programs out of the PATH."""
    places = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *places]))
    if found is None:
        pytest.skip(f"no PostgreSQL server ({name}): apt-get install postgresql")
    return found


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """URI of an empty database of a server that lives as long as these tests."""
    pytest.importorskip("psycopg2", reason="no psycopg2: pip install 'wattcount[postgres]'")
    initdb, server = program("initdb"), program("postgres")
    user: str | None = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if user is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
    # Not in pytest's folder, which other users cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="wattcount-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    subprocess.run(
        [initdb, "-D", data, "-U", "wattcount", "--auth=trust", "-E", "UTF8", "--no-sync"],
        user=user, check=True, capture_output=True, cwd=folder, timeout=120,
    )  # fmt: skip
    options = ["-k", str(folder), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [server, "-D", data, *options], user=user, stdout=log, stderr=log, cwd=folder
        ) as running,
    ):
        try:
            _wait_for(port, folder)
            yield f"postgresql+psycopg2://wattcount@127.0.0.1:{port}/postgres"
        finally:
            running.terminate()
            running.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _wait_for(port: int, folder: Path) -> None:
    import psycopg2

    end = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="wattcount", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            if time.monotonic() > end:
                raise RuntimeError((folder / "log").read_text()[-2000:]) from None
            time.sleep(0.2)


@pytest.fixture(scope="module")
def tracking(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingConfig]:
    server: Server = start_server(tmp_path_factory.mktemp("server"), postgres)
    yield TrackingConfig(uri=server.uri)
    server.kill()


def make_record(folder: Path, run_id: str = "one") -> Path:
    polled = [observation("power_instant", t / 10, 300_000 + t % 7) for t in range(1211)]
    path = SyntheticRun(observations=polled, run_id=run_id).write(folder / run_id)
    write(path)
    return path


def test_a_record_arrives_whole(tracking, tmp_path):
    path = make_record(tmp_path)
    run_id = log_record(path, tracking)
    assert log_record(path, tracking) == run_id
    client = MlflowClient(tracking.uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    expected = metrics(Result.of(Record.open(path)))
    logged = {k: v for k, v in run.data.metrics.items() if k != "power_w"}
    assert logged.pop("system/gpu_0_power_usage_watts") == pytest.approx(300.0, rel=1e-3)
    assert logged == pytest.approx(expected)
    assert 500 < len(client.get_metric_history(run_id, "power_w")) <= 1000
    back = Path(client.download_artifacts(run_id, "record", str(tmp_path)))
    assert {file.name: file.read_bytes() for file in back.iterdir()} == {
        file.name: file.read_bytes() for file in path.iterdir()
    }
    Record.open(back).verify()


def test_a_sweep_with_its_runs_below_it(tracking, tmp_path):
    parent = sweep_run("quick", "/folder", tracking)
    run_id = log_record(make_record(tmp_path, "child"), tracking, parent=parent)
    page = SweepPage(
        name="quick", folder="/folder", state="finished", status="FINISHED", metrics={"sweep/done": 1},
        columns=["model"], rows=[["a"]], note="", tags={},
    )  # fmt: skip
    assert log_sweep(page, tracking) == parent
    client = MlflowClient(tracking.uri)
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == parent
    table = Path(client.download_artifacts(parent, "results.json", str(tmp_path)))
    assert json.loads(table.read_text()) == {"columns": ["model"], "data": [["a"]]}


def test_several_lanes_log_at_once(tracking, tmp_path):
    """All of them into an experiment and below a sweep that none has made yet."""
    tracking = TrackingConfig(uri=tracking.uri, experiment="at once")
    paths = [make_record(tmp_path, f"lane{i}") for i in range(4)]
    code = (
        "import sys; from wattcount.config.schema import TrackingConfig; "
        "from wattcount.tracking import log_record, sweep_run; "
        "t = TrackingConfig(uri=sys.argv[1], experiment='at once'); "
        "print(log_record(sys.argv[2], t, parent=sweep_run('s', '/f', t)))"
    )

    def lane(path: Path) -> str:
        command = [sys.executable, "-c", code, str(tracking.uri), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip().splitlines()[-1]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = list(pool.map(lane, paths))
    client = MlflowClient(tracking.uri)
    parents = {client.get_run(run).data.tags["mlflow.parentRunId"] for run in runs}
    assert len(set(runs)) == 4
    assert len(parents) == 1
    assert {client.get_run(run).info.status for run in runs} == {"FINISHED"}
