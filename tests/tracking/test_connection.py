"""Connecting: bounded in time whatever the server does, quiet, at the right place, and without passwords in any text."""

import os
import socket
import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

import pytest
from mlflow import environment_variables
from mlflow.store.db import utils as database_utils
from mlflow.tracking import MlflowClient
from mlflow_store import make_store
from synthetic_record import SyntheticRun

from tests.tracking.bad_servers import bad_server, closed_port
from wattcount.config.schema import TrackingConfig
from wattcount.masking import masked
from wattcount.tracking import TrackingError, connection, log_command, log_record, resolve_uri, ui_command
from wattcount.tracking.connection import TRIES, connected, sqlite_file, sqlite_uri

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def read(uri: str) -> bytes:
    with urllib.request.urlopen(uri) as answer:
        content: bytes = answer.read()
    return content


def refusal(uri: str, limit_s: float = 600.0) -> str:
    """What is said; the test's own limit is far above any that it sets."""
    with pytest.raises(TrackingError) as caught, connected(uri, "LATER", limit_s):
        pass
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- servers that do not do their work ------------------------------------------------------------


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_server_that_does_not_come_to_an_end_is_given_up(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPEN_LIMIT_S", 0.5)
    with bad_server(how) as server:
        text = refusal(server.uri)
    assert "it took longer than 0.5 s" in text
    assert text.endswith("LATER")
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["hang", "drip"])
def test_a_call_on_an_open_connection_is_given_up_too(how: str) -> None:
    calls = connection._Calls(0.5)
    with bad_server(how) as server, pytest.raises(TimeoutError, match=r"longer than 0\.5 s"):
        calls.run(read, server.uri)
    with pytest.raises(TimeoutError, match=r"longer than 0\.5 s"):
        calls.run(pytest.fail, "no call is begun when the time is over")
    calls.close()


def test_a_server_in_maintenance_does_not_say_how_long_we_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "OPEN_LIMIT_S", 120.0)  # far below the 3600 s that it asks for
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    with bad_server("503") as server:
        text = refusal(server.uri)
    assert "503" in text
    assert len(server.requests) == TRIES


def test_a_server_that_redirects_to_itself() -> None:
    with bad_server("loop") as server:
        assert "redirects" in refusal(server.uri)


def test_a_name_that_is_never_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    # A resolver that does not answer blocks in C for as long as it likes; no such resolver can be had here.
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: never.wait())
    monkeypatch.setattr(connection, "OPEN_LIMIT_S", 0.5)
    assert "it took longer than 0.5 s" in refusal("http://tracking.example:5000")
    never.set()


def test_a_short_limit_holds_for_the_opening_too() -> None:
    with bad_server("hang") as server:
        assert "it took longer than 0.25 s" in refusal(server.uri, limit_s=0.25)


# -- quiet, and only while connected --------------------------------------------------------------


def test_the_environment_is_not_touched_and_bounds_are_there_while_anyone_is_connected(
    tmp_path: Path,
) -> None:
    make_store(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    timeout, before = environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT, dict(os.environ)
    own = timeout.get()
    retries = database_utils.MAX_RETRY_COUNT
    with connected(uri, ""):
        with connected(uri, ""):
            assert dict(os.environ) == before
            assert timeout.get() == connection.REQUEST_LIMIT_S
        assert timeout.get() == connection.REQUEST_LIMIT_S
        assert not environment_variables.MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER.get()
        assert database_utils.MAX_RETRY_COUNT == TRIES
    assert timeout.get() == own
    assert retries == database_utils.MAX_RETRY_COUNT


def test_what_the_user_set_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with connected(f"sqlite:///{tmp_path}/mlflow.db", ""):
        assert environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77


# -- stores that cannot be opened -----------------------------------------------------------------


def test_a_store_that_can_be_no_database_is_refused_before_it_is_tried(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("this is no database at all")
    os.mkfifo(tmp_path / "pipe")
    assert "it is a folder; give the file" in refusal(f"sqlite:///{tmp_path}/folder")
    assert "it is no sqlite database" in refusal(f"sqlite:///{tmp_path}/text")
    assert "it is no regular file" in refusal(f"sqlite:///{tmp_path}/pipe")
    assert (tmp_path / "text").read_text() == "this is no database at all"


def test_a_store_that_this_user_may_not_read() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        database = Path(folder, "mlflow.db")
        database.touch(mode=0o000)
        database.chmod(0o000)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is forbidden to root
        try:
            with pytest.raises(TrackingError, match="cannot be read and written by this user"):
                connection._check_sqlite(database)
        finally:
            os.seteuid(user)


# -- odd homes ------------------------------------------------------------------------------------

ODD = ["a b", "x#y", "what?", "p%41", "it's", 'do"uble', "all of % ? # ' \" at%3Fonce"]


@pytest.mark.parametrize("name", ODD)
def test_the_printed_command_names_the_store_that_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "homes" / name
    monkeypatch.setenv("WATTCOUNT_HOME", str(home))
    make_store(home)
    record = SyntheticRun().write(tmp_path / "r")
    run_id = log_record(record)
    command = f"mlflow() {{ printf '%s\\0' \"$@\"; }}; {ui_command(resolve_uri())}"
    words = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    *before, uri, end = words.stdout.split("\0")
    assert (before, end) == (["ui", "--workers", "1", "--backend-store-uri"], "")
    run = MlflowClient(uri).get_run(run_id)
    artifacts = Path(MlflowClient(uri).download_artifacts(run_id, "record", str(tmp_path)))
    assert len(list((home / "mlflow-artifacts").rglob("run.json"))) == 1
    assert {file.name for file in artifacts.iterdir()} == {file.name for file in record.iterdir()}
    assert run.data.tags["wattcount.logging"] == "complete"
    # Nothing beside it, and no second database.
    assert [path.name for path in (tmp_path / "homes").rglob("*.db")] == ["mlflow.db"]
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("name", ODD)
def test_a_database_in_an_odd_folder_is_made_there_and_leaves_nothing_elsewhere(
    name: str, tmp_path: Path
) -> None:
    database = tmp_path / "odd" / name / "mlflow.db"
    uri = sqlite_uri(database)
    assert sqlite_file(uri) == database
    with connection._no_litter(uri, database):
        database_utils._make_parent_dirs_if_sqlite(uri)  # what MLflow does with the URI as it is written
        database.parent.mkdir(parents=True, exist_ok=True)
    assert list((tmp_path / "odd").iterdir()) == [database.parent]


# -- passwords ------------------------------------------------------------------------------------


def test_a_configuration_never_holds_the_password() -> None:
    tracking = TrackingConfig(uri="http://bob:hunter2@127.0.0.1:1", tags={"home": "https://bob:hunter2@h"})
    assert "hunter2" not in repr(tracking)
    assert resolve_uri(tracking) == "http://bob:hunter2@127.0.0.1:1"
    assert ui_command(resolve_uri(tracking)) == "open http://bob:***@127.0.0.1:1"
    assert log_command("r", tracking) == "wattcount log r --uri 'http://bob:***@127.0.0.1:1'"


def test_a_masked_password_that_is_not_known_is_asked_for() -> None:
    with pytest.raises(TrackingError, match=r"is masked: give it again.*MLFLOW_TRACKING_PASSWORD"):
        resolve_uri(TrackingConfig(uri="http://eve:***@nowhere"))


def test_no_error_holds_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://bob:hunter2@127.0.0.1:{closed_port()}"
    text = refusal(uri)
    assert "hunter2" not in text
    assert masked(uri) in text


def test_the_server_gets_the_password_and_the_terminal_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    with bad_server("ok") as server, connected(server.uri.replace("//", "//bob:hunter2@"), "") as client:
        client.set_terminated("0" * 32, "FAILED")
    assert {headers.get("Authorization") for headers in server.headers} == {"Basic Ym9iOmh1bnRlcjI="}
    assert capfd.readouterr().out == ""
