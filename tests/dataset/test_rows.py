"""The rows of a data set: the same columns in every file, and the results come back as they were."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from wattcount.dataset import rows
from wattcount.dataset.rows import About
from wattcount.metrics.metrics_json import IMPORTED, METRICS
from wattcount.result import Result

ABOUT = About("id", "submission", "accepted", "CC-BY-4.0")


def test_each_figure_has_a_column_of_its_own() -> None:
    named = set(rows.columns().values())
    assert {*METRICS, *IMPORTED} <= named
    assert len(set(rows.schema().names)) == len(rows.schema().names)
    assert all(name.replace("_", "").isalnum() for name in rows.schema().names)
    assert set(rows.describe()) == set(rows.schema().names)
    assert [name for name, (_, text) in rows.describe().items() if not text] == []


def test_results_come_back(measured: list[Result], tmp_path: Path) -> None:
    rows.write(rows.to_table(measured, [ABOUT] * len(measured)), tmp_path / "a.parquet")
    found = rows.to_results(rows.read(tmp_path / "a.parquet"))
    assert found == [replace(r, source=None, log_line=None, planned_point=None) for r in measured]
    assert len(found) > 40


def test_the_figures_that_are_energy_over_a_count_have_an_interval(measured: list[Result]) -> None:
    table = rows.to_table(measured, [ABOUT] * len(measured))
    values = table["energy_gpu_j_per_output_token"].to_pylist()
    halves = table["energy_gpu_j_per_output_token_u95"].to_pylist()
    known = [(value, half) for value, half in zip(values, halves, strict=True) if value is not None]
    assert known
    assert all(half is not None and 0 < half < value for value, half in known)


def test_what_was_not_measured_is_null() -> None:
    table = rows.to_table([Result(origin="elsewhere", metrics={"energy/wall_j": 5})], [ABOUT])
    row = table.to_pylist()[0]
    assert row["energy_wall_j"] == 5.0
    assert row["energy_gpu_j"] is None
    assert row[rows.BY_GPU] is None
    assert rows.to_results(table)[0].metrics == {"energy/wall_j": 5.0}


def test_the_energy_of_each_gpu_is_a_list() -> None:
    figures = {f"energy_by_gpu/gpu{number}_j": float(number) for number in range(12)}
    table = rows.to_table([Result(metrics=figures), Result()], [ABOUT, ABOUT])
    assert table[rows.BY_GPU].to_pylist() == [list(figures.values()), None]
    assert rows.to_results(table)[0].metrics == figures


def test_an_older_file_lacks_columns(measured: list[Result]) -> None:
    table = rows.to_table(measured[:1], [ABOUT]).drop_columns(["energy_gpu_j", "host"])
    row = rows.conformed(table).to_pylist()[0]
    assert row["energy_gpu_j"] is None
    assert row["host"] is None


@pytest.mark.parametrize("name", ["energy_gpu_j", "status", "findings"])
def test_columns_of_another_kind_are_refused(measured: list[Result], name: str) -> None:
    table = rows.to_table(measured[:1], [ABOUT])
    at = table.schema.get_field_index(name)
    for wrong in (pa.array([[1]]), pa.array(["]["])):
        with pytest.raises(rows.RowsError):
            rows.to_results(table.set_column(at, name, wrong))


def test_the_same_rows_are_the_same_bytes(measured: list[Result]) -> None:
    table = rows.to_table(measured, [ABOUT] * len(measured))
    assert rows.to_bytes(table) == rows.to_bytes(rows.to_table(measured, [ABOUT] * len(measured)))
    assert not any(math.isnan(value) for value in table["energy_gpu_j"].to_pylist() if value is not None)


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not enough")
    with pytest.raises(rows.RowsError, match="cannot be read"):
        rows.read(tmp_path / "a.parquet")
