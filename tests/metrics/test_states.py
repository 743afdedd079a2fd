"""What the engine reported and what the GPU's slow sources said, in the window."""

import pytest
from synthetic_record import (
    SyntheticRun,
    metrics_of,
    observation,
    steady_requests,
    step,
    values_of,
)


def test_engine_figures_of_the_window_only(tmp_path):
    steps = [
        step(35, running=99, kv_cache_usage=0.9),
        step(50, running=2, kv_cache_usage=0.25),
        step(60, running=4, waiting=3),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path)
    assert found["engine/running_mean"] == 3.0
    assert (found["engine/running_max"], found["engine/waiting_max"]) == (4, 3)
    assert found["engine/kv_cache_usage_max"] == 0.25


def test_proposals_that_were_accepted(tmp_path):
    steps = [
        step(35, draft_tokens=99, accepted_tokens=99),
        step(50, draft_tokens=8, accepted_tokens=2),
        step(60, draft_tokens=4, accepted_tokens=1),
        step(70),
    ]
    found = values_of(SyntheticRun(steps=steps), tmp_path / "with")
    assert (found["engine/draft_tokens"], found["engine/draft_acceptance"]) == (12, 0.25)
    content = metrics_of(SyntheticRun(steps=[step(50)]), tmp_path / "without")
    for key in ("engine/draft_tokens", "engine/draft_acceptance"):
        assert (content["metrics"][key], content["null_reasons"][key]) == (None, "no_draft_tokens")


def test_preemptions_and_cached_tokens(tmp_path):
    rows = steady_requests(preemptions=1, cached_tokens=100)
    found = values_of(SyntheticRun(requests=rows), tmp_path)
    assert found["engine/preemptions"] == 240
    assert found["tokens/cached_input"] == 100 * 240
    rows[-1]["cached_tokens"] = None
    assert values_of(SyntheticRun(requests=rows), tmp_path)["tokens/cached_input"] is None


def test_slow_sources_hold_until_the_next_value(tmp_path):
    seen = [
        observation("temperature_gpu", 1, 30),
        observation("temperature_gpu", 30, 55),  # holds at the window's start
        observation("temperature_gpu", 80, 70),
        observation("temperature_gpu", 105, 90),  # after the window
        observation("clock_sm", 1, 2000),
        observation("clock_sm", 70, 1000),  # half the window each
        observation("clock_event_reasons", 1, 0x1),
        observation("clock_event_reasons", 85, 0x4 | 0x20),
        observation("clock_event_reasons", 91, 0x0),
    ]
    found = values_of(SyntheticRun(observations=seen), tmp_path)
    assert (found["gpu/temperature_min_c"], found["gpu/temperature_max_c"]) == (55, 70)
    assert found["gpu/clock_sm_mean_mhz"] == 1500.0
    assert found["gpu/clock_event_reasons"] == 0x25
    assert found["gpu/power_capped_share"] == found["gpu/thermal_slowdown_share"] == pytest.approx(0.1)


def test_errors_of_a_source_hold_nothing(tmp_path):
    seen = [
        observation("clock_sm", 1, 1000),
        observation("clock_sm", 50, 12345, nvml_return=999),
        observation("clock_sm", 90, 2000),
    ]
    assert values_of(SyntheticRun(observations=seen), tmp_path)["gpu/clock_sm_mean_mhz"] == 1500.0
