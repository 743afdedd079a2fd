"""Manifests: written and read alike, and nothing else is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from wattcount.dataset.version import ADD, Change, DatasetError, FileFacts, Version, changelog, plain
from wattcount.errors import NotStartedError, WattcountError
from wattcount.records.schema import Evidence

FIRST = Version.first("test", Evidence.MEASURED, "2026-11-28")
SECOND = FIRST.next(
    Change(2, "2026-11-29", ADD, "a" * 16, "someone", "wattcount", "accepted", 3),
    {f"results/{'a' * 16}.parquet": FileFacts("0" * 64, 100, 3)},
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    for version in (FIRST, SECOND):
        assert Version.of_bytes(version.to_bytes(), "x") == version
    assert SECOND.previous_sha256 == FIRST.sha256
    assert SECOND.num_results == 3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("evidence", "dreamt"),
        ("version", 0),
        ("version", True),
        ("previous_sha256", "abc"),
        ("changes", [{"version": 1, "date": "x", "what": "explode"}]),
        ("changes", [{"version": 1, "date": "x", "what": "init", "more": 1}]),
        ("changes", "init"),
        ("files", {"../../etc/passwd": {"sha256": "0" * 64, "num_bytes": 1}}),
        ("files", {"/etc/passwd": {"sha256": "0" * 64, "num_bytes": 1}}),
        ("files", {"results/../../x": {"sha256": "0" * 64, "num_bytes": 1}}),
        ("files", {"results/x": {"sha256": "0" * 63, "num_bytes": 1}}),
        ("files", {"results/x": {"sha256": "0" * 64, "num_bytes": -1}}),
        ("files", ["results/x"]),
        ("name", None),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(key: str, value: Any) -> None:
    content = json.loads(SECOND.to_bytes())
    content[key] = value
    with pytest.raises(DatasetError, match="is damaged"):
        Version.of_bytes(json.dumps(content).encode(), "somewhere")


def test_a_layout_to_come_says_how_to_read_it() -> None:
    content = json.loads(FIRST.to_bytes()) | {"layout_version": 2}
    with pytest.raises(NotStartedError, match="pip install -U wattcount"):
        Version.of_bytes(json.dumps(content).encode(), "x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"layout_version": true}', b"[" * 9999])
def test_what_is_no_manifest(content: bytes) -> None:
    with pytest.raises(WattcountError):
        Version.of_bytes(content, "x")


def test_the_changelog_shows_text_of_others_as_text() -> None:
    hostile = Change(
        3, "2026-11-30", "withdraw", "a" * 16, num_results=1, results=("b",), reason="<img> *x*\x1b[2J\n# y"
    )
    text = changelog(SECOND.next(hostile, {}))
    assert text.splitlines()[2].startswith("- version 3")
    assert r"\<img\> \*x\*?\[2J \# y" in text
    assert plain("a|b") == r"a\|b"
    assert "added 3 results of someone" in text
