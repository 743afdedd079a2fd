"""One more reader that knows nothing of wattcount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset.conftest import DAY
from wattcount.dataset.store import Dataset, Submission
from wattcount.result import Result

pytestmark = pytest.mark.slow
pl = pytest.importorskip("polars", reason="polars is not installed: make setup-all")


def test_polars_reads_it(
    dataset: Dataset, submission: Callable[..., Submission], measured: list[Result]
) -> None:
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 2), DAY)
    found = pl.read_parquet(Path(dataset.where) / "results" / "*.parquet")
    expected = [r.value("energy/gpu_j_per_output_token") for r in (*measured[:3], *measured[10:12])]
    assert sorted(found["energy_gpu_j_per_output_token"]) == sorted(expected)
    assert set(found["gpus"][0]) == set(measured[0].gpus)
