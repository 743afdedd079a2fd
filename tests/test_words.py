"""Words that mean one thing each (docs/architecture.md)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = re.compile(r"\.studies|wattcount\.study(_id)?\b|\"study\"|`study\.\w+`")
"""Names on disk and in MLflow that earlier versions gave, which are read; the package that analyses results, its modules and its command."""
ABOUT_ONE = ("wattcount/cli/study.py",)
"""What is about the analysis of a data set."""
PLACES = (
    "wattcount/sweep",
    "wattcount/tracking",
    "wattcount/cli",
    "conf",
    "docs/sweeps.md",
    "docs/status.md",
    "docs/clusters.md",
)


@pytest.mark.parametrize("place", PLACES)
def test_a_sweep_is_not_called_a_study(place: str) -> None:
    """A study is an analysis of a data set."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line}"
        for path in [ROOT / place, *(ROOT / place).rglob("*")]
        if path.suffix in (".py", ".yaml", ".md") and str(path.relative_to(ROOT)) not in ABOUT_ONE
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"stud(y|ies)", ALLOWED.sub("", line), re.IGNORECASE)
    ]
    assert found == []
    named = [str(path.relative_to(ROOT)) for path in (ROOT / place).rglob("*stud*") if path.suffix != ".pyc"]
    assert [path for path in named if path not in ABOUT_ONE] == []
