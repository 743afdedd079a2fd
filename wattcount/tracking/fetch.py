"""Brings a record back from MLflow, where the machine that measured it shares no folder with this one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.config.schema import TrackingConfig
from wattcount.errors import one_line
from wattcount.masking import masked
from wattcount.records import Record
from wattcount.records.writer import final_folder
from wattcount.tracking.connection import TrackingError, connected, resolve_uri
from wattcount.tracking.store import COMPLETE, LOGGING_TAG, RUN_ID_TAG

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RECORD_ARTIFACT = "record"


def fetch_record(run_id: str, records_dir: Path, tracking: TrackingConfig | None = None) -> Path:
    """Puts the record that was logged as `run_id` in its place below `records_dir`, whole or not at all.

    Returns its folder; one that is there already is left as it is. Raises `TrackingError` where the store cannot be
    reached or has no such record; `WattcountError` where what it has is none, or is damaged.
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
