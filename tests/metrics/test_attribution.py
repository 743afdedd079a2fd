"""Attribution of records: of an H200's, and of made ones that do not hold enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_record import SyntheticRun, at, steady_requests
from synthetic_steps import ns

from wattcount.metrics import attribution, compute
from wattcount.metrics.design import MIN_INTERVAL_S
from wattcount.metrics.phase_energy import MIN_INTERVALS, TOO_FEW_INTERVALS, Attribution
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase, PhaseSpan

H200 = sorted((Path(__file__).resolve().parents[2] / "data" / "h200" / "records").glob("*/*/"))


@pytest.fixture(params=H200, ids=lambda path: path.parent.name)
def measured(request: pytest.FixtureRequest) -> Record:
    return Record.open(request.param)


def test_an_h200_run_is_divided_without_a_rest(measured: Record) -> None:
    window = phase_window(measured.info.phases, Phase.WINDOW)
    assert window is not None
    found = attribution.attribute_record(measured, window)
    # Steps of half a second make long intervals: Falcon Mamba's prefills, the stalls of OLMoE's batch. And windows of 8 to
    # 11 s have few: OLMo 2's and Gemma 3 1B's servers, the batches of Qwen3 32B and Gemma 3 12B.
    long_steps = measured.path.parent.name in ("5b4360d28259", "a4fec73e9963", "2127c45b5c4d")
    few = measured.path.parent.name in ("04ed5205d240", "e85a6fe9d2d8", "59e7ce3d6ab9", "767800e3894e")
    if window.duration_s < MIN_INTERVALS * MIN_INTERVAL_S or long_steps or few:
        assert found == TOO_FEW_INTERVALS
        return
    assert isinstance(found, Attribution)
    (uuid,) = measured.power.gpu_uuids
    energy_j = measured.power.energy(window.start_ns, window.end_ns, uuid).value_j
    assert found.idle_j + found.prefill_j + found.decode_j == pytest.approx(energy_j, rel=1e-9)
    divided = attribution.request_energies(measured, window)
    assert not isinstance(divided, str)
    assert len(divided.total_j) == len(measured.requests)
    assert divided.total_j.sum() + divided.unattributed_j == pytest.approx(energy_j, rel=1e-9)
    # Nearly all prefill and decode is somebody's.
    assert divided.prefill_j.sum() == pytest.approx(found.prefill_j, rel=0.01)
    assert divided.decode_j.sum() == pytest.approx(found.decode_j, rel=0.01)


def test_a_prompt_token_costs_about_the_same_under_every_load() -> None:
    """Llama-3-8B shape, prompts of 512: batches of 512, prefill alone, and servers at 1 to 64 requests/s."""
    costs = []
    for record in map(Record.open, H200):
        config = record.info.config
        same = config["model"]["name"] == "llama3_8b" and not config["model"]["quantization"]
        if same and config["scenario"]["lengths"]["input_tokens"] == 512:
            content = compute(record)["metrics"]
            costs.append((content["energy/prefill_j_per_token"], content["energy/prefill_j_per_token_u95"]))
    assert len(costs) == 11
    for per_token, u95 in costs:
        assert 0.010 < per_token < 0.020
        assert u95 < 0.2 * per_token


def metrics_of(run: SyntheticRun, folder: Path) -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = compute(Record.open(run.write(folder)))
    return content


def engine_steps(**columns: object) -> list[dict[str, object]]:
    row = {
        "engine_ts_ns": None,
        "duration_ns": None,
        "prefill_tokens": 4,
        "decode_tokens": 4,
        "running": 4,
        "waiting": 0,
        "kv_cache_usage": 0.1,
    } | columns
    return [row | {"logged_ns": at(30 + i / 20)} for i in range(1400)]


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (SyntheticRun(), "no_step_tokens"),
        (SyntheticRun(steps=engine_steps(prefill_tokens=None)), "no_step_tokens"),
        (
            SyntheticRun(steps=engine_steps(), phases=[PhaseSpan(Phase.WINDOW, at(40), at(100))]),
            "no_loaded_idle",
        ),
        (SyntheticRun(steps=engine_steps()), "no_power_curve"),  # only a counter
    ],
)
def test_metrics_are_null_with_the_reason(run: SyntheticRun, reason: str, tmp_path: Path) -> None:
    content = metrics_of(run, tmp_path)
    keys = [
        key
        for key in content["metrics"]
        if key.startswith(("energy/prefill", "energy/decode", "energy/request_", "attribution/"))
    ]
    assert len(keys) == 12
    assert {content["metrics"][key] for key in keys} == {None}
    assert {content["null_reasons"][key] for key in keys} == {reason}


def ring(power_w: float, source: str = "power_samples", rate_hz: int = 50) -> list[dict[str, object]]:
    """Two minutes of samples of a steady power, which no sensor shows by one value, and one pair of clocks."""
    clock = {"gpu": 0, "prev_t0_ns": -1, "source_ts_us": -1, "nvml_return": 0}
    rows: list[dict[str, object]] = [
        clock | {"source": "realtime", "t0_ns": at(0), "t1_ns": at(0), "value": at(0)}
    ]
    for i in range(120 * rate_hz):
        t_ns = at(i / rate_hz)
        rows.append(
            clock
            | {
                "source": source,
                "t0_ns": t_ns,
                "t1_ns": t_ns,
                "source_ts_us": t_ns // 1000,
                "value": round(power_w * 1000) + i % 2,
            }
        )
    return rows


def test_constant_power_says_nothing_of_phases(tmp_path: Path) -> None:
    run = SyntheticRun(steps=engine_steps(), requests=steady_requests(), observations=ring(300.0))
    content = metrics_of(run, tmp_path)
    assert content["null_reasons"]["energy/prefill_j"] == "phases_collinear"
    assert content["metrics"]["energy/gpu_j"] is not None


@pytest.mark.parametrize(("source", "rate_hz"), [("power_samples", 50), ("power_instant", 10)])
def test_the_curve_is_as_fine_as_its_samples(source: str, rate_hz: int, tmp_path: Path) -> None:
    record = Record.open(SyntheticRun(observations=ring(300.0, source, rate_hz)).write(tmp_path))
    (uuid,) = record.power.gpu_uuids
    basis = record.power.energy(at(40), at(100), uuid).basis
    curve = attribution.power_curve(record.power, uuid, basis or "")
    assert curve is not None
    energy_at, spacing_s = curve
    assert spacing_s == pytest.approx(1 / rate_hz)
    assert np.diff(energy_at(ns(1040, 1041.5))) == pytest.approx([450], rel=1e-3)
