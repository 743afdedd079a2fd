"""Figures that speak of the same requests, time and joules agree, in every record of the repository."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from wattcount.config.schema import SloConfig
from wattcount.metrics.metrics_json import load_metrics
from wattcount.metrics.observations import Requests, phase_window
from wattcount.metrics.service import good_of
from wattcount.records import Record
from wattcount.records.schema import Phase

DATA = Path(__file__).resolve().parents[2] / "data"
RECORDS = sorted(file.parent for file in DATA.glob("*/records/*/*/run.json"))


@functools.cache
def stored(path: Path) -> dict[str, Any]:
    return load_metrics(Record.open(path))["metrics"]


def figures(*keys: str) -> list[tuple[Path, list[float]]]:
    """These figures of the records that have all of them."""
    found = [(path, [stored(path)[key] for key in keys]) for path in RECORDS]
    known = [(path, values) for path, values in found if None not in values]
    assert known, f"no record has {keys}"
    return known


PER = (
    ("energy/gpu_j", "energy/gpu_j_per_output_token", "tokens/output"),
    ("energy/gpu_j", "energy/gpu_j_per_request", "requests/completed_in_window"),
    ("energy/gpu_j", "power/gpu_mean_w", "window/duration_s"),
    ("energy/dynamic_j", "energy/dynamic_j_per_output_token", "tokens/output"),
    ("energy/dynamic_j", "energy/dynamic_j_per_request", "requests/completed_in_window"),
    ("tokens/output", "throughput/output_tokens_per_s", "window/duration_s"),
    ("requests/completed_in_window", "throughput/requests_per_s", "window/duration_s"),
    ("requests/sent", "load/achieved_rps", "window/duration_s"),
)


@pytest.mark.parametrize(("whole", "each", "number"), PER)
def test_a_figure_per_something_times_the_number_of_it_is_the_whole(
    whole: str, each: str, number: str
) -> None:
    for path, (all_of_it, per, count) in figures(whole, each, number):
        assert per * count == pytest.approx(all_of_it, rel=1e-9), path


def test_the_idle_split_is_the_whole_energy() -> None:
    parts = ("energy/bare_idle_j", "energy/context_idle_j", "energy/dynamic_j")
    for path, (whole, *split) in figures("energy/gpu_j", *parts):
        assert sum(split) == pytest.approx(whole, rel=1e-9), path


def test_prefill_and_decode_are_no_more_than_the_whole() -> None:
    for path, (whole, *phases) in figures("energy/gpu_j", "energy/prefill_j", "energy/decode_j"):
        assert sum(phases) <= whole, path


def test_what_a_request_drew_is_no_more_than_the_whole() -> None:
    """`request_mean_j` is of requests whose whole life lies in the window, so all that one drew is in its energy."""
    for path, (whole, mean_j) in figures("energy/gpu_j", "energy/request_mean_j"):
        assert mean_j <= whole, path


def test_no_more_is_good_than_was_completed() -> None:
    """By bounds that half of each server's requests keep, whatever the run was asked for."""
    told = 0
    for path, (ttft_ms,) in figures("latency/ttft_p50_ms"):
        record = Record.open(path)
        window = phase_window(record.info.phases, Phase.WINDOW)
        assert window is not None
        requests, slo = Requests.of(record.requests), SloConfig(ttft_ms=ttft_ms)
        good = good_of(requests, requests.completed_within(window), slo)
        assert good <= requests.completed_in(window), path
        told += 0 < good < requests.completed_in(window)
    assert told > 100
