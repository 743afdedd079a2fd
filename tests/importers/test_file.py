from __future__ import annotations

from pathlib import Path

import importer_samples as samples
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wattcount import importers
from wattcount.errors import NotStartedError
from wattcount.importers import file
from wattcount.importers.file import Origin
from wattcount.importers.mlenergy import SOURCE


def written(folder: Path) -> Path:
    path, out = samples.write(folder, "mlenergy v2"), folder / "results.parquet"
    results = file.named(importers.read(path), path, "v2.csv")
    file.write(out, results, [Origin(SOURCE, file.hashes(path, "v2.csv"))])
    return out


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    results, (origin,) = file.load(written(tmp_path))
    path = tmp_path / "file.csv"
    assert results == file.named(importers.read(path), path, "v2.csv")
    assert (origin.source, list(origin.files)) == (SOURCE, ["v2.csv"])


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path).read_bytes()
    assert written(tmp_path).read_bytes() == first


def test_any_reader_of_parquet_reads_them(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path)).to_pydict()
    assert table["energy/gpu_j_per_output_token"] == [0.25, 1.0]
    assert str(tmp_path) not in repr(table)


def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path) -> None:
    out = written(tmp_path)
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(NotStartedError, match="no imported results"):
        file.load(other)
    with pytest.raises(NotStartedError, match="does not exist"):
        file.load(tmp_path / "none.parquet")
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NotStartedError, match="is damaged"):
        file.load(out)
    table = pq.read_table(other).replace_schema_metadata(
        {file.METADATA_KEY: b'{"version": 1, "origins": []}'}
    )
    pq.write_table(table, other)
    with pytest.raises(NotStartedError, match="is damaged"):
        file.load(other)
    pq.write_table(table.replace_schema_metadata({file.METADATA_KEY: b'{"version": 99}'}), other)
    with pytest.raises(NotStartedError, match="is of version 99"):
        file.load(other)
