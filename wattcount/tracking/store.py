"""Logs a record to MLflow: once, completely, and never as RUNNING. Brings a record back from MLflow.

::

    create_run -> FAILED -> params, tags, metrics, curve, inputs, artifacts -> complete -> FINISHED (or FAILED)

The run is closed as FAILED as soon as it exists, so whatever kills the logging leaves a FAILED run, marked
`wattcount.logging = incomplete ...`; the next `log_record` of the same record replaces it. One that was killed after the
mark `complete` has everything but its status, which the next `log_record` sets.

On one host a lock on the record keeps loggings from each other. Other hosts see the mark of a logging that goes on; two that
began at the same moment find each other's run at the end, and both keep the same one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount import ownership
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import TrackingConfig
from wattcount.config.validation import TAG_LIMIT, usable_tags
from wattcount.errors import one_line
from wattcount.masking import masked
from wattcount.records import Record
from wattcount.records.schema import REQUESTS_PARQUET, Evidence
from wattcount.records.writer import final_folder
from wattcount.result import Result
from wattcount.run.claims import make_shared
from wattcount.tracking import content
from wattcount.tracking.connection import (
    LIMIT_S,
    TrackingError,
    connected,
    experiment,
    log_command,
    resolve_uri,
)

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient


RUN_ID_TAG = "wattcount.run_id"
"""Tag with the record's own run id, by which its MLflow run is found."""
LOGGING_TAG, COMPLETE = "wattcount.logging", "complete"
"""Tag with the state of the logging, and its value once everything is there."""
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own tag of a run that is shown below another one."""
ENTITIES_PER_BATCH, METRICS_PER_BATCH = 100, 1000
"""The most tags or params, and the most metrics, that MLflow takes in one batch."""
SUMMARY_MD, SUMMARY_HTML = "summary.md", "summary.html"
"""Names of the pages among a run's artifacts that people look at."""
RECORD_ARTIFACT = "record"
"""Folder of the record's files among the artifacts of its MLflow run."""
MARK_LIMIT_S = 2 * LIMIT_S
"""Age of the mark `incomplete` from which on its logging has ended [s]: twice the limit of a logging."""
DATASET_TRIES = 5
"""Most tries to log a run's data set where the database refuses it as a double. Another run that makes the same data set at the same
moment has made it by the second try."""


def log_record(
    path: str | Path,
    tracking: TrackingConfig | None = None,
    *,
    force: bool = False,
    parent: str | None = None,
    limit_s: float = LIMIT_S,
) -> str:
    """Logs the record at `path` and returns the id of the MLflow run.

    force    logs a record that is already there once more, beside the first; else the id of its run is returned
    parent   id of the MLflow run that it is shown below: that of its sweep (`sweep.sweep_run`)
    limit_s  time after which the logging is given up [s]

    The run has the start and the end of the record, and is FAILED where the record's run failed. `tracking` and the environment
    alone decide where it goes, never the record.
    Raises `TrackingError` where the store cannot be reached or refuses; `WattcountError` where `path` is no record.
    """
    tracking = tracking if tracking is not None else TrackingConfig()
    record = Record.open(Path(path).absolute())
    uri = resolve_uri(tracking)
    later = log_command(shlex.quote(str(record.path)), tracking)
    began_s = time.monotonic()
    with _alone(record.info.run_id, limit_s):
        left_s = max(limit_s - (time.monotonic() - began_s), 1.0)
        with connected(uri, later, left_s) as client:
            return _log(record, client, uri, tracking, force, parent)


def log_predicted(
    result: Result, tracking: TrackingConfig | None = None, *, force: bool = False, limit_s: float = LIMIT_S
) -> str:
    """As `log_record`, of a predicted row: a run without a record, with the tag `evidence` = `predicted` and its `basis`.

    Raises `ValueError` for a row of another evidence, or without a prediction.
    """
    if result.evidence is not Evidence.PREDICTED or not result.valid or result.run_id is None:
        raise ValueError("only predicted rows are logged without a record")
    tracking = tracking if tracking is not None else TrackingConfig()
    uri = resolve_uri(tracking)
    with (
        _alone(result.run_id, limit_s),
        connected(uri, "the same command logs it later", limit_s) as client,
    ):
        experiment_id = experiment(client, uri, tracking.experiment)
        if not force and (earlier := _earlier(client, experiment_id, result.run_id)) is not None:
            return str(earlier.info.run_id)
        now_ms = time.time_ns() // 1_000_000
        run_id = _created(client, experiment_id, result, tracking, now_ms, now_ms, None)
        _log_facts(client, run_id, None, result, tracking, now_ms)
        _log_pages(client, run_id, result)
        client.set_tag(run_id, LOGGING_TAG, COMPLETE)
        client.set_terminated(run_id, "FINISHED", end_time=now_ms)
        return run_id


@contextlib.contextmanager
def _alone(run_id: str, limit_s: float) -> Iterator[None]:
    """Keeps the other processes of this host, of all users, from logging the same record meanwhile."""
    folder = gpu_lock_dir()
    file = folder / f"log-{hashlib.sha256(run_id.encode()).hexdigest()[:16]}.lock"
    claim = None
    with contextlib.suppress(OSError):  # no locks here: the marks in MLflow have to do
        make_shared(folder)
        claim = ownership.wait_for_lock(file, "logging a record", limit_s, for_everyone=True)
        if claim is None:
            raise TrackingError(
                f"this record has been logged by another process for {limit_s:g} s: try again later"
            )
    try:
        yield
    finally:
        if claim is not None:
            claim.release(remove=True)


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
    start_ns, end_ns = content.bounds_ns(info)
    end_ms = content.utc_ms(info, end_ns)
    result = Result.of(record)
    status = "FINISHED" if result.valid else "FAILED"
    earlier = _earlier(client, experiment_id, info.run_id)
    if earlier is not None and not force:
        return _completed(client, earlier, status, end_ms, parent)
    files = record.files()
    run_id = _created(client, experiment_id, result, tracking, content.utc_ms(info, start_ns), end_ms, parent)
    _log_facts(client, run_id, record, result, tracking, end_ms)
    _log_curves(client, run_id, record)
    _log_workload(client, run_id, record)
    _log_pages(client, run_id, result)
    _log_pictures(client, run_id, record)
    for file in files:  # one by one: each has its own time
        client.log_artifact(run_id, str(file), artifact_path=RECORD_ARTIFACT)
    client.set_tag(run_id, LOGGING_TAG, COMPLETE)
    if not force and (other := _first_of_several(client, experiment_id, info.run_id)) not in (None, run_id):
        assert other is not None
        return other
    client.set_terminated(run_id, status, end_time=end_ms)
    return run_id


def _created(
    client: MlflowClient,
    experiment_id: str,
    result: Result,
    tracking: TrackingConfig,
    start_ms: int,
    end_ms: int,
    parent: str | None,
) -> str:
    """A run that is FAILED and marked as incomplete."""
    run = client.create_run(
        experiment_id,
        start_time=start_ms,
        run_name=content.cut(content.run_name(result, tracking.run_name), TAG_LIMIT),
        tags={
            RUN_ID_TAG: str(result.run_id),
            LOGGING_TAG: f"incomplete {socket.gethostname()} {os.getpid()} {time.time():.0f}",
            "mlflow.source.name": "wattcount",
            "mlflow.source.type": "LOCAL",
            "mlflow.note.content": content.note(result)[:TAG_LIMIT],
        }
        | ({PARENT_TAG: parent} if parent is not None else {}),
    )
    run_id: str = run.info.run_id
    client.set_terminated(run_id, "FAILED", end_time=end_ms)
    return run_id


def _log_pages(client: MlflowClient, run_id: str, result: Result) -> None:
    client.log_text(run_id, content.note(result), SUMMARY_MD)
    client.log_text(run_id, content.page(result), SUMMARY_HTML)


def _completed(client: MlflowClient, run: Run, status: str, end_ms: int, parent: str | None) -> str:
    """Gives a run that has all of its record its status and its parent again, which a kill or a person may have taken."""
    run_id = str(run.info.run_id)
    if run.info.status != status:
        client.set_terminated(run_id, status, end_time=end_ms)
    if parent is not None and not _has_parent(client, run, parent):
        client.set_tag(run_id, PARENT_TAG, parent)
    return run_id


def _has_parent(client: MlflowClient, run: Run, parent: str) -> bool:
    """Whether the run is shown below a run that exists. `parent`: the run that it would be shown below."""
    from mlflow.exceptions import MlflowException

    own = run.data.tags.get(PARENT_TAG)
    if own is None or own == parent:
        return bool(own == parent)
    try:
        return bool(client.get_run(own).info.lifecycle_stage != "deleted")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def _first_of_several(client: MlflowClient, experiment_id: str, run_id: str) -> str | None:
    """The run that two hosts keep where both logged one record at once. The other complete runs of the record are removed."""
    complete = sorted(
        str(run.info.run_id)
        for run in _runs(client, experiment_id, run_id)
        if run.data.tags.get(LOGGING_TAG) == COMPLETE
    )
    for double in complete[1:]:
        client.delete_run(double)
    return complete[0] if complete else None


def _log_facts(
    client: MlflowClient,
    run_id: str,
    record: Record | None,
    result: Result,
    tracking: TrackingConfig,
    end_ms: int,
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    own = {key: content.cut(value, TAG_LIMIT) for key, value in usable_tags(tracking.tags).items()}
    tags = own | content.tags(record, result)
    values = [Metric(key, value, end_ms, 0) for key, value in content.metrics(result).items()]
    client.log_batch(run_id, metrics=values)
    for marks in _batches([RunTag(key, value) for key, value in tags.items()], ENTITIES_PER_BATCH):
        client.log_batch(run_id, tags=marks)
    params = content.params(result.setting if record is None else record.info.config)
    for batch in _batches([Param(key, value) for key, value in params.items()], ENTITIES_PER_BATCH):
        client.log_batch(run_id, params=batch)


def _log_curves(client: MlflowClient, run_id: str, record: Record) -> None:
    """Logs the power curve, then the system metrics, each in one batch. A step is a millisecond since the window's start."""
    from mlflow.entities import Metric

    info, zero = record.info, content.zero_ns(record.info)
    for curves in (content.curves(record), content.system_metrics(record)):
        points = [
            Metric(curve.key, value, content.utc_ms(info, t_ns), round((t_ns - zero) / 1e6))
            for curve in curves
            for t_ns, value in zip(curve.t_ns.tolist(), curve.values.tolist(), strict=True)
        ]
        if points:
            client.log_batch(run_id, metrics=points[:METRICS_PER_BATCH])


def _log_pictures(client: MlflowClient, run_id: str, record: Record) -> None:
    with tempfile.TemporaryDirectory(prefix="wattcount-") as folder:
        for name, picture in content.pictures(record).items():
            file = Path(folder, name)
            file.write_bytes(picture)
            client.log_artifact(run_id, str(file), artifact_path=content.PICTURES)


def _log_workload(client: MlflowClient, run_id: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

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
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "workload")])]
    for later_tries in reversed(range(DATASET_TRIES)):
        try:
            client.log_inputs(run_id, datasets=inputs)
            return
        except MlflowException as error:
            # Another run with this workload, logged at the same moment, has just made the data set; now it is found.
            if not later_tries or not any(word in str(error).lower() for word in ("unique", "duplicate")):
                raise


def _runs(client: MlflowClient, experiment_id: str, run_id: str) -> list[Run]:
    """The runs of a record that are not deleted. `Record.open` has checked the run id, which is part of a filter here."""
    return list(client.search_runs([experiment_id], f"tags.`{RUN_ID_TAG}` = '{run_id}'"))


def _earlier(client: MlflowClient, experiment_id: str, run_id: str) -> Run | None:
    """The MLflow run that holds this record whole; removes what an interrupted logging has left."""
    complete = None
    for run in _runs(client, experiment_id, run_id):
        state = run.data.tags.get(LOGGING_TAG, "")
        if state == COMPLETE:
            complete = run
            continue
        if _is_alive(state):
            raise TrackingError(
                f"this record is being logged by another process ({' '.join(state.split()[1:3])})"
            )
        client.set_terminated(run.info.run_id, "FAILED")
        client.delete_run(run.info.run_id)
    return complete


def _is_alive(state: str) -> bool:
    """Whether the logging with the mark `incomplete HOST PID SECONDS` goes on, as far as this host can know."""
    words = state.split()
    if len(words) not in (3, 4) or not all(word.isdigit() for word in words[2:]):
        return False
    began_s = int(words[3]) if len(words) == 4 else None  # earlier versions did not write it
    if began_s is not None and abs(time.time() - began_s) > MARK_LIMIT_S:
        return False
    if words[1] != socket.gethostname():
        return began_s is not None
    pid = int(words[2])
    return pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def fetch_record(run_id: str, records_dir: Path, tracking: TrackingConfig | None = None) -> Path:
    """Puts the record that was logged as `run_id` in its place below `records_dir`, whole or not at all.

    Returns its folder; a folder that is already there stays as it is. Raises `TrackingError` where the store cannot be reached or
    has no such record; `WattcountError` where what the store has is damaged or no record.
    """
    tracking = tracking if tracking is not None else TrackingConfig()
    uri = resolve_uri(tracking)
    records_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-fetch-", dir=records_dir))
    try:
        try:
            with connected(uri, "") as client:
                found = _download(client, run_id, uri, tracking.experiment, temporary)
        except TrackingError as error:
            if error.__cause__ is None:
                raise
            raise TrackingError(
                f"it could not be fetched from MLflow at {masked(uri)}: {one_line(error.__cause__)}"
            ) from error
        record = Record.open(found)
        record.files()
        record.check_files()
        info = record.info
        if info.run_id != run_id:
            raise TrackingError(f"MLflow at {masked(uri)} has another record ({info.run_id}) in its place")
        folder = final_folder(records_dir, info.point_id, info.repeat, info.run_id)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            found.rename(folder)
        return folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _download(client: MlflowClient, run_id: str, uri: str, experiment: str, folder: Path) -> Path:
    found = client.get_experiment_by_name(experiment)
    wanted = f"tags.`{RUN_ID_TAG}` = '{run_id}' and tags.`{LOGGING_TAG}` = '{COMPLETE}'"
    runs = [] if found is None else client.search_runs([found.experiment_id], wanted)
    if not runs:
        raise TrackingError(
            f"it is not in MLflow at {masked(uri)} (experiment {experiment!r}); set records_dir to a folder that all "
            "nodes see, or tracking.uri to a server"
        )
    return Path(client.download_artifacts(runs[0].info.run_id, RECORD_ARTIFACT, str(folder)))
