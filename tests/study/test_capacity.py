"""What runs at several rates tell of the highest one that keeps an SLO: on queues whose capacity is known, and of records."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from synthetic_record import SyntheticRun, request

from wattcount.config.schema import SloConfig
from wattcount.result import Result, judge
from wattcount.study import capacity
from wattcount.study.capacity import Probe, spread_of
from wattcount.sweep.capacity import Search

SLO = SloConfig(ttft_ms=500.0)


class Queue:
    """One server, first come first served, and requests that are good if they wait at most `bound_s`. Seeded: another rate is the same load, faster.

    spread   of the service times: 0 all alike, 1 exponential
    """

    def __init__(self, service_s: float, spread: float, bound_s: float, seed: int, seconds: float) -> None:
        generator = np.random.default_rng(seed)
        self._seconds, self._bound_s, self._service_s = seconds, bound_s, service_s
        many = int(3 * seconds / service_s) + 100
        self._gaps = generator.exponential(size=many)
        shape = 1 / spread**2 if spread else None
        self._services = (
            np.full(many, service_s)
            if shape is None
            else generator.gamma(shape, service_s / shape, size=many)
        )

    def good(self, rate: float, warmup_s: float = 20.0) -> npt.NDArray[np.bool_]:
        arrivals = np.cumsum(self._gaps) / rate
        count = int(np.searchsorted(arrivals, self._seconds))
        # Lindley: who comes waits for what those before him still need.
        steps = self._services[: count - 1] - self._gaps[1:count] / rate
        walk = np.concatenate([[0.0], np.cumsum(steps)])
        waits = walk - np.minimum.accumulate(walk)
        return (waits <= self._bound_s)[arrivals[:count] >= warmup_s]

    def probe(self, rate: float) -> Probe:
        good = self.good(rate)
        served = min(rate, 1 / self._service_s)
        return Probe(rate, int(good.sum()), len(good), served, spread=spread_of(good))


QUEUES = [(0.16, 0.0, 0.3), (0.02, 0.0, 0.05), (0.02, 1.0, 0.1), (0.02, 0.5, 0.3), (0.005, 1.0, 0.05)]
"""Time of a service [s], its spread, and the bound of the wait [s]."""
SEARCHES = 30
"""Of each queue."""


def true_capacity(service_s: float, spread: float, bound_s: float) -> float:
    """By a window of 300,000 services."""
    queue = Queue(service_s, spread, bound_s, 99, 1e5 * service_s)
    low, high = 0.1 / service_s, 1 / service_s
    for _ in range(14):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if queue.good(middle).mean() >= 0.95 else (low, middle)
    return math.sqrt(low * high)


def searches(queue: tuple[float, float, float]) -> Iterator[list[Probe]]:
    """Each with a window of 45 s after a warm-up of 20 s."""
    for seed in range(SEARCHES):
        served = Queue(*queue, seed, 65.0)
        search = Search(0.3 / queue[0], 0.95, 0.03, 10)
        while (rate := search.next_rate()) is not None:
            search.add(served.probe(rate))
        yield search.probes


def test_the_interval_holds_a_known_capacity_though_requests_wait_together() -> None:
    """As if they were independent it would be far too narrow."""
    held = naive = 0
    for queue in QUEUES:
        want = true_capacity(*queue)
        for probes in searches(queue):
            alone = [dataclasses.replace(probe, spread=1.0) for probe in probes]
            for independent, tried in ((False, probes), (True, alone)):
                found = capacity.capacity(tried, 0.95)
                assert found.low_rps is None or found.high_rps is None or found.low_rps < found.high_rps
                holds = (found.low_rps or 0.0) <= want <= (found.high_rps or math.inf)
                naive, held = naive + (holds and independent), held + (holds and not independent)
    of = len(QUEUES) * SEARCHES
    assert held >= 0.95 * of
    assert naive < 0.8 * of


def test_the_spread_of_independent_requests_is_one_and_of_bursts_their_length() -> None:
    generator = np.random.default_rng(3)
    independent = [spread_of(generator.random(4000) < 0.9) or 0.0 for _ in range(50)]
    assert np.mean(independent) == pytest.approx(1.2, abs=0.3)
    bursts = [spread_of(np.repeat(generator.random(400) < 0.9, 10)) or 0.0 for _ in range(50)]
    assert np.mean(bursts) == pytest.approx(10, rel=0.25)


@pytest.mark.parametrize("good", [[True] * 100, [False] * 100, [True, False] * 5, []])
def test_requests_that_tell_no_spread(good: list[bool]) -> None:
    assert spread_of(np.array(good, bool)) is None


def test_a_window_that_tells_no_spread_has_that_of_its_neighbours() -> None:
    """200 good of 200 are sure of 95 % only where requests are independent."""
    alone = [Probe(10.0, 200, 200, spread=None), Probe(40.0, 0, 200, spread=None)]
    assert capacity.capacity(alone, 0.95).low_rps == 10.0
    beside = [*alone, Probe(11.0, 170, 200, spread=8.0)]
    assert capacity.capacity(beside, 0.95).low_rps is None


def run_at(folder: Path, rate: float, late: int, **other: object) -> Result:
    """A run whose window of 60 s has 60 requests a requests/s, of which the first `late` have their first token after 700 ms."""
    requests = [
        request(number, 40.0 + (number + 0.5) / rate, ttft_ms=700.0 if number < late else 50.0)
        for number in range(round(60 * rate))
    ]
    folder.mkdir(exist_ok=True)
    made = SyntheticRun(requests=requests, rate_rps=rate, slo=SLO, **other)  # type: ignore[arg-type]
    return judge(made.write(folder / f"{rate:g}-{late}-{len(list(folder.iterdir()))}"))


@pytest.fixture
def measured(tmp_path: Path) -> list[Result]:
    return [run_at(tmp_path, rate, late) for rate, late in ((8.0, 40), (2.0, 0), (4.0, 4))]


def test_runs_at_several_rates_are_a_load_curve(measured: list[Result]) -> None:
    [curve] = capacity.load_curves(measured)
    assert [(probe.rate_rps, probe.good, probe.sent) for probe in curve.probes] == [
        (2.0, 120, 120),
        (4.0, 236, 240),
        (8.0, 440, 480),
    ]
    found = curve.found
    assert (found.rate_rps, found.broken_rps) == (4.0, 8.0)
    assert curve.at_capacity is measured[2]


def test_what_differs_in_more_than_the_rate_is_another_curve(tmp_path: Path, measured: list[Result]) -> None:
    others = [run_at(tmp_path / "b", rate, 0, gpu_name="NVIDIA A100", repeat=1) for rate in (2.0, 16.0)]
    alone = run_at(tmp_path / "c", 2.0, 0, seed=7)
    without = judge(SyntheticRun().write(tmp_path / "d"))
    curves = capacity.load_curves([*measured, *others, alone, without])
    assert [len(curve.probes) for curve in curves] == [3, 2]
    assert curves[1].found.rate_rps == 16.0
    assert curves[1].found.broken_rps is None


def test_of_two_runs_at_a_rate_the_latest_valid_one_counts(tmp_path: Path, measured: list[Result]) -> None:
    later = run_at(tmp_path, 4.0, 100, run_id="20260902-120000-abcdef")
    [curve] = capacity.load_curves([later, *measured])
    assert curve.found.rate_rps == 2.0


def test_requests_that_were_held_back_are_not_good(tmp_path: Path) -> None:
    """With a limit of requests in flight the ones that are sent are fast, however many wait."""
    sent = [request(number, 40.2 + number * 0.5) for number in range(100)]
    waiting = [request(100 + number, 40.1 + number * 0.05, status="not_sent") for number in range(1000)]
    made = SyntheticRun(requests=[*sent, *waiting], rate_rps=18.0, slo=SLO)
    probe = capacity.probe_of(judge(made.write(tmp_path)), SLO)
    assert probe is not None
    assert (probe.good, probe.sent) == (100, 1100)
    assert not probe.keeps(0.95)


def test_it_is_shown_for_people_and_programs(tmp_path: Path, measured: list[Result]) -> None:
    others = [run_at(tmp_path / "b", rate, 0, gpu_name="NVIDIA A100") for rate in (2.0, 16.0)]
    curves = capacity.load_curves([*measured, *others])
    lines = capacity.to_lines(curves)
    assert lines[0].startswith("llama3_8b on NVIDIA H200")
    assert "capacity: 4 requests/s keep TTFT 500 ms for 95 %" in lines
    assert "  broken at 8 requests/s, 100 % above; 3 probes" in lines
    assert [line.split()[0] for line in lines[-4:-1]] == ["capacity", "4", ">"]
    assert lines[-2].endswith("llama3_8b on NVIDIA A100")
    text = capacity.to_markdown(curves)
    assert "| 4 | " in text
    assert text.count("| req/s |") == 2
    first, second = capacity.to_json(curves)
    assert (first["capacity_rps"], first["broken_rps"], first["slo_ttft_ms"]) == (4.0, 8.0, 500.0)
    assert [probe["good"] for probe in first["probes"]] == [120, 236, 440]
    assert first["energy/gpu_j_per_output_token"] == measured[2].value("energy/gpu_j_per_output_token")
    assert second["broken_rps"] is None
    [row, _] = csv.DictReader(io.StringIO(capacity.to_csv(curves)))
    assert (row["capacity_rps"], row["record"]) == ("4.0", str(measured[2].source))


def test_capacities_that_are_none_or_open() -> None:
    none = [Probe(8.0, 0, 100), Probe(1.0, 3, 100)]
    assert "kept at no rate down to 1 requests/s" in capacity.lines_of(none, SLO)[0]
    every = [Probe(8.0, 100, 100), Probe(64.0, 100, 100)]
    assert "at least 64 requests/s" in capacity.lines_of(every, SLO)[0]
    invalid = [Probe(8.0, 100, 100), Probe(9.0, 100, 100, valid=False)]
    assert any("invalid" in line for line in capacity.lines_of(invalid, SLO))
    again = [Probe(8.0, 100, 100), Probe(9.0, 10, 100), Probe(10.0, 100, 100)]
    assert any("10 requests/s kept it again" in line for line in capacity.lines_of(again, SLO))
