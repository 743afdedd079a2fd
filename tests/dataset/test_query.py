"""SQL over the rows, and nothing but them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset.conftest import DAY
from wattcount.dataset import rows
from wattcount.dataset.query import answer, connected, query
from wattcount.dataset.store import Dataset, Submission
from wattcount.errors import NotStartedError
from wattcount.result import Result


@pytest.fixture
def filled(dataset: Dataset, submission: Callable[..., Submission]) -> Dataset:
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 3), DAY)
    return dataset


def test_a_query_sees_the_latest_version_or_one_before(filled: Dataset, measured: list[Result]) -> None:
    sql = "SELECT energy_gpu_j AS joules FROM results ORDER BY run_id"
    expected = sorted(measured[0:3] + measured[10:13], key=lambda result: str(result.run_id))
    assert query(filled, sql)["joules"].to_pylist() == [r.value("energy/gpu_j") for r in expected]
    assert len(query(filled, sql, filled.version(2))) == 3
    assert query(filled, "SELECT count(*) AS n FROM results", filled.version(1))["n"].to_pylist() == [0]


def test_no_column_needs_quotes(filled: Dataset) -> None:
    names = rows.schema().names
    assert query(filled, f"SELECT {', '.join(names)} FROM results").schema.names == names


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{there}'",
        "COPY results TO '{new}' (FORMAT parquet)",
        "EXPORT DATABASE '{new}'",
        "ATTACH '{new}' AS other",
        "CREATE TABLE mine AS SELECT 1",
        "CREATE OR REPLACE VIEW results AS SELECT 1",
        "DROP VIEW results",
        "SET enable_external_access = true",
        "SET allowed_paths = ['/etc/passwd']",
        "RESET lock_configuration",
        "INSTALL httpfs",
        "LOAD httpfs",
        "PRAGMA database_list",
        "SELECT 1; COPY (SELECT 1) TO '{new}'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_blob('{beside}')",
        "SELECT * FROM '{beside}'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('s3://bucket/file.parquet')",
        "SELECT * FROM read_csv('http://127.0.0.1:1/file.csv')",
        "SELECT * FROM filled",
        "SELEC 1",
        "",
    ],
)
def test_no_way_out_of_the_rows(filled: Dataset, tmp_path: Path, sql: str) -> None:
    beside = tmp_path / "secret.csv"
    beside.write_text("a\n1\n")
    there = next((Path(filled.where) / "results").iterdir())
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(NotStartedError):
        query(filled, sql.format(there=there, new=tmp_path / "new", beside=beside))
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_even_a_statement_that_is_run_cannot_write(filled: Dataset, tmp_path: Path) -> None:
    """The lock holds by itself, without the look at what kind of statement it is."""
    import duckdb

    there = next((Path(filled.where) / "results").iterdir())
    with connected(filled) as connection:
        for target in (there, tmp_path / "new.csv"):
            with pytest.raises(duckdb.PermissionException):
                connection.execute(f"COPY (SELECT 1) TO '{target}'")
        with pytest.raises(duckdb.InvalidInputException):
            connection.execute("SET enable_external_access = true")
        assert answer(connection, "SELECT count(*) AS n FROM results")["n"].to_pylist() == [6]


def test_a_query_that_takes_too_much_memory_ends(filled: Dataset) -> None:
    with pytest.raises(NotStartedError, match="the query fails"):
        query(filled, "SELECT list(a.range) FROM range(100000000) a", memory_mb=20)
