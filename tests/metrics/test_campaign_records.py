"""Records of real GPUs with settings as they are deployed (data/campaign, data/servers): what was computed from them then is what is computed now."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import stored_figures

from wattcount.metrics import compute
from wattcount.records import Record
from wattcount.records.schema import Evidence
from wattcount.result import judge

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDS = sorted(path for name in ("campaign", "servers") for path in (DATA / name / "records").glob("*/*/"))
STOOD_STILL = {"01ab58f309fb": 1, "2295b88ee73c": 1, "7bec7d4fb14e": 1, "ed299b5f96fc": 1, "fccc8c7a1ff8": 1}
"""Invalid runs by point: gpt-oss-20b's shape still compiled kernels in their windows."""
LAGGED = {"0c1f3fcc4919": 1, "5dddea1ebc1c": 1, "a0ed08135d60": 1}
"""Invalid runs by point: 64 requests/s on an H100, more than it serves, and one of 48; the load was sent late."""


@pytest.fixture(params=RECORDS, ids=lambda path: f"{path.parent.name}-{path.name[:2]}")
def record(request: pytest.FixtureRequest) -> Record:
    return Record.open(request.param)


def test_metrics_are_a_function_of_the_raw_files(record: Record) -> None:
    record.verify()
    stored_figures.check(compute(record), json.loads((record.path / "metrics.json").read_text()))


def test_they_are_measured_and_hold_what_the_engine_chose(record: Record) -> None:
    assert record.info.evidence is Evidence.MEASURED
    engine, details = record.info.config["engine"], record.info.engine["details"]
    for name in ("max_num_seqs", "max_num_batched_tokens"):
        assert engine[name] == details[name]


def test_the_invalid_ones_are_known() -> None:
    invalid: dict[str, int] = {}
    for path in RECORDS:
        if not judge(path).valid:
            invalid[path.parent.name] = invalid.get(path.parent.name, 0) + 1
    assert invalid == STOOD_STILL | LAGGED
