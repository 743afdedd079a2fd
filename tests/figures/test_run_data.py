from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun, steady_requests

from wattcount.config.schema import SloConfig
from wattcount.figures.labels import MOST_CHARACTERS
from wattcount.figures.run_data import definitions, run_page
from wattcount.metrics import load_metrics
from wattcount.metrics.metrics_json import FINDINGS, METRICS
from wattcount.records import Record
from wattcount.records.schema import Validity


def a_record(tmp_path: Path, **given: object) -> Record:
    return Record.open(SyntheticRun(**given).write(tmp_path / "r0-x"))  # type: ignore[arg-type]


def test_it_has_every_figure_with_its_value_and_the_reason_where_there_is_none(tmp_path: Path) -> None:
    record = a_record(tmp_path)
    content = load_metrics(record)
    figures = {key: (value, why) for key, value, _, _, why in run_page(record)["figures"]}
    assert set(figures) == set(content["metrics"])
    for key, value in content["metrics"].items():
        assert figures[key][0] == value
        assert (figures[key][1] is None) == (value is not None)


def test_every_figure_finding_and_reason_is_defined(tmp_path: Path) -> None:
    told, page = definitions(), run_page(a_record(tmp_path))
    for key, _, _, _, why in page["figures"]:
        assert key in told["figures"] or key.startswith("energy_by_gpu/")
        assert why in (None, *told["null_reasons"])
    assert set(told["findings"]) == set(FINDINGS)
    assert all(told["findings"][code]["to_do"] for code in FINDINGS)
    assert set(METRICS) <= set(told["figures"])


def test_every_finding_of_the_run_is_there(tmp_path: Path) -> None:
    record = a_record(tmp_path, requests=steady_requests(lag_ms=2000.0))
    stored = load_metrics(record)["validity"]["findings"]
    page = run_page(record)
    assert [one["code"] for one in page["findings"]] == [one["code"] for one in stored]
    assert "generator_lagging" in {one["code"] for one in stored}


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    record = a_record(
        tmp_path, complete=False, validity=Validity(False, ["engine_died"], ["the engine died"])
    )
    assert run_page(record)["verdict"] == {
        "status": "failed",
        "reasons": ["engine_died"],
        "messages": ["the engine died"],
    }


def test_it_is_json_and_small(tmp_path: Path) -> None:
    text = json.dumps(
        run_page(a_record(tmp_path, slo=SloConfig(ttft_ms=45.0))), allow_nan=False, separators=(",", ":")
    )
    assert len(text) < 100_000


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "\u202ex\x1b[31m", "y" * 10_000])
def test_names_of_others_are_short_text(tmp_path: Path, name: str) -> None:
    page = run_page(a_record(tmp_path, model=name))
    assert len(page["name"]) <= MOST_CHARACTERS
    assert page["name"].isprintable()
