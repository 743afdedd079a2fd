"""Which `metrics.json` is believed, and what is made of records that nothing can be computed from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_record import SyntheticRun, as_version_1, rewrite_metrics

from wattcount.errors import WattcountError
from wattcount.metrics import METRICS_VERSION, compute, load_metrics, write
from wattcount.records import Record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = SyntheticRun().write(tmp_path / "r")
    write(folder)
    return folder


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_a_file_that_says_what_it_was_made_of_is_believed(path: Path) -> None:
    fresh = load_metrics(Record.open(path))
    assert fresh == compute(Record.open(path))
    rewrite_metrics(path, evidence="as stored")
    assert load_metrics(Record.open(path)) == fresh | {"evidence": "as stored"}


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(metrics_version=METRICS_VERSION - 1),
        lambda m: m["metrics"].update({"energy/gpu_j": 1.0}),
        lambda m: m["validity"].update(valid=not m["validity"]["valid"]),
        lambda m: m.pop("checksum"),
        lambda m: m.pop("inputs"),
        lambda m: m["inputs"].update({"power.parquet": "0" * 64}),
    ],
)
def test_a_file_that_was_changed_is_not(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fresh = load_metrics(Record.open(path))
    edit(path / "metrics.json", change)
    before = (path / "metrics.json").read_bytes()
    assert load_metrics(Record.open(path)) == fresh
    assert (path / "metrics.json").read_bytes() == before  # and nothing was written


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a":' * 100_000, "[" * 200_000])
def test_a_file_that_is_damaged_is_not(path: Path, content: str) -> None:
    fresh = load_metrics(Record.open(path))
    (path / "metrics.json").write_text(content)
    assert load_metrics(Record.open(path)) == fresh


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"energy/gpu_j": "much"}},
        {"metrics": {"no/such_key": 1.0}},
        {"validity": {"valid": True, "reasons": [], "findings": ["x"]}},
        {"null_reasons": None},
    ],
)
def test_a_file_of_another_shape_is_not_whatever_it_says_it_was_made_of(
    path: Path, changes: dict[str, Any]
) -> None:
    fresh = load_metrics(Record.open(path))
    rewrite_metrics(path, **changes)
    assert load_metrics(Record.open(path)) == fresh


def test_it_is_not_believed_once_raw_files_differ(path: Path) -> None:
    """Of a record without hashes: another power trace is another record, and its figures are its own."""
    before = load_metrics(Record.open(path))["metrics"]["energy/gpu_j"]
    table = pq.read_table(path / "power.parquet", partitioning=None)
    halved = pa.array(table["value"].to_numpy() // 2)
    pq.write_table(
        table.set_column(table.column_names.index("value"), "value", halved), path / "power.parquet"
    )
    after = load_metrics(Record.open(path))["metrics"]["energy/gpu_j"]
    assert after == pytest.approx(before / 2, rel=1e-3)


def test_what_nothing_can_be_computed_from_is_damaged_in_one_line(path: Path) -> None:
    table = pq.read_table(as_version_1(path) / "requests.parquet", partitioning=None)
    short = pa.array([[1]] * len(table), table["token_count"].type)
    index = table.column_names.index("token_count")
    pq.write_table(table.set_column(index, "token_count", short), path / "requests.parquet")
    with pytest.raises(WattcountError, match="is damaged: nothing can be computed from it") as caught:
        load_metrics(Record.open(path))
    assert "\n" not in str(caught.value)
    assert "differ in length" in str(caught.value)
