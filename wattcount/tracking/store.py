"""Logs a record to MLflow: once, completely, and never as RUNNING.

::

    create_run -> FAILED -> params, tags, metrics, curve, inputs, artifacts -> FINISHED (or FAILED)

The run is closed as FAILED as soon as it exists, so whatever kills the logging leaves a FAILED run, marked
`wattcount.logging = incomplete ...`; the next `log_record` of the same record replaces it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from wattcount.config.paths import default_tracking_uri
from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError
from wattcount.metrics.load import load_metrics
from wattcount.record import Record
from wattcount.record.schema import REQUESTS_PARQUET
from wattcount.tracking import content

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_ID_TAG = "wattcount.run_id"
LOGGING_TAG = "wattcount.logging"
COMPLETE = "complete"
ENTITIES_PER_BATCH = 100
METRICS_PER_BATCH = 1000

_BOUNDS = {
    # MLflow's own are 7 retries of 120 s with backoff: a server that is down would hold a sweep for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


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


def prepare(tracking: TrackingConfig | None = None) -> None:
    """Imports MLflow and creates the default store ahead of time; a sqlite one takes seconds to make.

    For a background thread while the engine starts. Says nothing of what goes wrong: `log_record` will.
    """
    with suppress(Exception), _quiet_and_bounded():
        _client(resolve_uri(tracking))


def log_record(path: str | Path, tracking: TrackingConfig | None = None, *, force: bool = False) -> str:
    """Logs the record at `path` and returns the id of the MLflow run.

    A record that is already logged there is not logged again: the id of its run is returned. `force` logs
    it once more beside the first. The run has the record's own start and end, and is FAILED where the
    record's run failed.
    Raises `TrackingError` where the store cannot be reached or refuses; `WattcountError` where `path` is
    no record.
    """
    tracking = tracking if tracking is not None else TrackingConfig()
    record = Record.open(Path(path).absolute())
    uri = resolve_uri(tracking)
    with _quiet_and_bounded():
        try:
            return _log(record, _client(uri), uri, tracking, force)
        except WattcountError:
            raise
        # Whatever a store, a driver or a network throws: tracking must not cost the run.
        except Exception as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise TrackingError(
                f"could not log to MLflow at {uri}: {reason}; the record is kept, log it later with: "
                f"wattcount log {record.path}"
            ) from error


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    if (database := _sqlite_file(uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # opens the store; fails here where it cannot be reached
    return client


def _log(record: Record, client: MlflowClient, uri: str, tracking: TrackingConfig, force: bool) -> str:
    info = record.info
    experiment_id = _experiment(client, uri, tracking.experiment)
    logged = _earlier(client, experiment_id, info.run_id)
    if logged is not None and not force:
        return logged
    metrics = load_metrics(record)
    start_ns, end_ns = content.bounds_ns(info)
    end_ms = content.utc_ms(info, end_ns)
    run = client.create_run(
        experiment_id,
        start_time=content.utc_ms(info, start_ns),
        run_name=tracking.run_name or content.run_name(info),
        tags={
            RUN_ID_TAG: info.run_id,
            LOGGING_TAG: f"incomplete {socket.gethostname()} {os.getpid()}",
            "mlflow.source.name": "wattcount",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": content.note(record, metrics)[: content.TAG_LIMIT],
        },
    )
    run_id: str = run.info.run_id
    client.set_terminated(run_id, "FAILED", end_time=end_ms)
    _log_facts(client, run_id, record, metrics, tracking, end_ms)
    _log_curves(client, run_id, record)
    _log_workload(client, run_id, record)
    client.log_artifacts(run_id, str(record.path), artifact_path="record")
    client.set_tag(run_id, LOGGING_TAG, COMPLETE)
    client.set_terminated(run_id, "FINISHED" if info.validity.valid else "FAILED", end_time=end_ms)
    return run_id


def _log_facts(
    client: MlflowClient,
    run_id: str,
    record: Record,
    metrics: Mapping[str, Any],
    tracking: TrackingConfig,
    end_ms: int,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    tags = content.tags(record, metrics) | {str(k): str(v) for k, v in tracking.tags.items()}
    values = [
        Metric(key, float(value), end_ms, 0) for key, value in metrics["metrics"].items() if value is not None
    ]
    client.log_batch(run_id, metrics=values)
    for marks in _batches([RunTag(key, value) for key, value in tags.items()], ENTITIES_PER_BATCH):
        client.log_batch(run_id, tags=marks)
    params = content.params(record.info.config)
    for batch in _batches([Param(key, value) for key, value in params.items()], ENTITIES_PER_BATCH):
        client.log_batch(run_id, params=batch)


def _log_curves(client: MlflowClient, run_id: str, record: Record) -> None:
    """All points in one batch; the step is milliseconds from the window's start."""
    from mlflow.entities import Metric

    info, zero = record.info, content.zero_ns(record.info)
    points = [
        Metric(curve.key, watts, content.utc_ms(info, t_ns), round((t_ns - zero) / 1e6))
        for curve in content.curves(record)
        for t_ns, watts in zip(curve.t_ns.tolist(), curve.power_w.tolist(), strict=True)
    ]
    if points:
        client.log_batch(run_id, metrics=points[:METRICS_PER_BATCH])


def _log_workload(client: MlflowClient, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    workload = content.workload(record)
    if workload is None:
        return
    columns = [{"name": name, "type": "long", "required": False} for name in content.WORKLOAD_COLUMNS]
    dataset = Dataset(
        name=workload.name,
        digest=workload.digest,
        source_type="local",
        source=json.dumps({"uri": str(record.path / REQUESTS_PARQUET)}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": workload.num_rows, "num_elements": workload.num_rows * len(columns)}),
    )
    # `mlflow.data.context` is what the UI shows beside the data set.
    client.log_inputs(run_id, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "workload")])])


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
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


def _earlier(client: MlflowClient, experiment_id: str, run_id: str) -> str | None:
    """The MLflow run that holds this record whole. What an interrupted logging left is removed."""
    runs = client.search_runs([experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'")
    complete = None
    for run in runs:
        state = run.data.tags.get(LOGGING_TAG, "")
        if state == COMPLETE:
            complete = str(run.info.run_id)
            continue
        if _is_alive(state):
            raise TrackingError(f"this record is being logged by another process ({state.split()[-1]})")
        client.set_terminated(run.info.run_id, "FAILED")
        client.delete_run(run.info.run_id)
    return complete


def _is_alive(state: str) -> bool:
    """Whether the process of an `incomplete HOST PID` mark still runs, as far as this host can tell."""
    words = state.split()
    if len(words) != 3 or words[1] != socket.gethostname() or not words[2].isdigit():
        return False
    pid = int(words[2])
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _sqlite_file(uri: str) -> Path | None:
    parts = urlsplit(uri)
    if parts.scheme.split("+")[0] != "sqlite" or parts.path in ("", "/"):
        return None
    return Path(unquote(parts.path[1:])).absolute()


@contextmanager
def _quiet_and_bounded() -> Iterator[None]:
    """Bounds MLflow's waiting and keeps its chatter off the terminal; what the user set stays."""
    import mlflow  # noqa: F401  (it sets the level of its loggers when it is imported)

    added = {key: value for key, value in _BOUNDS.items() if key not in os.environ}
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3.connectionpool")]
    levels = [logger.level for logger in loggers]
    os.environ.update(added)
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for key in added:
            os.environ.pop(key, None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
