"""What a plan expects of a run, by data sheets and by records like it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from wattcount.config.composition import compose
from wattcount.metrics.verdict import Status
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.sweep.estimate import Estimate, Estimator, predict
from wattcount.sweep.index import RecordIndex


def result(wall_s: float, status: Status = Status.valid, evidence: str = "measured") -> Result:
    return Result(
        planned_point="point",
        status=status,
        evidence=Evidence(evidence),
        wall_s=wall_s,
        run_energy_j=10 * wall_s,
    )


def test_of_records_like_it_the_mean() -> None:
    records = [
        result(10.0),
        result(20.0),
        result(900.0, Status.failed),
        result(900.0, evidence="emulated"),
    ]
    estimator = Estimator(RecordIndex(records))
    found = estimator.estimate("point", compose(["model=tiny"]), {"evidence": "measured"})
    assert found == Estimate(15.0, 150.0, "measured")


def test_without_any_by_the_data_sheet() -> None:
    estimator = Estimator(RecordIndex(()))
    found = estimator.estimate("point", compose(["model=llama3_8b", "gpu=h200"]), {})
    assert found.basis == "predicted"


# Mean power measured on an H200 with Llama-3-8B's shape, 512 tokens in and 128 out.
@pytest.mark.parametrize(("rate", "window_w"), [(1.0, 252.0), (4.0, 453.0), (16.0, 567.0)])
def test_a_prediction_is_of_the_right_size(rate: float, window_w: float) -> None:
    overrides = ["model=llama3_8b", "gpu=h200", "scenario=server", f"scenario.rate_rps={rate}"]
    short, long = (
        predict(compose([*overrides, f"scenario.window_s={seconds}"])) for seconds in (60.0, 160.0)
    )
    assert long.wall_s - short.wall_s == pytest.approx(100.0)
    assert short.energy_j is not None
    assert long.energy_j is not None
    assert (long.energy_j - short.energy_j) / 100.0 == pytest.approx(window_w, rel=0.35)


def test_more_gpus_and_slower_gpus_take_their_share() -> None:
    one = predict(compose(["model=llama3_8b", "gpu=h200", "scenario=batch"]))
    slow = predict(compose(["model=llama3_8b", "gpu=l4", "scenario=batch"]))
    assert slow.wall_s > 1.5 * one.wall_s


def test_a_run_on_an_engine_that_is_up_takes_less() -> None:
    cfg = compose(["model=llama3_8b", "gpu=h200", "scenario=server"])
    first, further = predict(cfg), predict(cfg, follows=True)
    scenario = cfg.scenario
    assert first.wall_s - further.wall_s > scenario.bare_idle_s + scenario.bare_idle_after_s + 20.0
    assert (further.energy_j or 0.0) < (first.energy_j or 0.0)
    alone, follower = result(90.0), replace(result(30.0), session="the first", run_id="the second")
    estimator = Estimator(RecordIndex([alone, follower]))
    assert estimator.estimate("point", cfg, {}).wall_s == 90.0
    assert estimator.estimate("point", cfg, {}, follows=True).wall_s == 30.0
    assert Estimator(RecordIndex([alone])).estimate("point", cfg, {}, follows=True) == further
