"""The data set of our own records: the same records give the same bytes, and further ones only add."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import make_dataset  # noqa: E402

from wattcount.dataset.adding import Judged  # noqa: E402
from wattcount.dataset.check import check  # noqa: E402
from wattcount.dataset.store import Dataset  # noqa: E402
from wattcount.metrics import metrics_json  # noqa: E402


def accepting(bundle: Path, dataset: Dataset) -> Judged:  # noqa: ARG001
    return Judged({"decision": "accepted", "breaches": []}, {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder like data/: two records of one campaign, one of another, and a file of imported results."""
    folder = tmp_path / "data"
    for campaign, chosen in (("h200", slice(0, 2)), ("servers", slice(0, 1))):
        for run in sorted((ROOT / "data" / campaign / "records").glob("*/r*"))[chosen]:
            shutil.copytree(run, folder / campaign / "records" / run.parent.name / run.name)
    (folder / "imported").mkdir()
    shutil.copy(ROOT / "data" / "imported" / "mlperf.parquet", folder / "imported")
    return folder


def test_the_same_records_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    first = make_dataset.make(data, data / "dataset", accepting)
    again = make_dataset.make(data, tmp_path / "again", accepting)
    assert make_dataset.different(Path(first.where), Path(again.where)) == []
    assert check(first) == []
    latest = first.latest()
    assert [change.num_results for change in latest.changes[1:]] == [2, 1, 2]
    assert all(place.startswith("../") for place in first.table(latest)["record"].to_pylist() if place)


def test_further_records_only_add(data: Path, tmp_path: Path) -> None:
    before = make_dataset.make(data, data / "dataset", accepting)
    files = before.latest().files
    run = sorted((ROOT / "data" / "h200" / "records").glob("*/r*"))[4]
    shutil.copytree(run, data / "h200" / "records" / run.parent.name / run.name)
    after = make_dataset.make(data, tmp_path / "after", accepting)
    assert files.items() < after.latest().files.items()
    assert after.latest().num_results == before.latest().num_results + 1
    # What was published is a part of what follows it.
    assert after.version(before.latest().number) == before.latest()
    assert after.latest().changes[-1].num_results == 1


def test_a_published_row_is_never_changed_only_withdrawn_with_the_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make_dataset.make(data, data / "dataset", accepting)
    published = before.latest()
    compute = metrics_json.compute

    def other(*args: object, **kwargs: object) -> dict[str, Any]:
        content = compute(*args, **kwargs)  # type: ignore[arg-type]
        watts = content["metrics"]["power/gpu_mean_w"]
        return content | {
            "metrics_version": 99,
            "metrics": content["metrics"] | {"power/gpu_mean_w": watts and watts + 1},
        }

    monkeypatch.setattr(metrics_json, "compute", other)
    monkeypatch.setattr(metrics_json, "METRICS_VERSION", 99)
    monkeypatch.setattr(make_dataset, "METRICS_VERSION", 99)
    after = make_dataset.make(data, tmp_path / "after", accepting)
    assert after.version(published.number) == published
    for name in published.files:
        assert after.read(published, name) == before.read(published, name)
    later = after.latest().changes[published.number :]
    assert [(change.what, change.num_results) for change in later] == [
        ("withdraw", 2),
        ("add", 2),
        ("withdraw", 1),
        ("add", 1),
    ]
    version = metrics_version_of(before)
    assert {change.reason for change in later if change.what == "withdraw"} == {
        f"its figures are of metrics version {version}: replaced by those of version 99"
    }
    assert after.latest().num_results == published.num_results
    assert check(after, records=False) == []
    # Once more changes nothing.
    shutil.rmtree(data / "dataset")
    shutil.copytree(after.where, data / "dataset")
    again = make_dataset.make(data, tmp_path / "again", accepting)
    assert make_dataset.different(Path(after.where), Path(again.where)) == []


def metrics_version_of(dataset: Dataset) -> int:
    latest = dataset.latest()
    return int(dataset.document(latest, str(latest.changes[1].submission))["metrics_version"])


def test_what_another_pyarrow_wrote_is_compared_by_its_rows(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_dataset.make(data, tmp_path / "one", accepting)
    shutil.copytree(made.where, tmp_path / "two")
    there = tmp_path / "two"
    monkeypatch.setattr(make_dataset, "_writer", str)
    (there / "latest.json").write_text("{}")
    assert make_dataset.different(Path(made.where), there) == []
    next((there / "results").iterdir()).unlink()
    assert len(make_dataset.different(Path(made.where), there)) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_data_dataset_is_what_its_records_give(tmp_path: Path) -> None:
    made = make_dataset.make(ROOT / "data", tmp_path / "made")
    assert make_dataset.different(Path(made.where), ROOT / "data" / "dataset") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_figure_of_data_dataset_follows_from_its_record() -> None:
    dataset = Dataset.open(ROOT / "data" / "dataset")
    assert check(dataset) == []
    assert {result.origin for result in dataset.results()} > {"wattcount"}
