"""The pages that are looked up in have every key, command, exit code, environment variable and column."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import reference_tables  # noqa: E402
import schema_words  # noqa: E402

from wattcount import errors  # noqa: E402
from wattcount.cli.main import COMMANDS  # noqa: E402
from wattcount.config.composition import compose  # noqa: E402
from wattcount.config.loader import SCENARIOS, to_json  # noqa: E402
from wattcount.records.columns import COLUMNS, FILES  # noqa: E402
from wattcount.records.schema import TABLES  # noqa: E402


def first_cells(page: str) -> set[str]:
    """What stands between backticks in the first column of the page's tables."""
    text = (ROOT / "docs" / page).read_text()
    return {
        name
        for line in text.splitlines()
        if line.startswith("|")
        for name in re.findall(r"`([^`]+)`", line.split("|")[1])
    }


def leaves(values: dict[str, object], prefix: str = "") -> set[str]:
    found = set()
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found.add(prefix + key)
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_page_has_every_key_of_a_composed_configuration(scenario: str) -> None:
    composed = leaves(
        to_json(compose([f"scenario={scenario}", "scenario.slo.ttft_ms=500", "model=auto", "gpu=auto"]))
    )
    assert sorted(composed - first_cells("keys.md")) == []


def test_the_page_has_every_key_of_the_schema() -> None:
    keys = reference_tables.all_keys()
    assert len(keys) > 100
    assert sorted(set(keys) - first_cells("keys.md")) == []


def test_a_key_without_words_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_tables, "field_words", lambda _cls: {})
    with pytest.raises(KeyError):
        reference_tables.keys()


def test_no_key_stands_twice_in_a_section() -> None:
    for section in re.split(r"^#+ ", reference_tables.keys(), flags=re.M):
        rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        assert sorted({row for row in rows if rows.count(row) > 1}) == []


def test_the_page_has_every_command_and_exit_code() -> None:
    text = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in COMMANDS if f"## `wattcount {name}`" not in text] == []
    codes = {str(value) for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {line.split("|")[1].strip() for line in text.splitlines() if re.match(r"\| \d+ \|", line)} == codes


def variables_of_the_code() -> set[str]:
    """Names of environment variables that stand in the code as texts of their own."""
    found = set()
    for file in (ROOT / "wattcount").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"^WATTCOUNT_[A-Z_]+$", node.value))
    for file in (ROOT / "csrc").rglob("*.cpp"):
        found |= set(re.findall(r'getenv\("([A-Z_]+)"\)', file.read_text()))
    return found


def test_the_page_has_every_environment_variable() -> None:
    found = variables_of_the_code()
    assert {"WATTCOUNT_HOME", "WATTCOUNT_NVML_PATH"} <= found
    text = (ROOT / "docs" / "commands.md").read_text()
    assert sorted(name for name in found if f"`{name}`" not in text) == []


def test_the_page_names_no_environment_variable_that_nothing_reads() -> None:
    code = "\n".join(file.read_text() for file in (ROOT / "wattcount").rglob("*.py"))
    named = {name for name in first_cells("commands.md") if re.fullmatch(r"[A-Z][A-Z_]+", name)}
    assert "HF_TOKEN" in named
    # MLflow reads these two itself; wattcount names them in what it says.
    assert sorted(name for name in named if name not in code) == []


def test_each_column_of_a_record_has_words() -> None:
    assert {file: list(words) for file, words in COLUMNS.items()} == {
        file: pa.schema(table).names for file, table in TABLES.items()
    }
    assert set(FILES) == set(TABLES)


def test_words_stand_below_what_they_explain() -> None:
    words = schema_words.constant_words(errors)
    assert words["EXIT_OK"].startswith("All was done")
    assert schema_words.first_sentence("One\n  two. Three.") == "One two."
