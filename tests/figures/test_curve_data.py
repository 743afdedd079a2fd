from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_record import SyntheticRun, steady_requests

from tests.site.sample import results
from wattcount.figures.curve_data import MOST_REQUESTS, curves_page, latencies_of
from wattcount.records import Record
from wattcount.study.comparison import Scatters, cells
from wattcount.study.curves import Curve, curves
from wattcount.study.questions import USUAL_SLO


def some_curves() -> list[Curve]:
    found = cells(results())
    return curves(found, Scatters(found), USUAL_SLO)


def test_points_are_those_of_the_study_and_nothing_lies_between() -> None:
    found = some_curves()
    page = curves_page(found, {})
    assert len(page["curves"]) == len(found) > 0
    for curve, told in zip(found, page["curves"], strict=True):
        assert [point["rate_rps"] for point in told["points"]] == [point.rate_rps for point in curve.points]
        assert [point["j_per_token"] for point in told["points"]] == [
            pytest.approx(point.per_token.value, rel=1e-4) for point in curve.points
        ]
        assert all(point["percentiles"]["ttft"] == [40, 60, 90] for point in told["points"])


def test_requests_are_kept_where_they_are_known_and_others_are_told_by_percentiles() -> None:
    found = some_curves()
    known = found[0].points[0].cell.runs[0].run_id
    assert known is not None
    latencies = np.array([[10.0, np.inf, 30.0], [5.0, np.inf, np.nan], [100.0, np.inf, 30.0]])
    page = curves_page(found, {known: latencies})
    first, *others = (point for curve in page["curves"] for point in curve["points"])
    assert first["of"] == 3
    assert first["requests"] == {"ttft": [10, -1, 30], "tpot": [5, -1, None], "e2e": [100, -1, 30]}
    assert not any("requests" in point for point in others)


def test_of_many_requests_evenly_chosen_ones_are_kept() -> None:
    found = some_curves()
    known = found[0].points[0].cell.runs[0].run_id
    assert known is not None
    latencies = np.tile(np.arange(1.0, 1001.0), (3, 1))
    point = curves_page(found, {known: latencies})["curves"][0]["points"][0]
    kept = point["requests"]["ttft"]
    assert point["of"] == 1000
    assert len(kept) == MOST_REQUESTS
    assert (kept[0], kept[-1]) == (1, 1000)
    assert np.mean(kept) == pytest.approx(500.5, rel=0.01)


def test_latencies_of_a_record_are_those_of_its_figures(tmp_path: Path) -> None:
    record = Record.open(SyntheticRun(requests=steady_requests(ttft_ms=40.0)).write(tmp_path / "r0-x"))
    found = latencies_of(record)
    assert found is not None
    assert found.shape[0] == 3
    assert np.allclose(found[0], 40.0)


def test_a_batch_has_no_latencies_that_an_slo_speaks_of(tmp_path: Path) -> None:
    record = Record.open(SyntheticRun(scenario="batch").write(tmp_path / "r0-x"))
    assert latencies_of(record) is None
