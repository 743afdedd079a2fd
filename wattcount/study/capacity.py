"""The highest rate that keeps an SLO: a figure of a load curve, computed from the results of runs of a server at several rates.

A search (`sweep.capacity`) chooses the rates. What it found is in its records and nowhere else, so that any records of one setting at
several rates with an SLO tell a capacity (`wattcount results --capacity`).

**The interval.** A rate surely keeps the SLO where even the lower end of the interval of its share of good requests does, and surely
breaks it where even the upper end does. Requests that meet one queue are good or late together, so they tell less than as many
independent ones: the window is parted into BATCHES stretches, and how their shares scatter says how much less (batch means: Law and
Carson, Operations Research 27 (1979) 1011). The interval of a share is Wilson's (J. Am. Stat. Assoc. 22 (1927) 209). Simulated
queues with known capacity are in `tests/study/test_capacity.py`: as if requests were independent, intervals of 95 % hold it in 42 to
93 % of the searches; by batch means in 97 to 100 %.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wattcount.config.identity import key_of
from wattcount.config.schema import SloConfig
from wattcount.errors import WattcountError
from wattcount.metrics.metrics_json import spec
from wattcount.metrics.service import kept_slo
from wattcount.records import Record
from wattcount.report.labels import board_of, evidence_label, gpu_label, slo_in_words
from wattcount.report.units import columns, count, markdown, quantity, significant
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import Result
from wattcount.statistics import t_975
from wattcount.study.pooled import csv_of
from wattcount.study.selection import TOKENS, by
from wattcount.text import printable

BATCHES = 10
"""Stretches of a window. Fewer tell little of their scatter; of more each is too short to be independent of its neighbours."""
NEAR = 1.25
"""Rates within this factor tell of each other's scatter: a window in which all is good by luck tells of none by itself."""
SENT_SHARE = 0.97
"""A run that sent fewer than this share of the requests that were planned held the others back (`scenario.max_in_flight`): they are not good."""


@dataclass(frozen=True)
class Probe:
    """What a run at one rate showed.

    good, sent   requests sent in its window: those that kept every bound, and all; where fewer were sent than planned, all that were planned
    served_rps   requests completed in the window, per second
    valid        False: the run was invalid, so the load may not have been the one asked for; it keeps no SLO. That it broke one is
                 believed: what makes a run invalid makes no request faster
    spread       how many times larger the variance of its share is than of as many independent requests; None: the window does not tell
    """

    rate_rps: float
    good: int
    sent: int
    served_rps: float | None = None
    valid: bool = True
    spread: float | None = 1.0

    @property
    def share(self) -> float:
        return self.good / self.sent if self.sent else 0.0

    def keeps(self, attainment: float) -> bool:
        return self.valid and self.sent > 0 and self.share >= attainment

    def interval(self, spread: float = 1.0) -> tuple[float, float]:
        """Of the share, 95 % (Wilson, of as many independent requests as these amount to)."""
        if not self.sent:
            return 0.0, 1.0
        # The variance is known from BATCHES stretches.
        quantile = t_975(BATCHES - 1)
        n, p, z2 = max(self.sent / spread, 1.0), self.share, quantile * quantile
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = quantile * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - half), min(1.0, middle + half)


def spread_of(good: npt.NDArray[np.bool_]) -> float | None:
    """`Probe.spread` of requests in the order in which they were sent; None: all are alike, or they are too few."""
    if len(good) < 2 * BATCHES or good.all() or not good.any():
        return None
    shares = np.array([part.mean() for part in np.array_split(good, BATCHES)])
    share = float(good.mean())
    return max(1.0, float(shares.var(ddof=1)) / BATCHES / (share * (1 - share) / len(good)))


@dataclass(frozen=True)
class Capacity:
    """What probes tell.

    rate_rps     the highest rate that kept the SLO; None: none did
    broken_rps   the lowest rate above it that did not; None: all rates kept it
    low_rps, high_rps   95 %: the highest rate that surely kept it, the lowest one that surely did not; None: no run was that sure
    """

    rate_rps: float | None
    broken_rps: float | None
    low_rps: float | None
    high_rps: float | None


def bracket(probes: Iterable[Probe], attainment: float) -> tuple[float | None, float | None]:
    """The highest rate that kept the SLO below the lowest one that broke it, and that one."""
    probes = list(probes)
    high = min((probe.rate_rps for probe in probes if not probe.keeps(attainment)), default=None)
    kept = [probe.rate_rps for probe in probes if probe.keeps(attainment)]
    return max((rate for rate in kept if high is None or rate < high), default=None), high


def capacity(probes: Sequence[Probe], attainment: float) -> Capacity:
    low, high = bracket(probes, attainment)
    sure = [(probe.rate_rps, *probe.interval(_spread_near(probe, probes))) for probe in probes if probe.valid]
    broken = min((rate for rate, _, most in sure if most < attainment), default=None)
    kept = [rate for rate, least, _ in sure if least >= attainment]
    return Capacity(
        low, high, max((rate for rate in kept if broken is None or rate < broken), default=None), broken
    )


def _spread_near(probe: Probe, probes: Iterable[Probe]) -> float:
    """The largest one of rates NEAR this one; of the nearest rate where none of these tells; 1 where none tells at all."""
    known = [
        (abs(math.log(other.rate_rps / probe.rate_rps)), other.spread)
        for other in probes
        if other.spread is not None
    ]
    near = [spread for distance, spread in known if distance <= math.log(NEAR)]
    return max(near) if near else min(known)[1] if known else 1.0


# --- of results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadCurve:
    """The runs of one setting, seed and repeat at several rates, by increasing rate, each with its probe."""

    results: tuple[Result, ...]
    probes: tuple[Probe, ...]
    slo: SloConfig

    @property
    def found(self) -> Capacity:
        return capacity(self.probes, self.slo.attainment)

    @property
    def at_capacity(self) -> Result | None:
        """The run at the capacity; None: there is none."""
        rates = {probe.rate_rps: result for probe, result in zip(self.probes, self.results, strict=True)}
        return rates.get(self.found.rate_rps or 0.0)

    @property
    def name(self) -> str:
        """`llama3_8b on NVIDIA H200, fp8, r0`: what its runs share, without their rate."""
        run = self.results[0]
        words = [f"{run.model or 'unknown model'} on {gpu_label(run.gpus)}", *run.particulars, *run.levers]
        return printable(", ".join([*words, f"r{run.repeat or 0}"]), lines=False)


def probe_of(result: Result, slo: SloConfig) -> Probe | None:
    """What a run shows of an SLO, by the requests in its record; None: it has no window, or cannot be read."""
    if result.record is None or result.rate_rps is None:
        return None
    try:
        good = kept_slo(Record.open(result.record), slo)
    except (WattcountError, OSError):
        return None
    if good is None:
        return None
    offered, window_s = result.value("load/offered_rps"), result.window_s
    if offered and window_s and len(good) < SENT_SHARE * (planned := round(offered * window_s)):
        # Evenly over the window: when each was planned does not matter for how many are good.
        good = np.insert(good, np.linspace(0, len(good), planned - len(good)).astype(int), False)
    served = result.value("throughput/requests_per_s")
    return Probe(result.rate_rps, int(good.sum()), len(good), served, result.valid, spread_of(good))


def load_curves(results: Iterable[Result]) -> list[LoadCurve]:
    """Of every setting that was measured at two rates or more with an SLO; of several runs at one rate the latest valid one."""
    found = []
    for runs in by(results, _key).values():
        slo = None if _key(runs[0]) is None else _slo(runs[0])
        if slo is None:
            continue
        latest: dict[float | None, Result] = {}
        for run in sorted(runs, key=lambda run: (run.valid, run.run_id or "")):
            latest[run.rate_rps] = run
        at = sorted(latest.values(), key=lambda run: run.rate_rps or 0.0)
        pairs = [(run, probe) for run in at if (probe := probe_of(run, slo)) is not None]
        if len(pairs) >= 2:
            found.append(LoadCurve(tuple(run for run, _ in pairs), tuple(probe for _, probe in pairs), slo))
    return found


def _key(run: Result) -> tuple[Any, ...] | None:
    """What the runs of one load curve share; None: it is of none."""
    if run.kind != "server" or run.rate_rps is None or not run.setting.get("scenario", {}).get("slo"):
        return None
    return (key_of(run.setting, without=("scenario.rate_rps",)), run.seed, run.repeat)


def _slo(run: Result) -> SloConfig | None:
    """What was asked for, with the share that is to keep it, which is no part of a setting."""
    if run.record is None:
        return None
    try:
        return Record.open(run.record).info.resolved.scenario.slo
    except (WattcountError, OSError):
        return None


# --- for people -------------------------------------------------------------------------------------

HEADINGS = ("req/s", "good", "TTFT p95", "TPOT p95", "tokens/s", "power", "J/token", "SLO")
"""Of the table of a load curve."""
SHORT = ("capacity", "95 %", "broken at", "probes", "power", "J/token")
"""Of the table of several capacities, in requests/s, before what each is of."""
EXPLANATION = (
    "Requests per second that keep the SLO. 95 %: the highest rate that surely kept it to the lowest that surely did not, by how "
    "the requests of each window scatter; ?: no run was that sure."
)
"""What is said below such tables."""


def curve_cells(curve: LoadCurve) -> list[list[str]]:
    """A row a rate, under HEADINGS."""
    attainment = curve.slo.attainment
    return [
        [
            f"{probe.rate_rps:g}",
            f"{100 * probe.share:.3g} %",
            *(quantity(result.value(f"latency/{name}_ms"), "ms", 3) for name in ("ttft_p95", "tpot_p95")),
            significant(result.value(TOKENS), 3),
            quantity(result.value(WATTS), "W", 3),
            quantity(result.value(PER_TOKEN), "J", 3),
            "kept" if probe.keeps(attainment) else "broken" if probe.valid else "invalid",
        ]
        for probe, result in zip(curve.probes, curve.results, strict=True)
    ]


def lines_of(probes: Sequence[Probe], slo: SloConfig) -> list[str]:
    """The capacity with its interval, in words."""
    found, runs = capacity(probes, slo.attainment), count(len(probes), "probe")
    if found.rate_rps is None:
        lowest = min(probe.rate_rps for probe in probes)
        return [
            f"capacity: none: {slo_in_words(slo)} was kept at no rate down to {lowest:g} requests/s ({runs})"
        ]
    if found.broken_rps is None:
        return [
            f"capacity: at least {found.rate_rps:g} requests/s: {slo_in_words(slo)} was kept at every rate ({runs})"
        ]
    wide = 100 * (found.broken_rps / found.rate_rps - 1)
    lines = [
        f"capacity: {found.rate_rps:g} requests/s keep {slo_in_words(slo)}",
        f"  broken at {found.broken_rps:g} requests/s, {significant(wide, 2)} % above; {runs}",
        f"  95 % interval by how requests scatter: {_or_unknown(found.low_rps)} to {_or_unknown(found.high_rps)} requests/s",
    ]
    if any(not probe.valid and probe.rate_rps == found.broken_rps for probe in probes):
        lines.append(
            "  the run just above was invalid: the limit may be that of the client or the host, not of the engine"
        )
    above = [
        probe.rate_rps
        for probe in probes
        if probe.keeps(slo.attainment) and probe.rate_rps > found.broken_rps
    ]
    if above:
        lines.append(
            f"  {max(above):g} requests/s kept it again: such runs scatter; lengthen scenario.window_s"
        )
    return lines


def to_lines(curves: Sequence[LoadCurve]) -> list[str]:
    """Each load curve with its capacity; of several the capacities side by side at the end."""
    lines: list[str] = []
    for curve in curves:
        table = columns(HEADINGS, curve_cells(curve), left=0).split("\n")
        lines += [curve.name, *table, *lines_of(curve.probes, curve.slo), ""]
    if len(curves) > 1:
        # Names last, and in one line: they may be longer than a terminal is wide.
        figures = columns(SHORT, [_short(curve) for curve in curves], left=0).split("\n")
        lines += [f"{line}  {name}" for line, name in zip(figures, ["of", *_own_names(curves)], strict=True)]
        lines.append("")
    return lines


def _short(curve: LoadCurve) -> list[str]:
    found, run = curve.found, curve.at_capacity
    rate = "none" if found.rate_rps is None else f"{found.rate_rps:g}"
    return [
        rate if found.broken_rps is not None else f"> {rate}",
        f"{_or_unknown(found.low_rps)} to {_or_unknown(found.high_rps)}",
        "-" if found.broken_rps is None else f"{found.broken_rps:g}",
        str(len(curve.probes)),
        quantity(None if run is None else run.value(WATTS), "W", 3),
        quantity(None if run is None else run.value(PER_TOKEN), spec(PER_TOKEN).unit, 3),
    ]


def _own_names(curves: Sequence[LoadCurve]) -> list[str]:
    """What each is called beside what all have in common."""
    parts = [f"{curve.name}, {slo_in_words(curve.slo)}".split(", ") for curve in curves]
    common = [part for part in parts[0] if all(part in other for other in parts)]
    return [", ".join(part for part in own if part not in common) or "as above" for own in parts]


def _or_unknown(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:g}"


def to_markdown(curves: Sequence[LoadCurve]) -> str:
    names = [f"{curve.name}, {slo_in_words(curve.slo)}".replace("|", "\\|") for curve in curves]
    rows = [[*_short(curve), name] for curve, name in zip(curves, names, strict=True)]
    parts = [markdown([*SHORT, "of"], rows), EXPLANATION]
    for curve in curves:
        parts += [f"**{curve.name}**, {slo_in_words(curve.slo)}", markdown(HEADINGS, curve_cells(curve))]
    return "\n\n".join(parts)


def to_json(curves: Iterable[LoadCurve]) -> list[dict[str, Any]]:
    """Plain numbers in the units of the registry of metrics; None: not known, or there is none."""
    return [_facts(curve) | {"probes": _probes(curve)} for curve in curves]


def _facts(curve: LoadCurve) -> dict[str, Any]:
    run, at, found = curve.results[0], curve.at_capacity, curve.found
    return {
        "name": curve.name,
        "model": run.model,
        "weights": run.weights,
        "gpu": gpu_label(run.gpus),
        "boards": [board_of(run)],
        "engine": run.engine,
        "engine_version": run.engine_version,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "levers": list(run.levers),
        "evidence": evidence_label(run.evidence, run.origin, run.weights),
        "seed": run.seed,
        "repeat": run.repeat,
        **{f"slo_{key}": value for key, value in dataclasses.asdict(curve.slo).items()},
        "capacity_rps": found.rate_rps,
        "capacity_low_rps": found.low_rps,
        "capacity_high_rps": found.high_rps,
        "broken_rps": found.broken_rps,
        PER_TOKEN: None if at is None else at.value(PER_TOKEN),
        WATTS: None if at is None else at.value(WATTS),
        "record": None if at is None else str(at.source),
    }


def _probes(curve: LoadCurve) -> list[dict[str, Any]]:
    names = (PER_TOKEN, WATTS, TOKENS, "latency/ttft_p95_ms", "latency/tpot_p95_ms")
    return [
        {
            "rate_rps": probe.rate_rps,
            "sent": probe.sent,
            "good": probe.good,
            "kept": probe.keeps(curve.slo.attainment),
            "valid": probe.valid,
            "spread": probe.spread,
            "served_rps": probe.served_rps,
            **{name: result.value(name) for name in names},
            "record": str(result.source),
        }
        for probe, result in zip(curve.probes, curve.results, strict=True)
    ]


def to_csv(curves: Iterable[LoadCurve]) -> str:
    """One line a capacity; JSON has the probes, too."""
    return csv_of([_facts(curve) for curve in curves])
