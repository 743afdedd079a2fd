"""The scatter of starts that single runs are told of is that of the records in data/."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import start_scatter  # noqa: E402

from wattcount.result.host_part import START_SCATTER  # noqa: E402


def test_the_constants_are_those_of_the_data() -> None:
    assert start_scatter.measured() == START_SCATTER, (
        "paste what `python tools/start_scatter.py` prints into wattcount/result/host_part.py, then run tools/make_docs.py"
    )


def test_what_is_printed_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    start_scatter.main()
    printed = capsys.readouterr().out
    assert printed in (ROOT / "wattcount/result/host_part.py").read_text()
