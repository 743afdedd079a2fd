"""Whether a load keeps step with the power sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_record import SyntheticRun, at, steady_requests

from wattcount.metrics import compute
from wattcount.metrics.attribution import read_inputs
from wattcount.metrics.locking import locking, window_energy, window_energy_sum
from wattcount.metrics.window import phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase

MS = 1_000_000


def steps(length_ms: float, jitter_ms: float = 0.0, count: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    lengths = length_ms + jitter_ms * rng.standard_normal(count)
    return np.asarray(5_000 * MS + np.cumsum(lengths) * MS, np.int64)


@pytest.mark.parametrize(
    ("length_ms", "a_sample", "error"), [(20.0, 1, 0.16), (10.0, 2, 0.08), (5.0, 4, 0.0)]
)
def test_steps_at_the_samples_period_or_a_fraction_are_locked(
    length_ms: float, a_sample: int, error: float
) -> None:
    found = locking(steps(length_ms), 20e6)
    assert found is not None
    assert found.steps_a_sample == a_sample
    assert found.coherence == pytest.approx(1.0, abs=0.01)
    assert found.error_share == pytest.approx(error, abs=0.002)


@pytest.mark.parametrize("length_ms", [20.34, 19.66, 14.2, 10.17, 9.1, 26.0])
def test_detuned_steps_are_not(length_ms: float) -> None:
    found = locking(steps(length_ms), 20e6)
    assert found is not None
    assert found.error_share < 0.01


def test_steps_that_wander_are_not() -> None:
    found = locking(steps(20.0, jitter_ms=1.0, count=100_000), 20e6)
    assert found is not None
    assert found.error_share < 0.01


def test_steps_that_are_late_now_and_then_but_keep_the_beat_are() -> None:
    on_time = steps(20.0)
    late = on_time + np.random.default_rng(1).integers(0, 2 * MS, len(on_time))
    found = locking(late, 20e6)
    assert found is not None
    assert found.coherence > 0.9


def test_chance_is_not_taken_for_coherence() -> None:
    rng = np.random.default_rng(2)
    found = locking(np.sort(rng.integers(0, 10_000 * MS, 500)), 20e6)
    assert found is not None
    assert found.coherence < 0.12


def test_too_few_steps_tell_nothing() -> None:
    assert locking(steps(20.0, count=10), 20e6) is None
    assert locking(np.zeros(100, np.int64), 20e6) is None


@pytest.mark.parametrize(("length_ms", "locked"), [(20.0, True), (17.3, False)])
def test_what_locking_may_do_is_in_the_sensors_part(length_ms: float, locked: bool, tmp_path: Path) -> None:
    columns = ("prefill_tokens", "decode_tokens", "running", "waiting")
    run = SyntheticRun(
        requests=steady_requests(),
        steps=[
            {
                "logged_ns": at(20 + k * length_ms / 1e3),
                "engine_ts_ns": None,
                "duration_ns": None,
                "kv_cache_usage": None,
            }
            | dict.fromkeys(columns, 1)
            for k in range(int(80e3 / length_ms))
        ],
        observations=[
            {
                "gpu": 0,
                "source": "power_samples",
                "prev_t0_ns": -1,
                "t0_ns": at(k * 0.02),
                "t1_ns": at(k * 0.02),
                "source_ts_us": at(k * 0.02) // 1000,
                "value": 300_000 + k % 7,
                "nvml_return": 0,
            }
            for k in range(6000)
        ],
    )
    content = compute(Record.open(run.write(tmp_path)))
    ((_, energy),) = content["energy"].items()
    codes = {finding["code"] for finding in content["validity"]["findings"]}
    if locked:
        assert energy["budget_j"]["locking"] == pytest.approx(0.16 * energy["value_j"], rel=0.05)
        assert energy["u95_sensor_j"] > energy["budget_j"]["locking"]
        assert content["metrics"]["energy/gpu_j_u95_sensor"] == pytest.approx(
            energy["u95_sensor_j"], rel=1e-9
        )
        assert "load_locks_to_sensor" in codes
    else:
        assert energy["budget_j"]["locking"] < 0.01 * energy["value_j"]
        assert "load_locks_to_sensor" not in codes


TWO_GPUS = sorted((Path(__file__).resolve().parents[2] / "data" / "h100" / "records").glob("2bba*/r*"))[0]


def test_the_uncertainty_of_a_sum_over_gpus_has_one_home() -> None:
    """The method's in quadrature, the sensors' (with what locking adds) one to one; attribution takes the same."""
    record = Record.open(TWO_GPUS)
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    parts = [window_energy(record, window, uuid) for uuid in record.power.gpu_uuids]
    assert len(parts) == 2
    total = window_energy_sum(record, window)
    assert total is not None
    assert total.value_j == pytest.approx(sum(part.value_j for part in parts))
    assert total.u95_method_j == pytest.approx(np.hypot(*(part.u95_method_j for part in parts)))
    assert total.u95_sensor_j == pytest.approx(sum(part.u95_sensor_j for part in parts))
    assert total.u95_sensor_j > 0.05 * total.value_j
    content = compute(record)["metrics"]
    assert content["energy/gpu_j_u95"] == pytest.approx(total.u95_j, rel=1e-9)
    inputs = read_inputs(record, window)
    assert not isinstance(inputs, str)
    assert inputs.energy_u95_share == pytest.approx(total.u95_j / total.value_j, rel=1e-9)


def test_a_sum_with_a_gpu_that_is_not_known_is_not_known(tmp_path: Path) -> None:
    run = SyntheticRun(gpus=2)
    record = Record.open(run.write(tmp_path))
    window = phase_window(record.info.phases, Phase.WINDOW)
    assert window is not None
    assert window_energy_sum(record, window) is not None
    # The trace breaks off in the middle of the window.
    cut = Record.open(SyntheticRun(gpus=2, last_read_s=60.0).write(tmp_path / "cut"))
    assert window_energy_sum(cut, window) is None
