"""A data set's history on the pages: who submitted what, and what became of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.site.source import Source
from wattcount.site.submissions import Submission, submissions

DATASET = Path(__file__).resolve().parents[2] / "data" / "dataset"


@pytest.fixture(scope="module")
def source() -> Source:
    return Source.of_dataset(DATASET)


def test_every_addition_is_a_submission_the_newest_first(source: Source) -> None:
    assert source.version is not None
    found = submissions(source)
    assert [one.id for one in found] == [
        c.submission for c in reversed(source.version.changes) if c.what == "add"
    ]
    assert sum(one.change.num_results for one in found) == len(source.entries)


def test_verdicts_and_tiers_are_counted(source: Source) -> None:
    flagged = [one for one in submissions(source) if one.change.decision == "flagged"]
    assert flagged
    for one in flagged:
        assert sum(one.counts.values()) == one.change.num_results
        assert sum(one.tier.values()) <= one.change.num_results
        assert one.rules


def test_entries_have_the_ids_of_the_data_set(source: Source) -> None:
    assert len({entry.id for entry in source.entries}) == len(source.entries)
    assert all(len(entry.id) == 16 for entry in source.entries)
    with source.records() as each:
        entry, folder = next(each)
    assert isinstance(folder, Path)
    assert (folder / "run.json").is_file()
    assert entry.place is not None


def test_a_document_of_strangers_may_be_anything(source: Source) -> None:
    assert source.version is not None
    change = source.version.changes[-1]
    for document in ({}, {"verdict": "x"}, {"verdict": {"counts": [1], "breaches": {}}}, {"source": 3}):
        one = Submission(change, document, {}, {})
        assert one.counts == {}
        assert one.said("source", "title") is None
