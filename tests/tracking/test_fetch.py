"""Records that come back from a real store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, hash_files, observation

from tests.tracking.conftest import free_port
from wattcount.config.schema import TrackingConfig
from wattcount.errors import WattcountError
from wattcount.metrics import write
from wattcount.records import Record
from wattcount.tracking import TrackingError, log_record
from wattcount.tracking.fetch import fetch_record

# MLflow's own use of SQLAlchemy is its authors' business.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def store(tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    polled = [observation("power_instant", t / 10, 300_000 + t % 7) for t in range(1211)]
    path = SyntheticRun(observations=polled).write(tmp_path / "node" / "record")
    write(path)
    return path


def test_a_record_comes_back_as_it_was(tmp_path: Path, store: TrackingConfig, measured: Path) -> None:
    info = Record.open(measured).info
    log_record(measured, store)
    here = tmp_path / "here"
    found = fetch_record(info.run_id, here, store)
    assert found == here / info.point_id[:12] / f"r{info.repeat}-{info.run_id}"
    assert {file.name: file.read_bytes() for file in found.iterdir()} == {
        file.name: file.read_bytes() for file in measured.iterdir()
    }
    assert fetch_record(info.run_id, here, store) == found
    assert not list(here.glob(".tmp-*"))


def test_a_record_that_was_not_logged_is_told(tmp_path: Path, store: TrackingConfig, measured: Path) -> None:
    log_record(measured, store)
    with pytest.raises(TrackingError, match=r"it is not in MLflow at .*set records_dir to a folder"):
        fetch_record("20260101-000000-000-abcdef", tmp_path / "here", store)
    assert not list((tmp_path / "here").iterdir())


def test_a_store_that_does_not_answer_is_told(tmp_path: Path) -> None:
    nobody = TrackingConfig(uri=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError, match="it could not be fetched from MLflow at http"):
        fetch_record("r", tmp_path / "here", nobody)


def test_a_record_that_was_damaged_in_the_store_is_not_taken(
    tmp_path: Path, store: TrackingConfig, measured: Path
) -> None:
    info = Record.open(measured).info
    log_record(measured, store)
    (kept,) = [file for file in tmp_path.rglob("run.json") if "node" not in file.parts]
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"run_id": "another"}))
    with pytest.raises(TrackingError, match=r"another record \(another\) in its place"):
        fetch_record(info.run_id, tmp_path / "here", store)
    assert not list((tmp_path / "here").iterdir())


@pytest.mark.parametrize(
    "change", [{"point_id": "../../../../"}, {"run_id": "../x"}, {"repeat": "/../OUTSIDE"}, {"seed": 1}]
)
def test_a_record_names_no_place_and_is_what_was_measured(
    tmp_path: Path, store: TrackingConfig, measured: Path, change: dict[str, object]
) -> None:
    """As a stranger may have put it into a store that others use too."""
    hash_files(measured)
    run_id = Record.open(measured).info.run_id
    log_record(measured, store)
    (logged,) = (tmp_path / "mlflow-artifacts").rglob("run.json")
    data = json.loads(logged.read_text())
    logged.write_text(json.dumps(data | change))
    if "seed" in change:  # the record may say of itself what it likes; its raw files are held against it
        data["files"]["power.parquet"]["sha256"] = "0" * 64
        logged.write_text(json.dumps(data))
    before = sorted(tmp_path.rglob("*"))
    records_dir = tmp_path / "a" / "b" / "c" / "records"
    with pytest.raises(WattcountError):
        fetch_record(run_id, records_dir, store)
    new = set(tmp_path.rglob("*")) - set(before)
    assert {path for path in new if path.is_file()} == set()
    assert list(records_dir.iterdir()) == []
