"""A sweep in MLflow: one run with its counts and a table of its results, and the runs of its records below it.

::

    sweep_run -> KILLED        found again by the sweep's name and folder, or made
    log_sweep -> counts, table -> KILLED ... -> KILLED -> FINISHED or FAILED
    log_record(parent=...)     the runs below it

A sweep that is not finished is KILLED in MLflow, also while it goes on, so that nothing has to be put right when it is
killed; its description says how it stood, and when.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wattcount.config.schema import TrackingConfig
from wattcount.config.validation import TAG_LIMIT
from wattcount.tracking import content
from wattcount.tracking.connection import LIMIT_S, connected, experiment, log_command, resolve_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SWEEP_TAG, FOLDER_TAG, STATE_TAG = "wattcount.sweep", "wattcount.sweep_folder", "wattcount.sweep_state"
"""Tags of a sweep's own run: the sweep's name, its folder, and how it stood."""
ID_TAG = "wattcount.sweep_id"
"""Tag with a hash of name and folder. These may have quotes in them, which no filter of MLflow can express."""
FORMER_ID_TAG = "wattcount.study_id"
"""ID_TAG in earlier versions."""
SETTLE_S = 1.0
"""How long one waits until other processes see a run that was made [s]: longer than any store takes to answer."""
TABLE_JSON, TABLE_CSV = "results.json", "results.csv"
"""Names of the table of points among the artifacts."""
RESULTS_MD = "results.md"
"""Name of the table of results among the artifacts."""


@dataclass(frozen=True)
class SweepPage:
    """What MLflow is told of a sweep.

    name, folder   of the sweep; the two together tell one from another
    state          `running`, `finished`, `incomplete`, ...; for people
    status         MLflow's: FINISHED, FAILED, or KILLED where there is something left to measure
    metrics        by key; None is left out
    columns, rows  the table of points, one row a point
    note           Markdown
    results        the table of results, one row a setting, Markdown; empty: nothing is measured
    pictures       PNGs by name
    tags           further ones
    """

    name: str
    folder: str
    state: str
    status: str
    metrics: Mapping[str, float | None]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str
    tags: Mapping[str, str]
    results: str = ""
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def sweep_run(
    name: str, folder: str | Path, tracking: TrackingConfig | None = None, *, limit_s: float = LIMIT_S
) -> str:
    """The id of the sweep's own run, which is made where there is none. Raises `TrackingError`."""
    tracking = tracking if tracking is not None else TrackingConfig()
    uri = resolve_uri(tracking)
    with connected(uri, log_command(f"--sweep {name}", tracking), limit_s) as client:
        return _sweep_run(client, experiment(client, uri, tracking.experiment), name, str(folder))


def log_sweep(page: SweepPage, tracking: TrackingConfig | None = None, *, limit_s: float = LIMIT_S) -> str:
    """Writes the sweep's page afresh and returns the id of its run. Raises `TrackingError`."""
    tracking = tracking if tracking is not None else TrackingConfig()
    uri = resolve_uri(tracking)
    with connected(uri, log_command(f"--sweep {page.name}", tracking), limit_s) as client:
        experiment_id = experiment(client, uri, tracking.experiment)
        run_id = _sweep_run(client, experiment_id, page.name, page.folder)
        _write(client, run_id, page)
        return run_id


def _sweep_run(client: MlflowClient, experiment_id: str, name: str, folder: str) -> str:
    if (found := _oldest(client, experiment_id, name, folder)) is not None:
        return found
    made = client.create_run(
        experiment_id,
        run_name=name,
        tags={
            **_tags(name, folder),
            STATE_TAG: "begun",
            "mlflow.source.name": "wattcount",
            "mlflow.source.type": "LOCAL",
        },
    )
    run_id = str(made.info.run_id)
    client.set_terminated(run_id, "KILLED")
    # Two processes may have made one each: once both can see both, both take the same.
    time.sleep(SETTLE_S)
    first = _oldest(client, experiment_id, name, folder)
    if first is not None and first != run_id:
        client.delete_run(run_id)
        return first
    return run_id


def _oldest(client: MlflowClient, experiment_id: str, name: str, folder: str) -> str | None:
    for tag in (ID_TAG, FORMER_ID_TAG):
        if runs := client.search_runs([experiment_id], f"tags.`{tag}` = '{_id(name, folder)}'"):
            return min((run.info.start_time, str(run.info.run_id)) for run in runs)[1]
    return None


def _tags(name: str, folder: str) -> dict[str, str]:
    return {SWEEP_TAG: name, FOLDER_TAG: folder, ID_TAG: _id(name, folder)}


def _id(name: str, folder: str) -> str:
    return hashlib.sha256(f"{name}\n{folder}".encode()).hexdigest()[:16]


def _write(client: MlflowClient, run_id: str, page: SweepPage) -> None:
    from mlflow.entities import Metric, RunTag

    now_ms = time.time_ns() // 1_000_000
    # The step is seconds since the sweep's run was made: the counts are curves of its progress.
    step = (now_ms - int(client.get_run(run_id).info.start_time)) // 1000
    values = [
        Metric(key, float(value), now_ms, step) for key, value in page.metrics.items() if value is not None
    ]
    tags = (
        dict(page.tags)
        | _tags(page.name, page.folder)
        | {
            STATE_TAG: page.state,
            "mlflow.note.content": page.note[:TAG_LIMIT],
            # What makes the UI show the file as a table.
            "mlflow.loggedArtifacts": json.dumps([{"path": TABLE_JSON, "type": "table"}]),
        }
    )
    client.log_batch(run_id, metrics=values, tags=[RunTag(key, value) for key, value in tags.items()])
    with tempfile.TemporaryDirectory(prefix="wattcount-") as folder:
        table = {"columns": list(page.columns), "data": [list(row) for row in page.rows]}
        as_json, as_csv = Path(folder, TABLE_JSON), Path(folder, TABLE_CSV)
        as_json.write_text(json.dumps(table), encoding="utf-8")
        with as_csv.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(page.columns)
            writer.writerows(page.rows)
        for made in (as_json, as_csv):
            client.log_artifact(run_id, str(made))
        for picture, drawn in page.pictures.items():
            file_of = Path(folder, picture)
            file_of.write_bytes(drawn)
            client.log_artifact(run_id, str(file_of), artifact_path=content.PICTURES)
    if page.results:
        client.log_text(run_id, page.results, RESULTS_MD)
    client.set_terminated(run_id, page.status, end_time=now_ms)
