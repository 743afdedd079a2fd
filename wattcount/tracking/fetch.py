"""Brings a record back from MLflow, where the machine that measured it shares no folder with this one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError
from wattcount.record import Record
from wattcount.record.place import final_folder
from wattcount.tracking.store import (
    COMPLETE,
    LOGGING_TAG,
    RUN_ID_TAG,
    TrackingError,
    _client,
    _quiet_and_bounded,
    resolve_uri,
)

RECORD_ARTIFACT = "record"


def fetch_record(run_id: str, records_dir: Path, tracking: TrackingConfig | None = None) -> Path:
    """Puts the record that was logged as `run_id` in its place below `records_dir`, whole or not at all.

    Returns its folder; one that is there already is left as it is. Raises `TrackingError` where the store cannot be
    reached or has no such record; `WattcountError` where what it has is none.
    """
    tracking = tracking if tracking is not None else TrackingConfig()
    uri = resolve_uri(tracking)
    records_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-fetch-", dir=records_dir))
    try:
        with _quiet_and_bounded():
            try:
                client = _client(uri)
                experiment = client.get_experiment_by_name(tracking.experiment)
                wanted = f"tags.`{RUN_ID_TAG}` = '{run_id}' and tags.`{LOGGING_TAG}` = '{COMPLETE}'"
                runs = [] if experiment is None else client.search_runs([experiment.experiment_id], wanted)
                if not runs:
                    raise TrackingError(
                        f"it is not in MLflow at {uri} (experiment {tracking.experiment!r}); set records_dir to a "
                        "folder that all nodes see, or tracking.uri to a server"
                    )
                found = client.download_artifacts(runs[0].info.run_id, RECORD_ARTIFACT, str(temporary))
            except WattcountError:
                raise
            except Exception as error:  # whatever a store, a driver or a network throws
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise TrackingError(f"it could not be fetched from MLflow at {uri}: {reason}") from error
        info = Record.open(Path(found)).info
        if info.run_id != run_id:
            raise TrackingError(f"MLflow at {uri} has another record ({info.run_id}) in its place")
        folder = final_folder(records_dir, info.point_id, info.repeat, info.run_id)
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            Path(found).rename(folder)
        return folder
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
