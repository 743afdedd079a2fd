"""Skips as failures, in a pytest of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import no_skips
import pytest

TESTS = """
import pytest

def test_that_passes(): pass

def test_whose_data_is_not_here(): pytest.skip("the Azure traces are not in /nowhere; set something")

def test_that_nobody_runs(): pytest.skip("no database here")

@pytest.mark.skipif(True, reason="not today")
def test_that_is_left_out(): pass

@pytest.mark.xfail(reason="known")
def test_that_fails_as_expected(): assert False
"""
MODULE = 'import pytest; pytest.importorskip("no_such_module_anywhere", reason="needs a module")\ndef test_there(): pass'


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", {"passed": 1, "skipped": 4, "xfailed": 1}),
        ("1", {"passed": 1, "failed": 1, "skipped": 1, "xfailed": 1, "errors": 2}),
    ],
)
def test_a_skip_that_is_not_listed_fails(
    tmp_path: Path, value: str, expected: dict[str, int], workers: tuple[str, ...]
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text(MODULE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no_skips", "-p", "no:cacheprovider", "--continue-on-collection-errors", *workers],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {no_skips.ENV: value, "PYTHONPATH": str(Path(no_skips.__file__).parent)},
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert {word: int(count) for count, word in re.findall(r"(\d+) ([a-z]+)", last)} == expected, done.stdout
    assert done.returncode == (1 if value else 0)
    if value:
        assert "no database here (with WATTCOUNT_NO_SKIPS a skip is a failure" in done.stdout
