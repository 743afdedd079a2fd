"""The search for the highest rate that keeps an SLO: on services whose capacity is known, and on the tiny engine."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wattcount.config import compose
from wattcount.config.schema import RunConfig, ScenarioKind
from wattcount.errors import EXIT_INTERRUPTED, NotStartedError
from wattcount.result import judge
from wattcount.sweep import capacity, task
from wattcount.sweep.capacity import Probe, Search
from wattcount.sweep.point import Outcome, State, refused

Service = Callable[[float], Probe]
SENT = 2000
"""Requests of a probe on a made-up service."""


def single_server(service_s: float, bound_s: float, window_s: float = 60.0) -> Service:
    """Poisson arrivals, one at a time, each `service_s` long (M/D/1): the share that waits at most `bound_s`, by Crommelin's formula."""

    def probe(rate: float) -> Probe:
        load = rate * service_s
        served = min(rate, 1 / service_s)
        if load >= 1:  # the queue grows through the window: only those whose wait is still short are in time
            grows = max(1e-9, load - 1) * window_s
            return Probe(rate, round(SENT * min(0.9, bound_s / grows)), SENT, served)
        return Probe(rate, round(SENT * waits_at_most(bound_s, load, service_s)), SENT, served)

    return probe


def waits_at_most(t_s: float, load: float, service_s: float) -> float:
    """P(wait <= t) of M/D/1."""
    rate = load / service_s
    total = 0.0
    for k in range(int(t_s / service_s) + 1):
        x = rate * (k * service_s - t_s)
        total += math.exp(-x) * x**k / math.factorial(k)
    return (1 - load) * total


def searched(service: Service, first: float, **keys: Any) -> Search:
    search = Search(first, **{"attainment": 0.95, "tolerance": 0.03, "max_probes": 10, **keys})
    while (rate := search.next_rate()) is not None:
        search.add(service(rate))
    return search


def true_capacity(service: Service, attainment: float, high: float) -> float:
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if service(middle).share >= attainment else (low, middle)
    return low


@pytest.mark.parametrize("service_s", [0.0005, 0.017, 0.4])
@pytest.mark.parametrize("bound", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("first_of", [0.02, 0.2, 0.9, 3.0, 30.0])
def test_a_known_capacity_is_found_within_three_percent_in_ten_probes(
    service_s: float, bound: float, first_of: float
) -> None:
    """`bound`: of the wait, in services; `first_of`: the first rate, as a share of what can be served at most."""
    service = single_server(service_s, bound * service_s)
    search = searched(service, first_of / service_s)
    want = true_capacity(service, 0.95, 1 / service_s)
    found = search.capacity()
    assert found.rate_rps is not None
    assert found.broken_rps is not None
    assert len(search.probes) <= 10
    assert found.rate_rps == pytest.approx(want, rel=0.03)
    assert found.rate_rps <= want * 1.001 <= found.broken_rps * 1.002


def test_the_interval_holds_what_the_number_of_requests_leaves_open() -> None:
    """Of few requests, 95 % may be 90 %: the interval is wider than the bracket, and holds the capacity."""
    generator = random.Random(1)
    exact = single_server(0.02, 0.03)
    want = true_capacity(exact, 0.95, 50.0)

    def sampled(rate: float) -> Probe:
        probe = exact(rate)
        good = sum(generator.random() < probe.share for _ in range(150))
        return dataclasses.replace(probe, good=good, sent=150)

    held = 0
    for _ in range(40):
        found = searched(sampled, 4.0).capacity()
        assert found.low_rps is None or found.high_rps is None or found.low_rps < found.high_rps
        held += (found.low_rps or 0.0) <= want <= (found.high_rps or math.inf)
    assert held >= 36


def test_an_slo_that_no_rate_keeps() -> None:
    search = searched(lambda rate: Probe(rate, 0, SENT, rate), 8.0)
    assert search.capacity().rate_rps is None
    assert "kept at no rate" in capacity.result_lines(search, compose([]).scenario.slo)[0]


def test_an_slo_that_every_rate_keeps() -> None:
    search = searched(lambda rate: Probe(rate, SENT, SENT, rate), 8.0, max_probes=4)
    assert len(search.probes) == 4
    assert "at least 4096 requests/s" in capacity.result_lines(search, compose([]).scenario.slo)[0]


def test_an_invalid_run_keeps_nothing() -> None:
    search = searched(lambda rate: Probe(rate, SENT, SENT, rate, valid=rate < 20), 8.0)
    found = search.capacity()
    assert found.rate_rps is not None
    assert found.rate_rps < 20 <= (found.broken_rps or 0.0)
    assert any("invalid" in line for line in capacity.result_lines(search, compose([]).scenario.slo))


def test_the_interval_of_a_share_is_wilson_s() -> None:
    low, high = Probe(1.0, 95, 100).interval()
    assert (low, high) == pytest.approx((0.8882, 0.9785), abs=2e-4)


ASKED = [
    "engine=tiny", "power=emulated", "model=tiny", "gpu=h200", "tracking=none", "scenario=capacity", "scenario.slo.tpot_ms=null",
    "scenario.slo.ttft_ms=60",
]  # fmt: skip


def test_a_probe_is_a_run_of_a_server() -> None:
    cfg = compose([*ASKED, "scenario.arrivals.kind=constant", "scenario.window_s=7"])
    probe = capacity.probe_of(cfg, 12.5)
    assert probe.scenario.kind is ScenarioKind.server
    assert probe.scenario == compose(
        [*ASKED[:-3], "scenario=server", "scenario.name=capacity", "scenario.slo.ttft_ms=60", "scenario.rate_rps=12.5",
         "scenario.arrivals.kind=constant", "scenario.window_s=7", "scenario.drain_limit_s=120"]
    ).scenario  # fmt: skip


def test_a_search_without_a_bound_is_refused() -> None:
    with pytest.raises(NotStartedError, match=r"^scenario\.slo: .*ttft_ms"):
        compose([*ASKED[:-1], "scenario.slo.ttft_ms=null", "scenario.slo.tpot_ms=null"])


def test_a_probe_that_is_interrupted_or_refused_ends_the_search() -> None:
    for ended in (
        refused("no GPU"),
        Outcome(State.failed, exit_code=EXIT_INTERRUPTED, message="interrupted"),
    ):
        said: list[str] = []
        cfg = compose([*ASKED, "sweep.share_engine=false"])
        assert capacity.find(cfg, lambda *_, ended=ended, **__: ended, said.append) == ended
        assert said[0] == "probe 1: 1 requests/s"


def test_records_of_before_are_taken_and_the_curve_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second search measures nothing: each probe finds its record."""
    short = [f"scenario.{key}=0.05" for key in ("bare_idle_s", "loaded_idle_s", "bare_idle_after_s")]
    cfg = compose([
        *ASKED, *short, "scenario.warmup_s=0", "scenario.window_s=1", "scenario.lengths.input_tokens=16", "scenario.lengths.output_tokens=4",
        "scenario.rate_rps=40", "scenario.max_probes=2", "scenario.slo.ttft_ms=60000", f"records_dir={tmp_path}",
    ])  # fmt: skip
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    first: list[str] = []
    outcome = capacity.find(cfg, say=first.append)
    assert (outcome.state, outcome.exit_code) == (State.done, 0)
    sessions = {judge(path.parent).session for path in tmp_path.glob("*/*/run.json")}
    assert len(sessions) == 1
    again: list[str] = []

    def measure(run: RunConfig, *arguments: Any, **options: Any) -> Outcome:
        found = task.measure(run, *arguments, **options)
        if found.state is State.done:
            assert found.before
        return found

    valid = all("invalid" not in line for line in first)
    capacity.find(cfg, measure, again.append)
    if valid:
        assert [line for line in again if "measured before" in line]
        assert again[-1] == first[-1]
