"""Whether a load keeps step with the power sensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_record import SyntheticRun, at, findings_of, observation, request, steady_requests

from wattcount.metrics import compute
from wattcount.metrics.attribution import read_inputs
from wattcount.metrics.observations import phase_window
from wattcount.metrics.sensors import locking, sampler_figures, window_energy, window_energy_sum
from wattcount.records import Record
from wattcount.records.schema import Phase


def book(calls: int = 100, errors: int = 0, rate_hz: float = 1.0, late_ns: float = 1e6) -> dict:
    return {"calls": calls, "errors": errors, "rate_hz": rate_hz, "lateness_p99_ns": late_ns}


def gpu(**kwargs) -> dict:
    return {
        "cpu_ns": 500_000_000, "wall_ns": 100_000_000_000, "missed_deadlines": 1, "dropped_events": 2,
        "ring_overflows": 0,
        "sources": {"energy_counter": book(), "power_instant": book(rate_hz=50.0), "clock_sm": book(rate_hz=0.9)},
    } | kwargs  # fmt: skip


def test_figures_of_several_gpus(tmp_path):
    slow = gpu(missed_deadlines=4, sources={"energy_counter": book(rate_hz=0.5, late_ns=3e6)})
    run = SyntheticRun(gpus=2, sampler={"a": gpu(), "b": slow})
    found = compute(Record.open(run.write(tmp_path)))["metrics"]
    assert found["sampler/cpu_share"] == pytest.approx(0.01)
    assert (found["sampler/missed_deadlines"], found["sampler/dropped_events"]) == (5, 4)
    assert found["sampler/ring_overflows"] == 0
    assert (found["sampler/energy_counter_rate_hz"], found["sampler/energy_counter_jitter_ms"]) == (0.5, 3.0)
    assert found["sampler/power_instant_rate_hz"] == 50.0
    assert found["sampler/status_rate_hz"] == 0.9
    assert found["sampler/power_usage_rate_hz"] is None


def test_a_source_that_never_worked_has_no_rate():
    info = SyntheticRun(sampler={"a": gpu(sources={"power_average": book(calls=3, errors=3)})}).info()
    assert "sampler/power_average_rate_hz" not in sampler_figures(info)


def test_a_run_without_books(tmp_path):
    found = compute(Record.open(SyntheticRun().write(tmp_path)))
    assert found["metrics"]["sampler/cpu_share"] is None
    assert found["null_reasons"]["sampler/cpu_share"] == "not_recorded"


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


def test_gpu_lost(tmp_path):
    lost = [observation("power_usage", 90, 0, nvml_return=15)]
    assert findings_of(SyntheticRun(observations=lost), tmp_path)["gpu_lost"]["invalidates"]


def test_reads_that_stopped_for_a_while(tmp_path):
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(60) < row["t0_ns"] < at(68)
    ]
    gap = findings_of(run, tmp_path)["power_gap"]
    assert gap["figure"] == pytest.approx(8000, abs=600)
    assert gap["invalidates"]


@pytest.mark.parametrize(
    ("phase", "start_s", "end_s"),
    [
        ("bare idle", 2, 9),
        ("loaded idle", 24, 32),
        ("loaded idle after the load", 105, 113),
        ("the window", 36, 44.5),
        ("the window", 93, 101),
    ],
)
def test_reads_that_stopped_in_any_phase_whose_energy_is_told(tmp_path, phase, start_s, end_s):
    """Also where most of the gap lies outside of it: when power changed at the phase's end was not seen."""
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(start_s) < row["t0_ns"] < at(end_s)
    ]
    content = compute(Record.open(run.write(tmp_path)))
    gaps = [found for found in content["validity"]["findings"] if found["code"] == "power_gap"]
    assert all(gap["invalidates"] and gap["figure"] > gap["limit"] for gap in gaps)
    assert [gap["message"].rsplit(" in ", 1)[1] for gap in gaps] == [phase]


def test_a_gap_that_only_touches_a_phase_is_no_fault_of_it(tmp_path):
    run = SyntheticRun()
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": -1} for row in rows if not at(31.5) < row["t0_ns"] < at(40.5)
    ]
    assert "power_gap" not in findings_of(run, tmp_path)


def test_a_value_that_only_stayed_the_same_is_no_gap(tmp_path):
    run = SyntheticRun()
    # The same reads left out, but the read after them says that it was asked all along.
    rows = run.power_rows()
    run.power_rows = lambda: [  # type: ignore[method-assign]
        row | {"prev_t0_ns": at(63.5) if at(67) <= row["t0_ns"] < at(67.4) else row["prev_t0_ns"]}
        for row in rows
        if not at(60) < row["t0_ns"] < at(67)
    ]
    assert "power_gap" not in findings_of(run, tmp_path)


def books(**values: object) -> dict:
    sources = {"energy_counter": {"calls": 400}, "power_instant": {"calls": 600}}
    return {SyntheticRun().uuid(): {"sources": sources, **values}}


@pytest.mark.parametrize(
    ("values", "code", "figure"),
    [
        ({"dropped_events": 0, "ring_overflows": 0, "missed_deadlines": 10}, None, None),
        ({"dropped_events": 7}, "dropped_events", 7),
        ({"ring_overflows": 2}, "ring_overflows", 2),
        ({"missed_deadlines": 250}, "missed_deadlines", 0.2),
    ],
)
def test_what_the_sampler_lost(tmp_path, values, code, figure):
    found = findings_of(SyntheticRun(sampler=books(**values)), tmp_path)
    assert list(found) == ([code] if code else [])
    if code:
        assert found[code]["figure"] == pytest.approx(figure)
        assert not found[code]["invalidates"]


def test_a_sampler_without_books(tmp_path):
    assert findings_of(SyntheticRun(sampler={SyntheticRun().uuid(): {}}), tmp_path) == {}


def test_a_window_too_short_for_the_counter(tmp_path):
    """Read twice a second: a window of a second holds two or three reads."""
    run = SyntheticRun(scenario="batch", requests=[request(i, 40.0) for i in range(3)])
    for span in run.phases:
        if span.phase is Phase.WINDOW:
            span.end_ns = at(41.0)
    (finding,) = compute(Record.open(run.write(tmp_path)))["validity"]["findings"]
    assert finding["code"] == "window_too_short"
    assert finding["figure"] in (2, 3)
    assert finding["limit"] == 5
    assert not finding["invalidates"]
