"""A connection to a tracking store that is bounded in time, and quiet."""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, unquote, urlsplit

from wattcount import ownership
from wattcount.config.paths import default_tracking_uri
from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError
from wattcount.tracking import content

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LIMIT_S = 300.0
"""All of one logging; a record of 10 MB takes some seconds."""
REQUEST_LIMIT_S = 20.0
TRIES = 3
MAKING_LIMIT_S = 60.0
_CHATTER = ("mlflow", "alembic", "urllib3.connectionpool")

_BOUNDS = {
    # MLflow's own are 7 retries of 120 s with backoff: a server that is down would hold a sweep for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(TRIES - 1),
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


class TrackingError(WattcountError):
    """Logging did not work. The record is untouched."""


def resolve_uri(tracking: TrackingConfig | None = None) -> str:
    """`tracking.uri`, else `$MLFLOW_TRACKING_URI`, else sqlite in wattcount's data folder."""
    configured = tracking.uri if tracking is not None else None
    return configured or os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri()


def ui_command(uri: str) -> str:
    """What to type, or where to look, to see the runs."""
    if urlsplit(uri).scheme in ("http", "https"):
        return f"open {uri}"
    return f"mlflow ui --backend-store-uri {uri}"


@contextmanager
def connected(uri: str, later: str, limit_s: float = LIMIT_S) -> Iterator[MlflowClient]:
    """A client of the store, which is opened here, and fails here where it cannot be reached.

    later    what to type to do it another time; part of every error
    limit_s  after so many seconds no request is begun any more, and one that has begun is given up soon after

    Raises `TrackingError` for whatever the store, a driver or a network throws.
    """
    with _quiet_and_bounded():
        try:
            with _alone(uri):
                client = cast("MlflowClient", _Bounded(_client(uri), limit_s))
                client.search_experiments(
                    max_results=1
                )  # opens the store, or makes it; fails where it cannot
            yield client
        except WattcountError:
            raise
        # Whatever a store, a driver or a network throws: tracking must not cost the run.
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise TrackingError(
                f"could not log to MLflow at {uri}: {reason}; the record is kept, log it later with: {later}"
            ) from error


class _Bounded:
    """Passes calls on to a client until their time is over."""

    def __init__(self, client: MlflowClient, limit_s: float) -> None:
        self._client = client
        self._limit_s = limit_s
        self._end_s = time.monotonic() + limit_s
        self._set_timeout = _TIMEOUT not in os.environ

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            left_s = self._end_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"it took longer than {self._limit_s:g} s")
            if not self._set_timeout:
                return method(*args, **kwargs)
            os.environ[_TIMEOUT] = str(max(round(min(REQUEST_LIMIT_S, left_s / TRIES)), 1))
            try:
                return method(*args, **kwargs)
            finally:
                os.environ.pop(_TIMEOUT, None)

        return call


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    if (database := _sqlite_file(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=uri)


def prepare(tracking: TrackingConfig | None = None) -> None:
    """Imports MLflow and creates the default store ahead of time; a sqlite one takes seconds to make.

    For a background thread while the engine starts. Says nothing of what goes wrong: logging will.
    """
    with suppress(Exception), connected(resolve_uri(tracking), ""):
        pass


def experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of the experiment, which is made where there is none; raises `TrackingError` where it was deleted."""
    from mlflow.exceptions import MlflowException

    for _ in range(2):
        found = client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise TrackingError(
                    f"MLflow experiment {name!r} at {uri} was deleted; restore it or set tracking.experiment"
                )
            return str(found.experiment_id)
        database = _sqlite_file(uri)
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
    raise TrackingError(f"could not create the MLflow experiment {name!r} at {uri}")


def _sqlite_file(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme.split("+")[0] != "sqlite" or parts.path in ("", "/"):
        return None
    return Path(unquote(parts.path[1:])).absolute()


class _Quiet:
    """How MLflow is kept quiet and bounded while anyone in this process is connected; what the user set stays."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._added: dict[str, str] = {}
        self._levels: dict[logging.Logger, int] = {}

    def begin(self) -> None:
        import mlflow  # noqa: F401  (it sets the level of its loggers when it is imported)

        with self._lock:
            self._users += 1
            if self._users > 1:
                return
            # Alembic's, of every database that it makes.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"alembic\.")
            self._added = {key: value for key, value in _BOUNDS.items() if key not in os.environ}
            os.environ.update(self._added)
            self._levels = {logger: logger.level for logger in map(logging.getLogger, _CHATTER)}
            for logger in self._levels:
                logger.setLevel(logging.ERROR)

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for key in self._added:
                os.environ.pop(key, None)
            for logger, level in self._levels.items():
                logger.setLevel(level)


_QUIET = _Quiet()


@contextmanager
def _quiet_and_bounded() -> Iterator[None]:
    """Also where several threads are connected: one imports MLflow early while another logs."""
    _QUIET.begin()
    try:
        yield
    finally:
        _QUIET.end()


@contextmanager
def _alone(uri: str) -> Iterator[None]:
    """Keeps two processes from making the same sqlite database at once, which ends in half of one."""
    database = _sqlite_file(uri)
    claim = None
    if database is not None:
        end_s = time.monotonic() + MAKING_LIMIT_S
        with suppress(OSError):  # no locks here, or nothing can be written: the store will say so
            while (claim := ownership.lock(database.with_name(f"{database.name}.lock"), "")) is None:
                if time.monotonic() >= end_s:
                    break
                time.sleep(0.1)
    try:
        yield
    finally:
        if claim is not None:
            claim.release()
