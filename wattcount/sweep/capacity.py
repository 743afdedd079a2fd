"""The search for the highest rate that keeps an SLO: `scenario=capacity`.

::

    Search.next_rate() --> a run of a server at that rate --> Search.add(Probe) --> ... --> the capacity
                           all on one start of the engine,
                           where the engine can be shared

It is one point of a sweep, also where it is the only one. A probe keeps the SLO where `scenario.slo.attainment` of the requests that
were sent in its window keep every bound. All probes have the same seed, so another rate is the same workload played faster or slower.
Each leaves a record as any run of a server does: one that is there already is not measured again, so a search that was broken off goes on
where it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from wattcount.config.schema import CapacityConfig, RunConfig, ScenarioKind, ServerConfig
from wattcount.engines import registry
from wattcount.errors import EXIT_OK
from wattcount.report.units import count
from wattcount.result import Result, judge
from wattcount.run.orchestrate import Display
from wattcount.run.session import Session
from wattcount.scenario.journal import Progress
from wattcount.study.capacity import LoadCurve, Probe, bracket, probe_of
from wattcount.sweep.point import Outcome, State, failed
from wattcount.sweep.status import figures_of

GROWTH = 8.0
"""Factor from one rate that keeps the SLO to the next one tried, as long as none broke it."""
OVERLOADED_SHARE = 0.97
"""A run that completed fewer than this share of the requests that came was overloaded: what it completed is what the engine can do."""
BELOW, ABOVE = 0.92, 1.03
"""The rates tried around what an overloaded engine completed, as its multiples: latencies break below it, and nothing is kept above it."""
HINT_SPREAD = 1.15
"""A bracket that is narrower than this is halved, whatever an overloaded engine completed."""
NEAR = 0.01
"""Rates that differ by less than this share are not tried both."""
FAREST = 2.0**14
"""The search gives up where the first rate, divided by this, does not keep the SLO either."""
DIGITS = 4
"""Significant digits of a rate: a point's identity has the rate, and a search that is started again must come to the same ones."""


class Search:
    """Which rate is tried next. Knows nothing of runs, so that it can be tried on any service."""

    def __init__(self, first_rps: float, attainment: float, tolerance: float, max_probes: int) -> None:
        self.probes: list[Probe] = []
        self._first_rps = first_rps
        self._attainment = attainment
        self._tolerance = tolerance
        self._max_probes = max_probes

    def add(self, probe: Probe) -> None:
        self.probes.append(probe)

    def next_rate(self) -> float | None:
        """The rate of the next run [requests/s]; None: the search is over."""
        if not self.probes:
            return _rounded(self._first_rps)
        if len(self.probes) >= self._max_probes:
            return None
        rate = self._candidate()
        if rate is None or any(probe.rate_rps == _rounded(rate) for probe in self.probes):
            return None
        return _rounded(rate)

    def _candidate(self) -> float | None:
        low, high = bracket(self.probes, self._attainment)
        if high is None:
            assert low is not None
            return low * GROWTH
        served = self._served()
        if low is None:
            if high <= self._first_rps / FAREST:
                return None
            if served is None:
                return high / GROWTH
            return served * BELOW if self._is_new(served * BELOW) and served * BELOW < high else high / 2
        if high / low <= 1 + self._tolerance:
            return None
        if served is not None and high / low > HINT_SPREAD:
            for factor in (BELOW, ABOVE):
                if low < served * factor < high and self._is_new(served * factor):
                    return served * factor
        return math.sqrt(low * high)

    def _is_new(self, rate: float) -> bool:
        return all(abs(probe.rate_rps / rate - 1) >= NEAR for probe in self.probes)

    def _served(self) -> float | None:
        """What the engine completed when more came than it could do [requests/s]; None: no run was that loaded."""
        loaded = [
            probe.served_rps
            for probe in self.probes
            if probe.served_rps and probe.served_rps < OVERLOADED_SHARE * probe.rate_rps
        ]
        return max(loaded, default=None)


def _rounded(rate: float) -> float:
    return float(f"{rate:.{DIGITS}g}")


def probe_config(cfg: RunConfig, rate_rps: float) -> RunConfig:
    """The run of a server at one rate."""
    searched = cfg.scenario
    assert isinstance(searched, CapacityConfig)
    values = {item.name: getattr(searched, item.name) for item in dataclasses.fields(ServerConfig)}
    scenario = ServerConfig(**(values | {"kind": ScenarioKind.server, "rate_rps": rate_rps}))
    return dataclasses.replace(cfg, scenario=scenario, resume=cfg.resume is not False)


def find(cfg: RunConfig, measure: Callable[..., Outcome], display: Display, **options: Any) -> Outcome:
    """Searches, says how it goes, and returns what was found. What interrupted a probe, or kept one from starting, ends it.

    measure   runs one point and returns its outcome: of the configuration, a display, and the options of a run
    display   is told of each probe, and how it stands
    """
    scenario, say = cfg.scenario, display.notice
    assert isinstance(scenario, CapacityConfig)
    slo = scenario.slo
    search = Search(scenario.rate_rps or 1.0, slo.attainment, scenario.tolerance, scenario.max_probes)
    outcomes: list[Outcome] = []
    results: list[Result] = []
    shared = (
        registry.plugin(cfg.engine.name).capabilities.can_be_shared and cfg.sweep.share_engine is not False
    )
    with Session() if shared else nullcontext() as session:
        options |= {"session": session, "last": session is None}
        while (rate := search.next_rate()) is not None:
            number = len(search.probes) + 1
            for attempt in range(1, cfg.sweep.attempts + 1):
                outcome = measure(probe_config(cfg, rate), _OfProbe(display), **options)
                if outcome.state is not State.invalid or attempt == cfg.sweep.attempts:
                    break
                probe = None if outcome.record is None else probe_of(judge(Path(outcome.record)), slo)
                if probe is None or probe.share < slo.attainment:
                    break  # the load was too much, for the client too: nothing is learnt from more of it
                say(f"probe {number}: {rate:g} requests/s: invalid: {outcome.message}; once more")
            if not outcome.ran or outcome.record is None:
                say(
                    f"the search stops after {count(len(search.probes), 'probe')}: start it again to go on with them"
                )
                return _summed(
                    dataclasses.replace(outcome, message=outcome.message or "a probe left no record"),
                    outcomes,
                )
            result = judge(Path(outcome.record))
            if (probe := probe_of(result, slo)) is None:
                return failed(
                    "no_window", f"{outcome.record}: its window cannot be read", record=outcome.record
                )
            search.add(probe)
            outcomes.append(outcome)
            results.append(result)
            say(f"probe {number}: {_probe_line(probe, slo.attainment, before=outcome.before)}")
            if not probe.valid:
                say(f"probe {number}: the run is invalid: {'; '.join(result.messages)}")
    order = sorted(range(len(results)), key=lambda at: search.probes[at].rate_rps)
    curve = LoadCurve(tuple(results[at] for at in order), tuple(search.probes[at] for at in order), slo)
    return _found(curve, outcomes)


def _found(curve: LoadCurve, outcomes: list[Outcome]) -> Outcome:
    """The outcome of the search: its figures are those of the run at the capacity, and the capacity with its interval."""
    capacity, at = curve.found, curve.at_capacity or curve.results[0]
    figures = {
        "capacity_rps": capacity.rate_rps,
        "capacity_low_rps": capacity.low_rps,
        "capacity_high_rps": capacity.high_rps,
    }
    own = next(outcome for outcome in outcomes if outcome.record == str(at.source))
    return _summed(
        dataclasses.replace(
            own,
            state=State.done,
            exit_code=EXIT_OK,
            reason=None,
            message=None,
            before=all(outcome.before for outcome in outcomes),
            figures=figures | figures_of(at),
        ),
        outcomes,
    )


def _summed(outcome: Outcome, probes: list[Outcome]) -> Outcome:
    """With the records, the time and the energy of all probes."""
    records = dict.fromkeys(probe.record for probe in [*probes, outcome] if probe.record is not None)
    measured = [probe for probe in probes if not probe.before]
    times = [probe.wall_s for probe in measured if probe.wall_s is not None]
    energies = [probe.energy_j for probe in measured if probe.energy_j is not None]
    return dataclasses.replace(
        outcome,
        records=tuple(records),
        wall_s=sum(times) if times else None,
        energy_j=sum(energies) if energies else None,
    )


def _probe_line(probe: Probe, attainment: float, *, before: bool) -> str:
    verdict = "keeps the SLO" if probe.keeps(attainment) else "breaks the SLO"
    measured = ", measured before" if before else ""
    share = f"{100 * probe.share:.4g} % of {probe.sent:,} requests good"
    return f"{probe.rate_rps:g} requests/s: {share}: {verdict}{measured}"


class _OfProbe(Display):
    """Shows a probe in the display of its search, which begins and ends once."""

    def __init__(self, display: Display) -> None:
        self._display = display

    def started(self, cfg: RunConfig) -> None:
        self._display.started(cfg)

    def progress(self, progress: Progress) -> None:
        self._display.progress(progress)

    def notice(self, text: str) -> None:
        self._display.notice(text)

    def tick(self) -> None:
        self._display.tick()

    def ended(self, record_path: Path | None) -> None: ...
