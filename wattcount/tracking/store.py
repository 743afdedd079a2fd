"""Logs a record to MLflow: once, completely, and never as RUNNING.

::

    create_run -> FAILED -> params, tags, metrics, curve, inputs, artifacts -> FINISHED (or FAILED)

The run is closed as FAILED as soon as it exists, so whatever kills the logging leaves a FAILED run, marked
`wattcount.logging = incomplete ...`; the next `log_record` of the same record replaces it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount.config.schema import TrackingConfig
from wattcount.metrics.load import load_metrics
from wattcount.record import Record
from wattcount.record.schema import REQUESTS_PARQUET
from wattcount.tracking import content
from wattcount.tracking.connection import LIMIT_S, TrackingError, connected, experiment, resolve_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_ID_TAG = "wattcount.run_id"
LOGGING_TAG = "wattcount.logging"
COMPLETE = "complete"
PARENT_TAG = "mlflow.parentRunId"
ENTITIES_PER_BATCH = 100
METRICS_PER_BATCH = 1000


def log_record(
    path: str | Path,
    tracking: TrackingConfig | None = None,
    *,
    force: bool = False,
    parent: str | None = None,
    limit_s: float = LIMIT_S,
) -> str:
    """Logs the record at `path` and returns the id of the MLflow run.

    force    one that is already logged there is logged once more beside the first; else the id of its run is returned
    parent   id of the MLflow run that it is shown below: its study's (`study.study_run`)
    limit_s  seconds after which it is given up

    The run has the record's own start and end, and is FAILED where the record's run failed.
    Raises `TrackingError` where the store cannot be reached or refuses; `WattcountError` where `path` is no record.
    """
    tracking = tracking if tracking is not None else TrackingConfig()
    record = Record.open(Path(path).absolute())
    uri = resolve_uri(tracking)
    with connected(uri, f"wattcount log {record.path}", limit_s) as client:
        return _log(record, client, uri, tracking, force, parent)


def _log(
    record: Record,
    client: MlflowClient,
    uri: str,
    tracking: TrackingConfig,
    force: bool,
    parent: str | None,
) -> str:
    info = record.info
    experiment_id = experiment(client, uri, tracking.experiment)
    logged = _earlier(client, experiment_id, info.run_id)
    if logged is not None and not force:
        run = client.get_run(logged)
        if parent is not None and PARENT_TAG not in run.data.tags:  # measured before it was of a study
            client.set_tag(logged, PARENT_TAG, parent)
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
        }
        | ({PARENT_TAG: parent} if parent is not None else {}),
    )
    run_id: str = run.info.run_id
    client.set_terminated(run_id, "FAILED", end_time=end_ms)
    _log_facts(client, run_id, record, metrics, tracking, end_ms)
    _log_curves(client, run_id, record)
    _log_workload(client, run_id, record)
    for file in sorted(record.path.iterdir()):  # one by one: each has its own time
        client.log_artifact(run_id, str(file), artifact_path="record")
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


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
