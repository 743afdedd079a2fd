"""The documents build as a site, and a dead link is an error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path, to: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--config-file",
            str(folder / "mkdocs.yml"),
            "--site-dir",
            str(to),
        ],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        text=True,
        capture_output=True,
        check=False,
    )


def test_the_documents_build_and_fetch_nothing(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text()
        assert 'src="http' not in text, page.name
        assert 'rel="stylesheet" href="http' not in text, page.name


def test_a_dead_link_is_an_error(tmp_path: Path) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "glossary.md").open("a") as page:
        page.write("\n[a](none.md) [b](keys.md#no-such-section)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "none.md" in done.stderr
    assert "#no-such-section" in done.stderr
