"""The tables of docs/ that are quick to make are those of today."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import make_docs  # noqa: E402


@pytest.mark.parametrize("file", make_docs.TABLES)
def test_the_docs_have_the_tables_of_today(file: str) -> None:
    text = (ROOT / "docs" / file).read_text()
    assert make_docs.filled(file, text) == text, "run `make docs`, or tools/make_docs.py"


@pytest.mark.parametrize("file", make_docs.PICTURES)
def test_the_docs_have_the_pictures_of_today(file: str) -> None:
    assert make_docs.PICTURES[file]() == (ROOT / "docs" / "images" / file).read_text(), "run `make docs`"


def test_missing_markers_are_an_error() -> None:
    with pytest.raises(SystemExit, match=r"docs/catalogue\.md: the markers of the table models are missing"):
        make_docs.filled("catalogue.md", "no tables here")
