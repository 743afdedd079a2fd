"""Links within README.md and docs/ lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from wattcount.importers import IMPORTERS
from wattcount.metrics.metrics_json import METRICS_VERSION

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading.lstrip("#").strip().lower())
    return re.sub(r"[^\w\- ]", "", text.replace("`", "").replace("*", "")).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line) for line in page.read_text().splitlines() if line.startswith("#")}


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    dead = []
    for link in LINK.findall(page.read_text()):
        if "://" in link:
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            dead.append(link)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_every_page_is_found_from_the_first_ones(page: Path) -> None:
    index = ROOT / "docs" / "index.md"
    assert f"(docs/{page.name}" in PAGES[0].read_text() or f"({page.name}" in index.read_text()


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `two`: *three*\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md#one-two-three) [b](#here) [c](none.md) [d](other.md#four) [e](https://x.org/#y)"
    )
    assert dead_links(page) == ["none.md", "other.md#four"]


def test_the_map_has_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", quoted)}
    modules = {path.stem for path in (ROOT / "wattcount").rglob("*.py")} - {"__init__", "__main__"}
    # A source of imported results is one file; docs/importing.md has a line for each.
    sources = {Path(str(module.__file__)).stem for module in cast("tuple[ModuleType, ...]", IMPORTERS)}
    assert sorted(modules - named - sources) == []


def test_the_metrics_page_shows_the_version_that_is_written() -> None:
    assert f'{{"metrics_version": {METRICS_VERSION},' in (ROOT / "docs" / "metrics.md").read_text()
