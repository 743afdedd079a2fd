"""Results of real records, and data sets of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from wattcount.dataset.store import Dataset, Submission
from wattcount.records.schema import Evidence
from wattcount.result import Result, results

CAMPAIGN = Path(__file__).resolve().parents[2] / "data" / "campaign" / "records"
DAY = "2026-11-28"


@pytest.fixture(scope="session")
def measured() -> list[Result]:
    """Results of a real campaign."""
    return results(CAMPAIGN, keep=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.init(tmp_path / "ds", "test", DAY, Evidence.MEASURED)


@pytest.fixture
def submission(measured: list[Result]) -> Callable[..., Submission]:
    """Makes a submission of `count` results, from the `first` on."""

    def make(first: int = 0, count: int = 3, **other: object) -> Submission:
        chosen = measured[first : first + count]
        values = {
            "id": f"{first:016x}",
            "handle": "someone",
            "licence": "CC-BY-4.0",
            "decision": "accepted",
            "results": chosen,
            "records": [(f"bundles/x.wattcount#records/{r.run_id}", "0" * 64) for r in chosen],
            "document": {"handle": "someone"},
        }
        return Submission(**(values | other))  # type: ignore[arg-type]

    return make
