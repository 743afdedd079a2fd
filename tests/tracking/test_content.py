"""What MLflow is told, without MLflow."""

import json

import numpy as np
import pytest
from synthetic_record import T0_NS, UTC_NS, SyntheticRun, at, observation, steady_requests

from wattcount.config.schema import Weights
from wattcount.config.validation import OWN_TAGS, is_own
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase, PhaseSpan, Validity
from wattcount.result import Result
from wattcount.tracking import content


def record_of(run: SyntheticRun, folder) -> Record:
    return Record.open(run.write(folder))


def test_params_are_flat_strings_without_paths_and_data_sheets():
    found = content.params(SyntheticRun().config())
    assert found["model.name"] == "llama3_8b"
    assert found["scenario.rate_rps"] == "4.0"
    assert found["scenario.lengths.input_tokens"] == "512"
    assert found["engine.tensor_parallel_size"] == "1"
    assert found["scenario.lengths.force_output"] == "true"
    assert (found["seed"], found["repeat"]) == ("0", "0")
    assert all(isinstance(value, str) for value in found.values())
    assert {key for key in found if key.startswith("gpu.")} == {"gpu.name", "gpu.count", "gpu.found_name"}
    for word in ("tracking", "display", "records_dir", "source"):
        assert not any(word in key for key in found), word


def test_the_params_that_runs_are_compared_by_come_first_and_housekeeping_not_at_all():
    found = list(content.params(SyntheticRun().config()))
    assert found[:4] == ["model.name", "gpu.name", "gpu.count", "scenario.name"]
    assert found.index("model.weights") < 20
    for word in ("dry_run", "resume", "buffer_mib", "attempts", "cooldown", "heartbeat"):
        assert not any(word in key for key in found), word


def test_the_main_figures_come_first_energy_per_token_in_mj(tmp_path):
    found = list(content.metrics(Result.of(record_of(SyntheticRun(), tmp_path))))
    assert found[:3] == [
        "energy/gpu_mj_per_output_token",
        "energy/gpu_j",
        "energy/gpu_j_per_output_token",
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("gpus", [1, 3])
def test_system_metrics_of_each_gpu(tmp_path, gpus):
    seen = [
        observation(source, second, value, gpu=gpu)
        for gpu in range(gpus)
        for second in range(110)
        for source, value in (("temperature_gpu", 40 + gpu), ("clock_sm", 1500))
    ]
    record = record_of(SyntheticRun(gpus=gpus, observations=[*polled(gpus), *seen]), tmp_path)
    curves = {curve.key: curve for curve in content.system_metrics(record)}
    assert sum(len(curve.t_ns) for curve in curves.values()) <= content.SYSTEM_POINTS
    for gpu in range(gpus):
        assert len(curves[f"system/gpu_{gpu}_power_usage_watts"].values) > 50
        assert curves[f"system/gpu_{gpu}_temperature_celsius"].values == pytest.approx(40 + gpu)
        assert curves[f"system/gpu_{gpu}_clock_sm_mhz"].values == pytest.approx(1500)


def test_long_values_are_cut_with_their_hash():
    config = {
        "engine": {"args": {"huge": "x" * 10_000}},
        "model": {"hf_config": {"a": 1, "b": {"c": [1, 2]}}},
    }
    found = content.params(config)
    assert len(found["engine.args.huge"]) == 6000
    assert "sha256" in found["engine.args.huge"]
    assert json.loads(found["model.hf_config"]) == config["model"]["hf_config"]


def test_keys_hold_only_what_mlflow_allows():
    assert list(content.params({"engine": {"args": {"a=b,c": 1}}})) == ["engine.args.a_b_c"]


def test_tags(tmp_path):
    record = record_of(SyntheticRun(weights=Weights.random, gpus=2), tmp_path)
    found = content.tags(record, Result.of(record))
    expected = {
        "evidence": "measured", "origin": "wattcount", "instrument": "nvml", "model": "llama3_8b",
        "weights": "random", "scenario": "server", "gpu": "2 x NVIDIA H200", "gpu_count": "2", "valid": "true",
        "driver": "580.159", "reasons": "none", "version.vllm": "0.32.0", "host": "node1",
    }  # fmt: skip
    assert expected.items() <= found.items()
    assert found["point_id"] == record.info.point_id
    assert all(isinstance(value, str) and value for value in found.values())


def test_every_tag_is_one_that_no_user_may_give(tmp_path):
    record = record_of(SyntheticRun(), tmp_path / "r")
    keys = content.tags(record, Result.of(record)).keys()
    assert [key for key in keys if not is_own(key)] == []
    assert keys >= OWN_TAGS


def test_tags_of_an_invalid_run_name_the_reasons(tmp_path):
    run = SyntheticRun(
        validity=Validity(False, ["engine_died"], ["died"]),
        observations=[observation("compute_processes", 1, 1)],
    )
    record = record_of(run, tmp_path)
    found = content.tags(record, Result.of(record))
    assert (found["valid"], found["reasons"]) == ("false", "engine_died,foreign_process")


def test_metrics_have_the_hosts_part(tmp_path):
    result = Result.of(record_of(SyntheticRun(), tmp_path))
    found = content.metrics(result)
    assert (
        found["energy/gpu_j_per_output_token_u95_host"]
        == result.u95_host("energy/gpu_j_per_output_token")
        > 0
    )
    assert found["power/gpu_mean_w_u95_host"] == result.u95_host("power/gpu_mean_w") > 0
    assert "energy/batch_gpu_j" not in found  # null
    assert all(isinstance(value, float) for value in found.values())
    emulated = Result.of(record_of(SyntheticRun(evidence=Evidence.EMULATED), tmp_path / "emulated"))
    assert not [key for key in content.metrics(emulated) if key.endswith("_host")]


def test_energy_per_token_is_there_in_mj_too(tmp_path):
    result = Result.of(record_of(SyntheticRun(), tmp_path))
    found = content.metrics(result)
    assert found["energy/gpu_mj_per_output_token"] == 1000 * found["energy/gpu_j_per_output_token"]


def test_housekeeping_is_no_param(tmp_path):
    record = record_of(SyntheticRun(), tmp_path)
    groups = {key.partition(".")[0] for key in content.params(record.info.config)}
    assert not groups & {"display", "tracking", "sweep", "dry_run", "records_dir"}
    assert {"model", "scenario", "engine"} <= groups


def test_the_page_is_what_show_prints(tmp_path):
    page = content.page(Result.of(record_of(SyntheticRun(model="<b>x</b>"), tmp_path)))
    assert "VALID" in page
    assert "Energy of the window" in page
    assert "<b>x</b>" not in page
    assert page.startswith("<!DOCTYPE html>")


def test_note_says_what_a_reader_must_know(tmp_path):
    run = SyntheticRun(
        weights=Weights.random,
        evidence=Evidence.EMULATED,
        validity=Validity(False, ["timeout"], ["took too long"]),
    )
    record = record_of(run, tmp_path)
    text = content.note(Result.of(record))
    for expected in (
        "EMULATED",
        "RANDOM WEIGHTS",
        "**INVALID: do not use these numbers** (timeout)",
        "took too long",
        str(record.path),
    ):
        assert expected in text


@pytest.mark.parametrize("gpus", [1, 3])
def test_curves_keep_the_energy_and_are_short(tmp_path, gpus):
    record = record_of(
        SyntheticRun(gpus=gpus, power_w=lambda t: 100 + t, observations=polled(gpus)), tmp_path
    )
    curves = content.curves(record)
    assert len(curves) == gpus
    assert sum(len(curve.t_ns) for curve in curves) <= content.CURVE_POINTS
    for curve in curves:
        length_s = np.diff(curve.t_ns).mean() / 1e9
        span = (int(curve.t_ns[0] - length_s * 5e8), int(curve.t_ns[-1] + length_s * 5e8))
        mean_w = (curve.values * length_s).sum() / ((span[1] - span[0]) / 1e9)
        middle_s = ((span[0] + span[1]) / 2 - T0_NS) / 1e9
        assert mean_w == pytest.approx(100 + middle_s, rel=0.01)


def polled(gpus: int) -> list[dict]:
    """Instant power every 100 ms of a ramp of 1 W a second."""
    return [
        observation("power_instant", tick / 10, round((100 + tick / 10) * 1000), gpu=gpu)
        for gpu in range(gpus)
        for tick in range(1211)
    ]


def test_times_of_the_run_and_of_the_curve():
    info = SyntheticRun().info()
    assert content.zero_ns(info) == at(40)
    assert content.bounds_ns(info) == (at(0), at(120))
    assert content.utc_ms(info, at(1.5)) == UTC_NS // 1_000_000 + 1500
    info.phases = [PhaseSpan(Phase.BARE_IDLE, at(2), None)]
    assert content.zero_ns(info) == at(2)


def test_utc_follows_the_nearest_pair():
    info = SyntheticRun().info()
    # The wall clock was stepped by 5 s during the run.
    info.clock_pairs[1]["utc_ns"] += 5_000_000_000
    assert content.utc_ms(info, at(1)) == UTC_NS // 1_000_000 + 1000
    assert content.utc_ms(info, at(119)) == UTC_NS // 1_000_000 + 124_000


def test_the_same_workload_has_the_same_digest_on_every_model_and_gpu(tmp_path):
    first = content.workload(
        record_of(SyntheticRun(model="a", requests=steady_requests(ttft_ms=10)), tmp_path / "a")
    )
    slow = content.workload(
        record_of(SyntheticRun(model="b", requests=steady_requests(ttft_ms=99)), tmp_path / "b")
    )
    other = content.workload(
        record_of(SyntheticRun(requests=steady_requests(input_tokens=9)), tmp_path / "c")
    )
    assert first is not None
    assert first == slow
    assert other is not None
    assert first.digest != other.digest
    assert first.num_rows == 280


def test_no_requests_no_workload(tmp_path):
    assert content.workload(record_of(SyntheticRun(requests=[]), tmp_path)) is None
