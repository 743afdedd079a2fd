"""The search for the highest rate that keeps an SLO: on services whose capacity is known, and on the tiny engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wattcount.cli.main import main
from wattcount.config import compose
from wattcount.config.schema import RunConfig, ScenarioKind
from wattcount.errors import EXIT_INTERRUPTED, NotStartedError
from wattcount.result import judge
from wattcount.run.orchestrate import Display
from wattcount.scenario.journal import Progress
from wattcount.study.capacity import Capacity, Probe
from wattcount.study.capacity import capacity as found
from wattcount.sweep import capacity, task
from wattcount.sweep.capacity import Search
from wattcount.sweep.ledger import read_state
from wattcount.sweep.point import Outcome, State, decode, encode, refused
from wattcount.sweep.status import sweep_page

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


def found_by(search: Search) -> Capacity:
    return found(search.probes, 0.95)


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
    found = found_by(search)
    assert found.rate_rps is not None
    assert found.broken_rps is not None
    assert len(search.probes) <= 10
    assert found.rate_rps == pytest.approx(want, rel=0.03)
    assert found.rate_rps <= want * 1.001 <= found.broken_rps * 1.002


def test_an_slo_that_no_rate_keeps() -> None:
    search = searched(lambda rate: Probe(rate, 0, SENT, rate), 8.0)
    assert found_by(search).rate_rps is None


def test_an_slo_that_every_rate_keeps() -> None:
    search = searched(lambda rate: Probe(rate, SENT, SENT, rate), 8.0, max_probes=4)
    assert [probe.rate_rps for probe in search.probes] == [8.0, 64.0, 512.0, 4096.0]
    assert found_by(search).broken_rps is None


def test_an_invalid_run_keeps_nothing() -> None:
    search = searched(lambda rate: Probe(rate, SENT, SENT, rate, valid=rate < 20), 8.0)
    found = found_by(search)
    assert found.rate_rps is not None
    assert found.rate_rps < 20 <= (found.broken_rps or 0.0)


ASKED = [
    "engine=tiny", "power=emulated", "model=tiny", "gpu=h200", "tracking=none", "scenario=capacity", "scenario.slo.tpot_ms=null",
    "scenario.slo.ttft_ms=60",
]  # fmt: skip


def test_a_probe_is_a_run_of_a_server() -> None:
    cfg = compose([*ASKED, "scenario.arrivals.kind=constant", "scenario.window_s=7"])
    probe = capacity.probe_config(cfg, 12.5)
    assert probe.scenario.kind is ScenarioKind.server
    assert probe.scenario == compose(
        [*ASKED[:-3], "scenario=server", "scenario.name=capacity", "scenario.slo.ttft_ms=60", "scenario.rate_rps=12.5",
         "scenario.arrivals.kind=constant", "scenario.window_s=7", "scenario.drain_limit_s=120"]
    ).scenario  # fmt: skip


def test_a_search_without_a_bound_is_refused() -> None:
    with pytest.raises(NotStartedError, match=r"^scenario\.slo: .*ttft_ms"):
        compose([*ASKED[:-1], "scenario.slo.ttft_ms=null", "scenario.slo.tpot_ms=null"])


class Told(Display):
    """Keeps what it is told, and shows nothing."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def started(self, cfg: RunConfig) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def notice(self, text: str) -> None:
        self.said.append(text)

    def tick(self) -> None: ...

    def ended(self, record_path: Path | None) -> None: ...


def test_a_probe_that_is_interrupted_or_refused_ends_the_search() -> None:
    for ended in (
        refused("no GPU"),
        Outcome(State.failed, exit_code=EXIT_INTERRUPTED, message="interrupted"),
    ):
        told = Told()
        cfg = compose([*ASKED, "sweep.share_engine=false"])
        outcome = capacity.find(cfg, lambda *_, ended=ended, **__: ended, told)
        assert (outcome.state, outcome.exit_code, outcome.message) == (
            ended.state,
            ended.exit_code,
            ended.message,
        )
        assert told.said == ["the search stops after 0 probes: start it again to go on with them"]


SHORT = [
    *(f"scenario.{key}=0.05" for key in ("bare_idle_s", "loaded_idle_s", "bare_idle_after_s")),
    "scenario.warmup_s=0", "scenario.window_s=1", "scenario.lengths.input_tokens=16", "scenario.lengths.output_tokens=4",
    "scenario.rate_rps=40", "scenario.max_probes=2", "scenario.slo.ttft_ms=60000",
]  # fmt: skip


def test_a_search_is_one_outcome_with_all_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the second one measures nothing: each probe finds its record."""
    cfg = compose([*ASKED, *SHORT, f"records_dir={tmp_path}"])
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    first = Told()
    outcome = task.measure(cfg, first)
    assert (outcome.state, outcome.exit_code, outcome.before) == (State.done, 0, False)
    records = [Path(record) for record in outcome.records]
    assert len(records) == 2
    assert set(records) <= {path.parent for path in tmp_path.glob("*/*/run.json")}
    assert len({judge(record).session for record in records}) == 1
    assert outcome.wall_s == pytest.approx(sum(judge(record).wall_s or 0.0 for record in records))
    assert outcome.record in outcome.records
    assert decode(encode(outcome)) == outcome
    assert {"capacity_rps", "capacity_low_rps", "capacity_high_rps"} <= set(outcome.figures)
    if any("invalid" in line for line in first.said):  # the machine was too busy for the load
        return
    again = task.measure(cfg, Told())
    assert (again.records, again.record, again.before) == (outcome.records, outcome.record, True)
    assert again.figures == outcome.figures


def test_searches_of_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [item for item in ASKED if not item.startswith("gpu=")]
    overrides = [*asked, *SHORT, "gpu=h200,a100", f"records_dir={tmp_path}", "sweep.name=capacities"]
    # Searches that differ in what is promised to how many are different points, though their runs are the same.
    assert main(["-m", *overrides, "scenario.slo.attainment=0.9,0.99", "dry_run=true"]) == 0
    assert "sweep capacities: 4 points: 4 to run" in capsys.readouterr().out
    assert main(["-m", *overrides]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\ncapacity: ") == 2
    assert "wattcount results capacities" in shown
    state = read_state(tmp_path, "capacities")
    assert state.counts[State.done] == 2
    records = {record for outcome in state.outcomes.values() for record in outcome.records}
    assert len(records) == 4
    assert set(state.records) == records
    page = sweep_page(state, tmp_path)
    assert page.results.startswith("| capacity |")
    assert main(["results", "capacities", "--capacity", "--json", "--records-dir", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [curve["gpu"] for curve in found] == ["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]
    assert {probe["record"] for curve in found for probe in curve["probes"]} == records


def test_a_search_alone_is_a_sweep_of_one_point(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, *SHORT, f"records_dir={tmp_path}", "sweep.name=alone", "dry_run=true"]) == 0
    assert "sweep alone: 1 point: 1 to run" in capsys.readouterr().out
    assert not list(tmp_path.glob("*/*/run.json"))
