"""`api/`: rows with ids, an OpenAPI description, and dated versions that stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.site.sample import result, source
from wattcount.dataset.rows import describe
from wattcount.site.api import FILES
from wattcount.site.builder import build
from wattcount.site.columns import FIGURES


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build(source(), out)
    return out / "api"


def test_the_description_has_each_file_and_no_other(api: Path) -> None:
    described = read(api / "openapi.json")
    assert described["openapi"].startswith("3.1")
    latest = read(api / "index.json")["latest"]
    there = {path.name for path in (api / latest).iterdir()}
    assert there == {*FILES, "version.json"}
    assert set(described["paths"]) == {"/index.json", *(f"/{{version}}/{name}" for name in there)}


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_what_the_description_says(api: Path, name: str) -> None:
    content = read(api / read(api / "index.json")["latest"] / name)
    schema = FILES[name][1]
    assert isinstance(content, dict if schema["type"] == "object" else list)
    items = content if isinstance(content, list) else [content]
    required = schema.get("required") or schema.get("items", {}).get("required") or ()
    assert all(set(required) <= set(item) for item in items)


def test_rows_have_a_value_for_each_column_and_join_by_id(api: Path) -> None:
    folder = api / read(api / "index.json")["latest"]
    tables = {name: read(folder / f"{name}.json") for name in ("settings", "results")}
    for table in tables.values():
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
        ids = [row[table["columns"].index("id")] for row in table["rows"]]
        assert len(ids) == len(set(ids))
    settings = {row[0] for row in tables["settings"]["rows"]}
    at = tables["results"]["columns"].index("setting")
    assert {row[at] for row in tables["results"]["rows"]} == settings


def test_figures_are_called_as_in_a_data_set_and_have_its_units() -> None:
    known = describe()
    for figure in FIGURES:
        assert figure.column in known
        shown, stored = figure.unit, known[figure.column][0]
        assert (shown, figure.factor) == (stored, 1.0) or (shown, figure.factor) == (f"m{stored}", 1e3)


def test_a_later_version_stands_beside_the_one_before(tmp_path: Path) -> None:
    build(source(), tmp_path)
    first = read(tmp_path / "api" / "index.json")["latest"]
    before = (tmp_path / "api" / first / "results.json").read_bytes()
    build(source(result(model="later", started_utc="2026-12-24T00:00:00+00:00")), tmp_path)
    index = read(tmp_path / "api" / "index.json")
    assert [version["version"] for version in index["versions"]] == ["2026-12-24", first]
    assert index["latest"] == "2026-12-24"
    assert (tmp_path / "api" / first / "results.json").read_bytes() == before
