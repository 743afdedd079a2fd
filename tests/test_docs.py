"""Links within README.md and docs/ lead somewhere."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest

from wattcount.dataset.bundle import BUNDLE_SCHEMA_VERSION
from wattcount.engines.vllm.install import SUPPORTED
from wattcount.importers import IMPORTERS
from wattcount.metrics.metrics_json import METRICS_VERSION
from wattcount.records.schema import OLDEST_SCHEMA_VERSION, RECORD_SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ABOUT = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
"""Documents beside README.md that hosts of repositories know by their names."""
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


@pytest.mark.parametrize("page", [*PAGES, *ABOUT], ids=lambda page: page.name)
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


def test_the_versions_that_are_told_are_those_of_the_code() -> None:
    """CHANGELOG.md and docs/supported.md."""
    changes, supported = (ROOT / "CHANGELOG.md").read_text(), (ROOT / "docs" / "supported.md").read_text()
    records = f"| {RECORD_SCHEMA_VERSION} | {OLDEST_SCHEMA_VERSION} to {RECORD_SCHEMA_VERSION} |"
    assert records in changes
    assert f"| figures (`metrics_version` in `metrics.json`) | {METRICS_VERSION} |" in changes
    assert f"| {BUNDLE_SCHEMA_VERSION} | {BUNDLE_SCHEMA_VERSION} |" in changes
    assert f"| vLLM | {SUPPORTED};" in supported


def test_the_metrics_page_shows_the_version_that_is_written() -> None:
    assert f'{{"metrics_version": {METRICS_VERSION},' in (ROOT / "docs" / "metrics.md").read_text()


def test_the_tutorial_explains_each_row_of_the_table_that_it_shows() -> None:
    shown, _, explained = (ROOT / "docs" / "tutorial.md").read_text().partition("<!-- /shown-record -->")
    table = shown.rpartition("───\n")[2].partition("\nEnergy from")[0]
    rows = [re.split(r" {2,}", line.strip())[0].partition(" p50")[0] for line in table.splitlines()]
    cells = {
        line.split(" | ")[0].strip("| ").replace("&nbsp;", "").strip() for line in explained.splitlines()
    }
    assert len(rows) > 10
    assert [row for row in rows if row not in cells] == []


def test_every_page_is_in_the_navigation() -> None:
    named = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted({page.name for page in PAGES[1:]} - set(named)) == []
    assert sorted({name for name in named if named.count(name) > 1}) == []


# -- messages


PLACE = "\0"
"""Stands for what differs in a message."""


@cache
def texts_of_the_code() -> list[str]:
    """Every text of the program, with PLACE for what is put into it."""
    found = []
    for file in (ROOT / "wattcount").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else PLACE for p in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [" ".join(text.split()) for text in found]


def messages_of_the_page() -> list[str]:
    """What stands in the first column of the tables under `message`."""
    found, of_messages = [], False
    for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines():
        if not line.startswith("|"):
            of_messages = False
        elif line.startswith("| message"):
            of_messages = True
        elif of_messages and not line.startswith("| ---"):
            found.append(line.split(" | ")[0].removeprefix("| ").removeprefix("`").removesuffix("`"))
    return found


def is_said(message: str, texts: list[str]) -> bool:
    """Whether one text of the program has all parts of a message, in their order."""
    parts = [part.strip() for part in message.split("…") if part.strip()]
    wanted = re.compile(".*".join(map(re.escape, parts)), re.S)
    return any(wanted.search(text) for text in texts)


def test_every_message_of_the_page_is_said_by_the_program() -> None:
    messages, texts = messages_of_the_page(), texts_of_the_code()
    assert len(messages) > 30
    assert [message for message in messages if not is_said(message, texts)] == []


def test_a_message_that_the_program_does_not_say_is_found() -> None:
    texts = texts_of_the_code()
    assert is_said("model … does not fit this machine's free memory: …", texts)
    assert not is_said("model … is too large for …", texts)
