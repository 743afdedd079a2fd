"""The highest rate that keeps an SLO, found by itself: `scenario=capacity`.

::

    Search.next_rate() --> a run of a server at that rate --> Search.add(Probe) --> ... --> Search.capacity()
                           all on one start of the engine,
                           where the engine can be shared

A probe keeps the SLO where `scenario.slo.attainment` of the requests that were sent in its window keep every bound. All probes have the
same seed, so another rate is the same workload played faster or slower. Each leaves a record as any run of a server does: one that is
there already is not measured again, so a search that was broken off goes on where it was.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from wattcount.config.schema import CapacityConfig, RunConfig, ScenarioKind, ServerConfig, SloConfig
from wattcount.engines import registry
from wattcount.errors import EXIT_OK
from wattcount.metrics.service import good_requests
from wattcount.records import Record
from wattcount.report.labels import caveats, headline
from wattcount.report.units import count, duration, quantity, significant
from wattcount.result import Result, judge
from wattcount.run.display import InBackground
from wattcount.run.orchestrate import Display
from wattcount.run.session import Session
from wattcount.scenario.journal import Progress
from wattcount.sweep import task
from wattcount.sweep.planner import predict
from wattcount.sweep.point import Outcome, State, failed
from wattcount.terminal import console, table

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
Z95 = 1.959964
"""Quantile of the normal distribution for a two-sided interval of 95 %."""
DIGITS = 4
"""Significant digits of a rate: a point's identity has the rate, and a search that is started again must come to the same ones."""


@dataclass(frozen=True)
class Probe:
    """What a run at one rate showed.

    good, sent   requests sent in its window: those that kept every bound, and all
    served_rps   requests completed in the window, per second
    valid        False: the run was invalid, so the load may not have been the one asked for; it keeps no SLO. That it broke one is
                 believed: what makes a run invalid makes no request faster
    """

    rate_rps: float
    good: int
    sent: int
    served_rps: float | None = None
    valid: bool = True

    @property
    def share(self) -> float:
        return self.good / self.sent if self.sent else 0.0

    def keeps(self, attainment: float) -> bool:
        return self.valid and self.sent > 0 and self.share >= attainment

    def interval(self) -> tuple[float, float]:
        """Of the share, 95 % (Wilson): what another sample of as many requests would leave open."""
        if not self.sent:
            return 0.0, 1.0
        n, p, z2 = self.sent, self.share, Z95 * Z95
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class Capacity:
    """What a search found.

    rate_rps     the highest rate that kept the SLO; None: none did
    broken_rps   the lowest rate above it that did not; None: all rates kept it
    low_rps, high_rps   95 %: the highest rate that surely kept it, the lowest one that surely did not, by the number of requests of
                        those runs; None: no run was that sure
    """

    rate_rps: float | None
    broken_rps: float | None
    low_rps: float | None
    high_rps: float | None


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

    def capacity(self) -> Capacity:
        low, high = self._bracket()
        sure = [(probe.rate_rps, *probe.interval()) for probe in self.probes if probe.valid]
        kept = [rate for rate, least, _ in sure if least >= self._attainment]
        broken = [rate for rate, _, most in sure if most < self._attainment]
        high_sure = min(broken, default=None)
        low_sure = max((rate for rate in kept if high_sure is None or rate < high_sure), default=None)
        return Capacity(low, high, low_sure, high_sure)

    def _bracket(self) -> tuple[float | None, float | None]:
        """The highest rate that kept the SLO below the lowest one that broke it, and that one."""
        broken = [probe.rate_rps for probe in self.probes if not probe.keeps(self._attainment)]
        high = min(broken, default=None)
        kept = [probe.rate_rps for probe in self.probes if probe.keeps(self._attainment)]
        return max((rate for rate in kept if high is None or rate < high), default=None), high

    def _candidate(self) -> float | None:
        low, high = self._bracket()
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


def probe_of(cfg: RunConfig, rate_rps: float) -> RunConfig:
    """The run of a server at one rate."""
    searched = cfg.scenario
    assert isinstance(searched, CapacityConfig)
    values = {item.name: getattr(searched, item.name) for item in dataclasses.fields(ServerConfig)}
    scenario = ServerConfig(**(values | {"kind": ScenarioKind.server, "rate_rps": rate_rps}))
    return dataclasses.replace(cfg, scenario=scenario, resume=cfg.resume is not False)


def plan_line(cfg: RunConfig) -> str:
    """How long a search takes, by data sheets."""
    scenario = cfg.scenario
    assert isinstance(scenario, CapacityConfig)
    expected = predict(probe_of(cfg, scenario.rate_rps or 1.0), follows=True)
    most_s = scenario.max_probes * expected.wall_s
    return (
        f"search: from {scenario.rate_rps:g} requests/s on, at most {count(scenario.max_probes, 'run')}, about "
        f"{duration(most_s)} of them and one start of the engine"
    )


def find(
    cfg: RunConfig, measure: Callable[..., Outcome] = task.measure, say: Callable[[str], object] | None = None
) -> Outcome:
    """Searches, prints what was found, and returns how it went. Whatever a probe was interrupted by, or could not start for, ends it.

    measure  runs one point; see `task.measure`
    """
    say = say or _say
    scenario = cfg.scenario
    assert isinstance(scenario, CapacityConfig)
    search = Search(
        scenario.rate_rps or 1.0, scenario.slo.attainment, scenario.tolerance, scenario.max_probes
    )
    results: list[Result] = []
    shared = (
        registry.plugin(cfg.engine.name).capabilities.can_be_shared and cfg.sweep.share_engine is not False
    )
    with Session() if shared else nullcontext() as session:
        options = {} if session is None else {"session": session, "last": False}
        while (rate := search.next_rate()) is not None:
            number = len(search.probes) + 1
            say(f"probe {number}: {rate:g} requests/s")
            for attempt in range(1, cfg.sweep.attempts + 1):
                outcome = measure(probe_of(cfg, rate), InBackground(_ProbeDisplay(say)), **options)
                if outcome.state is not State.invalid or attempt == cfg.sweep.attempts:
                    break
                if not _kept(rate, outcome, scenario.slo):
                    break  # the load was too much, for the client too: nothing is learnt from more of it
                say(f"  invalid: {outcome.message}; once more")
            if not outcome.ran or outcome.record is None:
                say(
                    f"the search stops after {count(len(search.probes), 'probe')}: start it again to go on with them"
                )
                return (
                    outcome
                    if outcome.message
                    else dataclasses.replace(outcome, message="a probe left no record")
                )
            result = judge(Path(outcome.record))
            probe = _probe(rate, result, scenario.slo)
            if probe is None:
                return failed(
                    "no_window", f"{outcome.record}: its window cannot be read", record=outcome.record
                )
            search.add(probe)
            results.append(result)
            say(f"  {_probe_line(probe, scenario.slo.attainment, before=outcome.before)}")
            if not probe.valid:
                say(f"  the run is invalid: {'; '.join(result.messages)}")
    _report(cfg, search, results, say)
    return Outcome(State.done, exit_code=EXIT_OK)


def _probe(rate: float, result: Result, slo: SloConfig) -> Probe | None:
    sent = result.value("requests/sent")
    if result.record is None or sent is None:
        return None
    good = good_requests(Record.open(result.record), slo)
    served = result.value("throughput/requests_per_s")
    return None if good is None else Probe(rate, good, round(sent), served, result.valid)


def _kept(rate: float, outcome: Outcome, slo: SloConfig) -> bool:
    """Whether the requests of an invalid run kept the SLO all the same."""
    if outcome.record is None:
        return False
    probe = _probe(rate, judge(Path(outcome.record)), slo)
    return probe is not None and probe.share >= slo.attainment


def _probe_line(probe: Probe, attainment: float, *, before: bool) -> str:
    verdict = "keeps the SLO" if probe.keeps(attainment) else "breaks the SLO"
    measured = ", measured before" if before else ""
    return f"{100 * probe.share:.4g} % of {probe.sent:,} requests are good: {verdict}{measured}"


HEADINGS = ("req/s", "good", "TTFT p95", "TPOT p95", "tokens/s", "power", "J/token", "SLO")
"""Of the table of the load curve."""


def _report(cfg: RunConfig, search: Search, results: Sequence[Result], say: Callable[[str], object]) -> None:
    """The load curve, and below it the capacity."""
    scenario = cfg.scenario
    assert isinstance(scenario, CapacityConfig)
    say("")
    say(_without_rate(cfg))
    for line in caveats(None if not results else str(results[0].evidence), cfg.model.weights.value):
        say(line)
    shown = table(HEADINGS, words=0)
    attainment = scenario.slo.attainment
    for probe, result in sorted(zip(search.probes, results, strict=True), key=lambda pair: pair[0].rate_rps):
        kept = "kept" if probe.keeps(attainment) else "broken" if probe.valid else "invalid"
        shown.add_row(
            f"{probe.rate_rps:g}",
            f"{100 * probe.share:.3g} %",
            *(quantity(result.value(f"latency/{name}_ms"), "ms", 3) for name in ("ttft_p95", "tpot_p95")),
            significant(result.value("throughput/output_tokens_per_s"), 3),
            quantity(result.value("power/gpu_mean_w"), "W", 3),
            quantity(result.value("energy/gpu_j_per_output_token"), "J", 3),
            kept,
        )
    if say is _say:
        console().print(shown)
    for line in result_lines(search, scenario.slo):
        say(line)


def _without_rate(cfg: RunConfig) -> str:
    scenario = cfg.scenario
    assert isinstance(scenario, CapacityConfig)
    return headline(probe_of(cfg, scenario.rate_rps or 1.0)).replace(
        f"server {scenario.rate_rps:g} requests/s", "capacity"
    )


def slo_in_words(slo: SloConfig) -> str:
    """`TTFT up to 500 ms and TPOT up to 50 ms for 95 % of the requests`."""
    bounds = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    words = " and ".join(f"{name} up to {bound:g} ms" for name, bound in bounds if bound is not None)
    return f"{words} for {100 * slo.attainment:g} % of the requests"


def result_lines(search: Search, slo: SloConfig) -> list[str]:
    """The capacity with its interval, in words."""
    found, probes = search.capacity(), count(len(search.probes), "probe")
    if found.rate_rps is None:
        lowest = min(probe.rate_rps for probe in search.probes)
        return [
            f"capacity: none: {slo_in_words(slo)} was kept at no rate down to {lowest:g} requests/s ({probes})"
        ]
    if found.broken_rps is None:
        return [
            f"capacity: at least {found.rate_rps:g} requests/s: {slo_in_words(slo)} was kept at every rate ({probes})"
        ]
    wide = 100 * (found.broken_rps / found.rate_rps - 1)
    lines = [
        f"capacity: {found.rate_rps:g} requests/s keep {slo_in_words(slo)}",
        f"  broken at {found.broken_rps:g} requests/s, {wide:.2g} % above; {probes}",
        f"  95 % interval by the number of requests: {_or_unknown(found.low_rps)} to {_or_unknown(found.high_rps)} requests/s",
    ]
    if any(not probe.valid and probe.rate_rps == found.broken_rps for probe in search.probes):
        lines.append(
            "  the run just above was invalid: the limit may be that of the client or the host, not of the engine"
        )
    above = [
        probe for probe in search.probes if probe.keeps(slo.attainment) and probe.rate_rps > found.broken_rps
    ]
    if above:
        lines.append(
            f"  {max(probe.rate_rps for probe in above):g} requests/s kept it again: such runs scatter; lengthen scenario.window_s"
        )
    return lines


def _or_unknown(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:g}"


def _say(line: str) -> None:
    print(line, flush=True)


class _ProbeDisplay(Display):
    """One line for each part of a probe that takes long."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._phase: object = None

    def started(self, cfg: RunConfig) -> None: ...

    def progress(self, progress: Progress) -> None:
        if progress.phase is self._phase or progress.phase is None:
            return
        self._phase = progress.phase
        if sys.stdout.isatty():
            self._say(f"  {progress.phase.value.replace('_', ' ')}")

    def notice(self, text: str) -> None:
        self._say(f"  {text}")

    def tick(self) -> None: ...

    def ended(self, record_path: Path | None) -> None: ...
