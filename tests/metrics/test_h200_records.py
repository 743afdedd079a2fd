"""Records of a real H200 (data/h200): what was computed from them then is what is computed now."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import stored_figures

from wattcount.metrics import compute
from wattcount.records import Record
from wattcount.records.schema import Evidence

RECORDS = sorted((Path(__file__).resolve().parents[2] / "data" / "h200" / "records").glob("*/*/"))


@pytest.fixture(params=RECORDS, ids=lambda path: path.parent.name)
def record(request: pytest.FixtureRequest) -> Record:
    return Record.open(request.param)


def test_there_are_batches_and_servers() -> None:
    kinds = {json.loads((path / "run.json").read_text())["config"]["scenario"]["kind"] for path in RECORDS}
    assert kinds == {"batch", "server"}


def test_metrics_are_a_function_of_the_raw_files(record: Record) -> None:
    stored = json.loads((record.path / "metrics.json").read_text())
    stored_figures.check(compute(record), stored)


def test_they_are_measured_and_valid(record: Record) -> None:
    assert record.info.evidence is Evidence.MEASURED
    assert record.info.validity.valid
    assert record.info.engine["gpu_uuids"] == [gpu["uuid"] for gpu in record.info.gpus]


def test_every_source_agrees_on_the_energy(record: Record) -> None:
    metrics = compute(record)["metrics"]
    energy_j, duration_s = metrics["energy/gpu_j"], metrics["window/duration_s"]
    # The counter alone is a straight line between its reads, a second apart; the average is one over a second, and
    # misses what power was at the begin of a batch.
    begins = metrics["power/gpu_mean_w"] - metrics["power/idle_loaded_w"]
    for source, tolerance_j in (
        ("energy_counter", (0.01 if duration_s > 10 else 0.02) * energy_j),
        ("power_samples", (0.005 if duration_s > 10 else 0.01) * energy_j),
        (
            "power_average",
            max(
                0.01 * energy_j,
                0.35 * begins if duration_s < 5 else 0.0,
                0.02 * energy_j if duration_s < 11 else 0.0,
            ),
        ),
    ):
        assert metrics[f"energy_by_source/{source}_j"] == pytest.approx(energy_j, abs=tolerance_j)


IDLE_W = {
    "GPU-ebd2": (77.9, 117.2),
    "GPU-6837": (82.0, 125.2),
    "GPU-ff43": (77.2, 120.2),
    "GPU-516a": (80.6, 127.0),
    "GPU-6d7a": (81.2, 124.8),
}
"""Bare and loaded, by board."""


def test_idle_is_where_this_gpu_idles(record: Record) -> None:
    metrics = compute(record)["metrics"]
    (gpu,) = record.info.gpus
    bare_w, loaded_w = IDLE_W[gpu["uuid"][:8]]
    assert metrics["power/idle_bare_w"] == pytest.approx(bare_w, rel=0.01)
    assert metrics["power/idle_loaded_w"] == pytest.approx(loaded_w, rel=0.01)


def test_the_uncertainty_is_the_boards_and_little_of_it_the_methods(record: Record) -> None:
    content = compute(record)
    metrics = content["metrics"]
    energy_j = metrics["energy/gpu_j"]
    assert (
        metrics["energy/gpu_j_u95_method"]
        # One step of the counter that power does not confirm weighs more in a window of three seconds.
        < (0.0015 if metrics["window/duration_s"] > 10 else 0.004) * energy_j
    )
    gain_j, offset_j = 0.05 * energy_j, 2.0 * metrics["window/duration_s"]
    expected_j = math.hypot(gain_j, offset_j)
    if "load_locks_to_sensor" in {finding["code"] for finding in content["validity"]["findings"]}:
        assert expected_j < metrics["energy/gpu_j_u95_sensor"] < 1.05 * expected_j
    else:
        assert metrics["energy/gpu_j_u95_sensor"] == pytest.approx(expected_j, rel=0.001)


def test_the_sampler_took_under_a_hundredth_of_a_core(record: Record) -> None:
    assert 0 < compute(record)["metrics"]["sampler/cpu_share"] < 0.01


def test_tokens_of_steps_and_of_requests_are_the_same(record: Record) -> None:
    """Asynchronous scheduling or not: every output token but each request's first is a decode token of a step."""
    requests = record.requests.to_pydict()
    steps = record.steps.to_pydict()
    output = sum(requests["output_tokens"])
    first = sum(1 for tokens in requests["output_tokens"] if tokens)
    decode = sum(tokens or 0 for tokens in steps["decode_tokens"])
    assert decode == pytest.approx(output - first, rel=0.01)
    assert sum(tokens or 0 for tokens in steps["prefill_tokens"]) == pytest.approx(
        sum(requests["input_tokens"]), rel=0.01
    )
