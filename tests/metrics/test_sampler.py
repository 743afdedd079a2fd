import pytest
from synthetic_record import SyntheticRun

from wattcount.metrics import compute
from wattcount.metrics.sampler import sampler_figures
from wattcount.records import Record


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
