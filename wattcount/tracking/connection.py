"""A connection to a tracking store, with limits of time and without output."""

from __future__ import annotations

import logging
import os
import queue
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from wattcount import ownership
from wattcount.config.paths import data_home
from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError, one_line
from wattcount.masking import masked, reveal
from wattcount.tracking import content

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LIMIT_S = 300.0
"""Limit of one logging [s]: a record of 10 MB takes some seconds."""
OPEN_LIMIT_S = 30.0
"""Limit of the first answer of a server [s]: one that is up answers in a second, one that is down must not hold a sweep."""
REQUEST_LIMIT_S = 20
"""Limit of one HTTP request [s], where `$MLFLOW_HTTP_REQUEST_TIMEOUT` does not set another."""
TRIES = 3
"""Tries of one HTTP request, and of opening a database."""
MAKING_LIMIT_S = 60.0
"""Limit of making a database, and of waiting for another process that makes it [s]: it takes 2 to 20 s."""
SQLITE_MAGIC = b"SQLite format 3\0"
"""Begin of each file of sqlite 3."""
_CHATTER = ("mlflow", "alembic", "urllib3")
"""Loggers that are set to errors only."""

_MLFLOW_DEFAULTS: dict[str, Any] = {
    # MLflow's own are 7 retries of 120 s with backoff: a server that is down would hold a sweep for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": TRIES - 1,
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": 1,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_LIMIT_S,
    # A proxy in maintenance answers 503 with `Retry-After: 3600`.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": False,
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": False,
    # The address that it prints has the password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
}
"""Defaults of MLflow's environment variables while this process is connected. A variable that is set is stronger."""


class TrackingError(WattcountError):
    """Logging did not work. The record is untouched."""


def resolve_uri(tracking: TrackingConfig | None = None) -> str:
    """`tracking.uri`, else `$MLFLOW_TRACKING_URI`, else sqlite in wattcount's data folder; with its password.

    Use it only to connect. What is shown or kept gets `masking.masked` of it. Raises `TrackingError` where the password of
    `tracking.uri` is masked and this process does not know it.
    """
    configured = tracking.uri if tracking is not None else None
    if configured:
        whole = reveal(configured)
        if whole is None:
            raise TrackingError(
                f"the password of tracking.uri={configured} is masked: give it again, or leave it out of the URI and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        return whole
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri()


def default_uri() -> str:
    """`mlflow.db` in wattcount's data folder, whatever characters the folder's name has.

    MLflow's own default is sqlite in the working directory; this one is at a fixed place.
    """
    return sqlite_uri(data_home() / "mlflow.db")


def sqlite_uri(database: Path) -> str:
    """The URI that SQLAlchemy opens `database` (absolute) by. Raises `TrackingError` where it can express none."""
    plain = f"sqlite:///{database}"
    if not {"%", "?"} & set(plain):
        return plain
    # Later versions of SQLAlchemy decode `%3F`, earlier ones take it literally.
    for uri in (plain, "sqlite:///" + plain[len("sqlite:///") :].replace("%", "%25").replace("?", "%3F")):
        if sqlite_file(uri) == database:
            return uri
    raise TrackingError(
        f"no URI can name {database}, because of its '%' or '?': set WATTCOUNT_HOME to another folder, or MLFLOW_TRACKING_URI"
    )


def ui_command(uri: str) -> str:
    """The command that shows the runs, or the address where they are; without the password."""
    shown = masked(uri)
    if urlsplit(uri).scheme in ("http", "https"):
        return f"open {shown}"
    # One worker: four take most of a minute to start on two cores, and one person asks for one page at a time.
    return f"mlflow ui --workers 1 --backend-store-uri {shlex.quote(shown)}"


UI_ADDRESS = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens, unless it is told otherwise."""
_EXPERIMENTS: dict[tuple[str, str], str] = {}
"""Ids of the experiments that this process has worked in, by store and name."""


def ways_to_see(uri: str, experiment_name: str, sweep_run_id: str | None = None) -> list[str]:
    """Lines that say how the runs of an experiment can be seen: the command where one is needed, and the address of the view `Energy`.

    sweep_run_id   of a sweep's own run, whose address is then said, too

    MLflow 3 opens an experiment on its page for generative AI, where there is nothing of ours; this address opens the list of runs.
    """
    local = urlsplit(uri).scheme not in ("http", "https")
    lines = [f"see it with: {ui_command(uri)}"] if local else []
    if (number := _EXPERIMENTS.get((uri, experiment_name))) is None:
        return lines or [f"see it: {ui_command(uri)}"]
    base = UI_ADDRESS if local else masked(uri).rstrip("/")
    view = content.VIEW_KEY.rpartition(".")[2]
    link = f"{base}/#/experiments/{number}/runs?workflowType=machine_learning&viewStateShareKey={view}"
    lines.append(f"{'then open' if local else 'see it at'}: {link}")
    if sweep_run_id is not None:
        lines.append(
            f"the sweep: {base}/#/experiments/{number}/runs/{sweep_run_id}?workflowType=machine_learning"
        )
    return lines


def log_command(what: str, tracking: TrackingConfig) -> str:
    """The `wattcount log` command that logs `what` (its arguments) where `tracking` says, without the password."""
    command = f"wattcount log {what}"
    if tracking.uri:
        command += f" --uri {shlex.quote(masked(tracking.uri))}"
    if tracking.experiment != TrackingConfig.experiment:
        command += f" --experiment {shlex.quote(tracking.experiment)}"
    return command


@contextmanager
def connected(uri: str, later: str, limit_s: float = LIMIT_S) -> Iterator[MlflowClient]:
    """Opens the store and gives a client of it. Where the store cannot be reached, this fails here.

    later    the command that does it another time; part of every error
    limit_s  time after which every call is given up [s], whatever the store does

    Raises `TrackingError` for whatever the store, a driver or a network raises.
    """
    with _QUIET:
        opening_s = _opening_limit_s(uri, limit_s)
        began_s = time.monotonic()
        calls = _Calls(opening_s)
        try:
            client = calls.run(_opened, uri)
            # A database that had to be made first leaves no less time to log to it.
            calls.allow(limit_s - (time.monotonic() - began_s) if opening_s <= limit_s else limit_s)
            yield cast("MlflowClient", _Bounded(client, calls))
        except WattcountError:
            raise
        # Whatever a store, a driver or a network throws: tracking must not cost the run.
        except Exception as error:
            raise TrackingError(
                f"could not log to MLflow at {masked(uri)}: {one_line(error)}; the record is kept, log it later with: {later}"
            ) from error
        finally:
            calls.close()


def _opening_limit_s(uri: str, limit_s: float) -> float:
    """Limit of opening [s]. A server answers at once. A database may have to be made, and another process may be making it."""
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme in ("http", "https"):
        return min(limit_s, OPEN_LIMIT_S)
    return 2 * MAKING_LIMIT_S if scheme in ("", "file", "sqlite") else MAKING_LIMIT_S


class _Calls:
    """Runs calls one after the other in its own thread, and waits for each only as long as there is time.

    MLflow limits each operation of a socket, which does not help against a server that sends one byte a second. The thread of a
    call that was given up ends with that call and makes no other one.
    """

    def __init__(self, limit_s: float) -> None:
        self._waiting: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self.allow(limit_s)
        threading.Thread(target=self._serve, name="wattcount-tracking", daemon=True).start()

    def allow(self, limit_s: float) -> None:
        """Sets what is left for all further calls together, from now on [s]."""
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `function` returns or raises; `TimeoutError` where the time is over first."""
        left_s = self._end_s - time.monotonic()
        answer: Future[Any] = Future()
        if left_s > 0:
            self._waiting.put((answer, lambda: function(*args, **kwargs)))
            with suppress(TimeoutError):
                answer.exception(left_s)
        if not answer.done():
            raise TimeoutError(f"it took longer than {self._limit_s:g} s")
        return answer.result()

    def close(self) -> None:
        self._waiting.put(None)

    def _serve(self) -> None:
        while (item := self._waiting.get()) is not None:
            answer, call = item
            try:
                answer.set_result(call())
            except BaseException as error:  # told to whoever waits
                answer.set_exception(error)


class _Bounded:
    """Passes calls on to a client until their time is over."""

    def __init__(self, client: MlflowClient, calls: _Calls) -> None:
        self._client = client
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        return partial(self._calls.run, getattr(self._client, name))


def _opened(uri: str) -> MlflowClient:
    """A client of a store that has answered once, or was made."""
    from mlflow.tracking import MlflowClient

    database = sqlite_file(uri)
    if database is not None:
        _check_sqlite(database)
        with suppress(OSError):  # the store will say so
            database.parent.mkdir(parents=True, exist_ok=True)
    with _alone(database), _no_litter(uri, database):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _check_sqlite(database: Path) -> None:
    """Raises `TrackingError` for a file that cannot be a database: SQLAlchemy would try to open it for two minutes."""
    advice = "give the file of a database, e.g. sqlite:////home/me/mlflow.db"
    if database.is_dir():
        raise TrackingError(f"cannot log to MLflow at {database}: it is a folder; {advice}")
    if not database.exists():
        return
    if not database.is_file():
        raise TrackingError(f"cannot log to MLflow at {database}: it is no regular file; {advice}")
    try:
        with database.open("r+b") as file:
            begin = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise TrackingError(
            f"cannot log to MLflow at {database}: the file cannot be read and written by this user ({error.strerror})"
        ) from error
    if begin and begin != SQLITE_MAGIC:
        raise TrackingError(f"cannot log to MLflow at {database}: it is no sqlite database; {advice}")


@contextmanager
def _no_litter(uri: str, database: Path | None) -> Iterator[None]:
    """Removes the empty folder that MLflow makes of the URI as written, where it is not the database's folder."""
    written = None if database is None else Path(uri.partition(":///")[2]).absolute().parent
    made: list[Path] = []
    if database is not None and written is not None and written != database.parent:
        made = [folder for folder in (written, *written.parents) if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def prepare(tracking: TrackingConfig | None = None) -> None:
    """Imports MLflow and makes the default store ahead of time; to make a sqlite one takes seconds.

    For a thread in the background while the engine starts. Tells no errors: the logging will tell them.
    """
    with suppress(Exception), connected(resolve_uri(tracking), ""):
        pass


def experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment; makes it where there is none. Raises `TrackingError` where it was deleted."""
    _EXPERIMENTS[uri, name] = found = _experiment(client, uri, name)
    return found


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"MLflow experiment {name!r} at {masked(uri)} was deleted; restore it or set tracking.experiment"
                )
            return str(found.experiment_id)
        database = sqlite_file(uri)
        # Beside the database: MLflow would put the artifacts of a local database into the working directory.
        location = (
            None if database is None else (database.parent / "mlflow-artifacts" / quote(name, "")).as_uri()
        )
        try:
            return str(
                client.create_experiment(
                    name,
                    artifact_location=location,
                    tags={
                        # Tells the UI which of its views to open without asking.
                        "mlflow.experimentKind": "custom_model_development",
                        content.VIEW_KEY: content.view(),
                        "mlflow.note.content": "Energy of LLM inference, measured by wattcount. Compare only "
                        "runs with the same tags `evidence` and `weights`.",
                    },
                )
            )
        except MlflowException:
            # Another run of the sweep may have just made it.
            if client.get_experiment_by_name(name) is None:
                raise
    raise TrackingError(f"could not create the MLflow experiment {name!r} at {masked(uri)}")


def sqlite_file(uri: str) -> Path | None:
    """The file of a sqlite URI, absolute, as SQLAlchemy reads it; None for any other URI."""
    if uri.partition(":")[0].split("+")[0] != "sqlite":
        return None
    try:
        from sqlalchemy.engine import make_url

        database = make_url(uri).database
    except Exception:  # without SQLAlchemy, or no URI: the store will say so
        return None
    if not database or database.startswith((":memory:", "file:")):
        return None
    return Path(database).absolute()


class _Quiet:
    """Keeps MLflow quiet and bounded while any thread of this process is connected; what the user set stays.

    One thread may import MLflow early while another one logs. Defaults of MLflow's variables are changed and not the
    environment, which other threads and child processes read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        import mlflow  # noqa: F401  (it sets the level of its loggers when it is imported)
        from mlflow import environment_variables

        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            # Alembic's, of every database that it makes.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"alembic\.")
            for name, value in _MLFLOW_DEFAULTS.items():
                if (variable := getattr(environment_variables, name, None)) is not None:
                    self._change(variable, "default", value)
            with suppress(ImportError):  # mlflow-skinny has no databases
                from mlflow.store.db import utils

                self._change(utils, "MAX_RETRY_COUNT", TRIES)
            for logger in map(logging.getLogger, _CHATTER):
                self._undo.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo.close()

    def _change(self, owner: Any, name: str, value: Any) -> None:
        if hasattr(owner, name):
            self._undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)


_QUIET = _Quiet()
"""The one object of this process."""


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Keeps two processes from making the same sqlite database at once, which would leave half of one."""
    claim = None
    if database is not None:
        with suppress(OSError):  # no locks here, or nothing can be written: the store will say so
            claim = ownership.wait_for_lock(database.with_name(f"{database.name}.lock"), "", MAKING_LIMIT_S)
    try:
        yield
    finally:
        if claim is not None:
            claim.release()
