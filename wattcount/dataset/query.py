"""SQL over a version of a data set: read only, with no way from the SQL to any file, server or setting."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from wattcount.dataset import rows
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import Version
from wattcount.errors import NotStartedError, one_line

if TYPE_CHECKING:
    import duckdb

TABLE = "results"
"""What the SQL calls the rows."""
MEMORY_MB = 1000
"""Most memory of a query [MB]; what needs more is put on the disk, up to SPILL_MB."""
SPILL_MB = 10_000
BATCH_ROWS = 1 << 14
"""Rows that are handed over at once."""
_LOCKED = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
"""Statements that take from a connection whatever leads out of it; the last one takes the way back."""


def query(dataset: Dataset, sql: str, version: Version | None = None, memory_mb: int = MEMORY_MB) -> pa.Table:
    """The answer of one SELECT over the table `results`. Raises NotStartedError for SQL that is something else, or fails."""
    with connected(dataset, version, memory_mb) as connection:
        return answer(connection, sql)


@contextlib.contextmanager
def connected(
    dataset: Dataset, version: Version | None = None, memory_mb: int = MEMORY_MB
) -> Iterator[duckdb.DuckDBPyConnection]:
    """A locked connection to the rows of a version, the latest where it is None."""
    version = version or dataset.latest()
    with dataset.files(version) as files, tempfile.TemporaryDirectory(prefix="wattcount-query-") as temporary:
        connection = _connection(files, Path(temporary), memory_mb)
        try:
            yield connection
        finally:
            connection.close()


def answer(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """The answer of one SELECT."""
    import duckdb

    try:
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise NotStartedError(f"a query is one SELECT statement, not {len(statements)}")
        if statements[0].type is not duckdb.StatementType.SELECT:
            raise NotStartedError(
                f"a query only reads: SELECT, not {statements[0].type.name}; the table is {TABLE}"
            )
        relation: Any = connection.sql(statements[0])
        return relation.to_arrow_table(BATCH_ROWS)
    except duckdb.Error as error:
        raise NotStartedError(f"the query fails: {one_line(error, 600)}") from None


def _connection(files: Sequence[Path], temporary: Path, memory_mb: int) -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = duckdb.connect(":memory:")
    connection.execute(f"SET memory_limit = '{int(memory_mb)}MB'")
    connection.execute(f"SET temp_directory = {_quoted(str(temporary))}")
    connection.execute(f"SET max_temp_directory_size = '{SPILL_MB}MB'")
    if files:
        listed = "[" + ", ".join(_quoted(str(file.absolute())) for file in files) + "]"
        # Only these files, only to be read: COPY and the like are refused before they are run.
        connection.execute(f"SET allowed_paths = {listed}")
        columns, alike = _columns(files)
        # By name only where it must be: then DuckDB keeps what all files say of themselves at once.
        connection.execute(
            f"CREATE VIEW {TABLE} AS SELECT {columns} FROM read_parquet({listed}, union_by_name = {not alike})"
        )
    else:
        empty = rows.schema().empty_table()
        connection.register("no_rows", empty)
        connection.execute(f"CREATE TABLE {TABLE} AS SELECT * FROM no_rows")
        connection.unregister("no_rows")
    for statement in _LOCKED:
        connection.execute(statement)
    return connection


def _columns(files: Sequence[Path]) -> tuple[str, bool]:
    """Columns that the files have, in the order of `rows.schema`, and whether all have the same: the newest may have some that older
    ones lack."""
    import pyarrow.parquet as pq

    found = {tuple(pq.read_schema(file).names) for file in files}
    there = set().union(*found)
    return ", ".join(f'"{name}"' for name in rows.schema().names if name in there), len(found) == 1


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
