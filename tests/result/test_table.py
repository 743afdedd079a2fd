"""The results of a folder as one table: read once, kept exactly, and never believed longer than the files stay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wattcount.metrics.metrics_json import Status
from wattcount.result import Result, results
from wattcount.result.table import TABLE_FILE, to_arrow

CAMPAIGN = Path(__file__).resolve().parents[2] / "data" / "campaign" / "records"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Five records of a real campaign."""
    folder = tmp_path / "records"
    for run in sorted(CAMPAIGN.glob("*/r*"))[:5]:
        shutil.copytree(run, folder / run.parent.name / run.name)
    return folder


def test_what_is_kept_is_what_was_found(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(records)
    assert len(found) == 5
    monkeypatch.setattr("wattcount.result.table.judge", lambda path: pytest.fail(f"{path} was read again"))
    kept = results(records)
    assert kept == found
    for before, after in zip(found, kept, strict=True):
        assert {key: type(value) for key, value in after.metrics.items()} == {
            key: type(value) for key, value in before.metrics.items()
        }


def test_a_table_moves_with_its_folder(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results(records)
    there = records.rename(records.with_name("elsewhere"))
    monkeypatch.setattr("wattcount.result.table.judge", lambda path: pytest.fail(f"{path} was read again"))
    assert {result.record.parents[1] for result in results(there) if result.record} == {there}


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "version", "columns", "folder"])
def test_a_kept_table_that_cannot_be_believed_is_made_anew(records: Path, damage: str) -> None:
    found, file = results(records), records / TABLE_FILE
    content = file.read_bytes()
    if damage == "version":
        pq.write_table(pq.read_table(file).replace_schema_metadata({b"wattcount.result": b"older"}), file)
    elif damage == "columns":
        pq.write_table(pq.read_table(file).drop_columns(["status"]), file)
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes({"cut": content[:-9], "empty": b"", "text": b"hello"}[damage])
    assert results(records) == found


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_kept_table_that_is_no_regular_file_is_not_opened(records: Path, kind: str) -> None:
    found, file = results(records), records / TABLE_FILE
    elsewhere = file.rename(records.parent / "elsewhere.parquet")
    os.mkfifo(file) if kind == "pipe" else file.symlink_to(elsewhere)
    # A process of its own: one that waits for a pipe cannot be interrupted.
    script = f"from pathlib import Path; from wattcount.result import results; print(len(results(Path({str(records)!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=120, check=True, capture_output=True, text=True
    )
    assert done.stdout == "5\n"
    assert file.is_file()
    assert not file.is_symlink()
    assert results(records) == found


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("energy/gpu_j", "81 J"),
        ("seed", "0"),
        ("reasons", None),
        ("levers", [None]),
        ("levers", [1]),
        ("setting", "[1]"),
        ("null_reasons", "[" * 100_000),
        ("findings", "[" * 100_000),
        ("findings", '[{"code":1,"figure":1,"limit":1,"unit":"1","message":"","invalidates":false}]'),
        ("findings", '[{"code":"a","figure":"b","limit":1,"unit":"1","message":"","invalidates":false}]'),
    ],
)
def test_cells_that_are_not_what_wattcount_writes_are_not_believed(
    records: Path, column: str, cell: Any
) -> None:
    found, file = results(records), records / TABLE_FILE
    table = pq.read_table(file)
    kind = table.schema.field(column).type if cell is None or cell == [None] else None
    forged = pa.array([cell] * len(table), kind)
    pq.write_table(table.set_column(table.column_names.index(column), column, forged), file)
    assert results(records) == found


def test_text_that_is_no_utf_8_does_not_stop_the_others(records: Path) -> None:
    first, second, *_ = sorted(records.glob("*/r*"))
    info = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps(info | {"notes": ["half a character: \ud800"]}))
    second.rename(second.with_name(os.fsdecode(os.fsencode(second.name) + b"\xff")))
    for _ in range(2):  # the second time from the table
        found = results(records)
        assert Status.damaged not in [result.status for result in found]
        assert len(to_arrow(found)) == 5
    assert pq.read_table(records / TABLE_FILE).num_rows == 4


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("wattcount.result.table.replacing", refuse)
    assert len(results(records)) == 5
    assert not (records / TABLE_FILE).exists()


def test_a_damaged_record_is_a_row_that_says_so(records: Path) -> None:
    (run, *_) = sorted(records.glob("*/r*"))
    (run / "power.parquet").write_bytes(b"")
    for _ in range(2):  # the second time from the table
        (damaged,) = [result for result in results(records) if result.status is Status.damaged]
        assert damaged.record == run
        assert "power.parquet" in damaged.messages[0]


def test_arrow_and_pandas_have_a_column_for_each_field_and_figure(records: Path) -> None:
    found = [*results(records), Result(origin="someone", instrument="wall", metrics={"energy/gpu_j": 5.0})]
    table = to_arrow(found)
    assert table["energy/gpu_j"].to_pylist() == [result.value("energy/gpu_j") for result in found]
    assert table.schema.field("levers").type == pa.list_(pa.string())
    frame = table.to_pandas()
    assert frame["origin"].tolist() == ["wattcount"] * 5 + ["someone"]
    assert frame["source"].isna().tolist() == [False] * 5 + [True]
    assert frame["energy/batch_gpu_j"].dtype == float
    assert len(to_arrow([])) == 0
