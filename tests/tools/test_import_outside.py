"""data/imported/: only what may be passed on, and what the files of the sources give."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wattcount.importers.file import load

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import import_outside  # noqa: E402


@pytest.mark.parametrize("item", import_outside.SETS, ids=lambda item: str(item.source))
def test_only_licences_that_allow_it(item: import_outside.Set) -> None:
    results, (origin,) = load(import_outside.OUT / f"{item.source}.parquet")
    assert origin.source.licence in import_outside.LICENCES
    assert {row.origin for row in results} == {f"imported:{item.source}"}
    assert all(row.setting_key is None and row.notes for row in results)
    read_from = {str(row.source) for row in results}
    assert read_from == set(item.paths)
    assert {name for path in item.paths for name in origin.files if name.startswith(path)} == set(
        origin.files
    )


def test_there_is_no_other_file() -> None:
    names = {path.name for path in import_outside.OUT.iterdir()}
    assert names == {"README.md", *(f"{item.source}.parquet" for item in import_outside.SETS)}


def test_the_same_files_give_the_same_bytes(outside_data: Path) -> None:
    assert import_outside.different(outside_data, import_outside.OUT) == []
