"""One row a run: what it says of our own records, and what it can say of runs that have none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic_record import SyntheticRun, request

from wattcount.config.composition import compose
from wattcount.config.identity import key_of
from wattcount.config.schema import Weights
from wattcount.metrics import load_metrics
from wattcount.metrics.metrics_json import Status
from wattcount.records import Record
from wattcount.records.schema import Evidence, Validity
from wattcount.report.summary import _findings
from wattcount.result import Result, judge
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import ABSTAINED
from wattcount.result.table import of_arrow, write_table

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDS = sorted(file.parent for file in DATA.glob("*/records/*/*/run.json"))


def result_of(run: SyntheticRun, folder: Path) -> Result:
    return Result.of(Record.open(run.write(folder)))


def test_a_record_says_who_measured_what_where(tmp_path: Path) -> None:
    result = result_of(SyntheticRun(gpus=2, weights=Weights.random, evidence=Evidence.EMULATED), tmp_path)
    assert (result.model, result.weights, result.weights_kind) == ("llama3_8b", "random", "random")
    assert (result.kind, result.rate_rps, result.num_requests, result.window_s) == ("server", 4.0, None, 60.0)
    assert result.gpus == ("NVIDIA H200", "NVIDIA H200")
    assert (len(set(result.boards)), result.host, result.driver) == (2, "node1", "580.159")
    assert (result.evidence, result.origin, result.instrument) == (Evidence.EMULATED, "wattcount", "nvml")
    assert (result.record, result.engine, result.engine_version) == (tmp_path, "vllm", "0.32.0")
    assert (result.status, result.valid, result.reasons) == (Status.valid, True, ())
    assert Result.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_figures_have_their_uncertainty_or_a_reason(tmp_path: Path) -> None:
    result = result_of(SyntheticRun(), tmp_path)
    energy_j, per_token_j = result.value("energy/gpu_j"), result.value("energy/gpu_j_per_output_token")
    u95_j = result.u95("energy/gpu_j")
    assert energy_j == pytest.approx(18_000)
    assert u95_j is not None
    assert per_token_j is not None
    assert u95_j == result.value("energy/gpu_j_u95")
    assert result.u95("energy/gpu_j_per_output_token") == pytest.approx(u95_j * per_token_j / 18_000)
    assert result.u95("power/gpu_mean_w") == pytest.approx(u95_j / 60)
    assert result.u95("latency/ttft_p50_ms") is None
    assert result.value("energy/batch_gpu_j") is None
    assert result.null_reasons["energy/batch_gpu_j"] == "not_a_batch"


def test_a_run_that_broke_off_says_why(tmp_path: Path) -> None:
    run = SyntheticRun(validity=Validity(False, ["engine_died"], ["it died"]), complete=False, phases=[])
    result = result_of(run, tmp_path)
    assert (result.status, result.reasons[0], result.messages[0]) == (Status.failed, "engine_died", "it died")
    assert result.codes[0] == "engine_died"
    assert result.value("energy/gpu_j") is None
    assert (result.wall_s, result.run_energy_j) == (None, None)


def test_a_result_needs_no_record() -> None:
    result = Result(origin="someone", instrument="wall", metrics={"power/gpu_mean_w": 300.0})
    assert result.valid
    assert result.record is None
    assert result.setting_key is None
    assert result.value("energy/gpu_j") is None


def test_every_record_in_data_is_a_result_with_the_figures_of_its_metrics() -> None:
    assert len(RECORDS) >= 163
    for path in RECORDS:
        record = Record.open(path)
        content = load_metrics(record)
        result = Result.of(record, content)
        assert result.metrics == content["metrics"]
        assert result.null_reasons == content["null_reasons"]
        assert [finding.to_json() for finding in result.findings] == content["validity"]["findings"]
        assert result.valid == content["validity"]["valid"]
        assert result.setting_key is not None
        assert len(result.gpus) == len(result.boards) == len(record.info.gpus) > 0
        unknown = {item.name for item in dataclasses.fields(result) if getattr(result, item.name) is None}
        assert unknown <= {"num_requests", "rate_rps", "by", "log_line", "run_energy_j", "wall_s", "window_s"}


def test_repeats_of_one_setting_meet_whatever_the_board_and_the_day() -> None:
    """The 118 records of h100 and h200 have 87 settings: their repeats were on other boards and days."""
    results = [Result.of(Record.open(path)) for path in RECORDS if path.parents[2].name in ("h100", "h200")]
    settings = {result.setting_key for result in results}
    assert (len(results), len(settings)) == (118, 87)
    assert len({result.point_id for result in results}) > len(settings)
    assert {key_of(result.setting) for result in results} == settings
    assert len({key_of(result.setting, ["gpu.found_name"]) for result in results}) == 67


def predicted() -> Result:
    cfg = compose(["model=llama3_8b", "gpu=h100", "scenario=server", "scenario.rate_rps=4"])
    return Result.predicted(
        cfg, {PER_TOKEN: 0.5, WATTS: None}, {PER_TOKEN: (0.4, 0.6), WATTS: None}, "a guess"
    )


def test_a_predicted_row_carries_its_interval_and_basis_and_is_no_measurement(tmp_path: Path) -> None:
    row = predicted()
    assert row == predicted()
    assert (row.evidence, row.is_measured, row.record, row.valid) == (Evidence.PREDICTED, False, None, True)
    assert (row.model, row.gpus, row.rate_rps, row.weights) == (
        "llama3_8b",
        ("NVIDIA H100 80GB HBM3",),
        4.0,
        None,
    )
    assert (row.value(PER_TOKEN), row.interval(PER_TOKEN), row.energy_basis) == (
        0.5,
        (0.4, 0.6),
        ("a guess",),
    )
    assert row.interval(WATTS) is None
    assert row.setting["evidence"] == "predicted"  # so no measurement shares its setting
    none = Result.not_predicted("llama9", "h100", "no such model")
    assert (none.valid, none.reasons, none.messages) == (False, (ABSTAINED,), ("no such model",))
    write_table([row, none], tmp_path / "rows.parquet")
    read = of_arrow(pq.read_table(tmp_path / "rows.parquet"), [None, None])
    assert read == [row, none]


def test_a_generator_that_lagged_says_of_a_valid_run_what_it_means_there(tmp_path: Path) -> None:
    rows = [request(number, 40.0 + number * 0.25, lag_ms=20.0) for number in range(240)]
    found = judge(SyntheticRun(requests=rows).write(tmp_path / "valid"))
    assert found.valid
    [remark] = found.remarks
    assert remark.code == "generator_lagging"
    assert found.mild_messages == (remark.message,)
    assert "p99 20 ms where 12.5 ms are allowed" in remark.message
    assert "the load was not the one asked for" not in " ".join(text for text, _ in _findings(found))
