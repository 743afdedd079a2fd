"""The folder of pages: whole, the same each time, within itself, and deaf to what strangers call things."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.site.sample import data_of, result, source
from wattcount.errors import NotStartedError
from wattcount.site.builder import build
from wattcount.site.pages import PAGES

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</script><script>alert(1)//",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u2028\u2029\x1b[31mred\x07",
    '=HYPERLINK("http://x")',
    "x" * 10_000,
)
"""What strangers may call a model, a GPU, themselves."""


class Elements(HTMLParser):
    """The elements of a page, each with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build(source(), out)
    return out


def test_every_page_is_there_and_links_only_to_what_is_there(site: Path) -> None:
    for page in PAGES:
        for tag, attributes in Elements((site / page.file).read_text()).found:
            for name in ("href", "src"):
                target = (attributes.get(name) or "").partition("#")[0]
                if target:
                    assert (site / target).is_file(), f"{page.file}: <{tag} {name}={target}>"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*"):
        if file.suffix in (".html", ".css"):
            text = file.read_text()
            assert "//" not in re.sub(
                r"/\*.*?\*/|<svg xmlns[^>]*>|Content-Security-Policy[^>]*>", "", text, flags=re.S
            ).replace("</", ""), file
    for page in PAGES:
        text = (site / page.file).read_text()
        assert "default-src 'none'" in text
        assert not re.search(r"<script(?![^>]*src=)", text), "no script stands within a page"
        assert not any(name.startswith("on") for _, attributes in Elements(text).found for name in attributes)


def test_the_same_results_give_the_same_bytes(site: Path, tmp_path: Path) -> None:
    build(source(), tmp_path)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}


def test_pages_are_made_for_screen_readers(site: Path) -> None:
    for page in PAGES:
        found = Elements((site / page.file).read_text()).found
        tags = [tag for tag, _ in found]
        assert tags.count("h1") == 1, page.file
        assert tags.count("main") == 1
        assert dict(found)["html"]["lang"] == "en"
        assert all(attributes.get("scope") for tag, attributes in found if tag == "th"), page.file
        assert tags.count("table") == tags.count("caption"), page.file
        ids = [attributes["id"] for _, attributes in found if "id" in attributes]
        assert len(ids) == len(set(ids)), page.file


def test_names_of_strangers_do_nothing(tmp_path: Path) -> None:
    more = [
        result(
            model=name,
            gpu=name,
            start=at,
            levers=(name,),
            by=name,
            engine=name,
            particulars=(name,),
            scenario=name,
            host=name,
        )
        for at, name in enumerate(HOSTILE)
    ]
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    build(source(result(model="m", gpu="g")), plain)
    build(source(*more, name=HOSTILE[0]), hostile)
    for page in PAGES:
        text = (hostile / page.file).read_text()
        tags = {tag for tag, _ in Elements(text).found}
        assert tags <= {tag for tag, _ in Elements((plain / page.file).read_text()).found} | {"small"}, (
            page.file
        )
        assert "\x1b" not in text
        assert not set("\u202e\u2028\u2029\x07") & set(text)
        assert "x" * 1000 not in text
        assert not any(name.startswith("on") for _, attributes in Elements(text).found for name in attributes)
    for script in (hostile / "data").glob("*.js"):
        assert "<" not in script.read_text(), script.name
        assert "x" * 1000 not in json.dumps(data_of(script)), script.name


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotStartedError, match="cannot be written"):
        build(source(), tmp_path / "file")


def test_no_result_at_all_gives_pages_that_say_so(tmp_path: Path) -> None:
    from wattcount.site.source import Source

    build(Source("empty", []), tmp_path)
    assert "no result" in (tmp_path / "index.html").read_text().lower()
