"""A maintainer draws the next cohort."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wattcount.config.cohorts import Cohort

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from make_cohort import cohort_text


def test_a_drawn_cohort_can_be_read_and_differs_from_the_next(tmp_path: Path) -> None:
    file = tmp_path / "2028_q1.yaml"
    seeds = set()
    for _ in range(3):
        file.write_text(cohort_text("2028_q1"))
        cohort = Cohort.read(file)
        assert (str(cohort.begins), str(cohort.ends)) == ("2028-01-01", "2028-03-31")
        seeds.add(cohort.seed)
    assert len(seeds) > 1


def test_only_a_quarter_is_a_name() -> None:
    with pytest.raises(ValueError, match="is no quarter"):
        cohort_text("2028_q5")
