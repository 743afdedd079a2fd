"""Whether a result keeps an SLO: by percentiles of latency, the count of good requests where the run had this SLO, or its record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import Path

from wattcount.config.schema import SloConfig
from wattcount.errors import WattcountError
from wattcount.metrics.service import PERCENTILES, good_requests
from wattcount.records import Record
from wattcount.result.result import Result

KEPT_SHARE = 0.95
"""Share of requests that must keep an SLO for a setting to count as keeping it: what operators promise of a p95."""
MOST_COUNTED = 150
"""Most records in which requests are held against an SLO one by one: 50 ms each, so some seconds."""
MOST_KEPT = 4096
"""Counts that are kept, a few bytes each: several questions ask for the same record."""
NAMES = ("ttft", "tpot", "e2e")
"""Latencies that an SLO may bound, as in its keys."""


class Count(Enum):
    """When requests are counted in the records, beside what percentiles tell."""

    NEVER = 0
    WHERE_UNSURE = 1
    ALWAYS = 2

    @classmethod
    def affordable(cls, runs: Iterable[Result], slo: SloConfig) -> Count:
        """What takes no more than MOST_COUNTED records."""
        with_record = [run for run in runs if run.record is not None and run.kind == "server"]
        if len(with_record) <= MOST_COUNTED:
            return cls.ALWAYS
        unsure = sum((one := attained(run, slo)) is None or one.keeps is None for run in with_record)
        return cls.WHERE_UNSURE if unsure <= MOST_COUNTED else cls.NEVER


@dataclass(frozen=True)
class Attained:
    """Share of a run's requests that keep an SLO: between `low` and `high`; equal where it was counted."""

    low: float
    high: float

    @property
    def keeps(self) -> bool | None:
        """Whether KEPT_SHARE is reached; None: the figures do not tell."""
        if self.low >= KEPT_SHARE:
            return True
        return False if self.high < KEPT_SHARE else None


def bounds_of(slo: SloConfig) -> dict[str, float]:
    found = {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2e": slo.e2e_ms}
    return {name: bound for name, bound in found.items() if bound is not None}


def attained(run: Result, slo: SloConfig) -> Attained | None:
    """What the figures of a run tell. None: it has none that speak of this SLO, as a batch, which promises nobody a latency.

    A request that breaks a bound is in the share beyond it. The shares of several bounds may lie apart, so together at most their sum
    of requests breaks one, and at least the largest.
    """
    sent = run.value("requests/sent")
    asked = run.setting.get("scenario", {}).get("slo")
    if asked is not None and sent and {f"{n}_ms": b for n, b in bounds_of(slo).items()} == dict(asked):
        good = run.value("requests/good")
        if good is not None:
            return Attained(good / sent, good / sent)
    if run.kind == "batch":
        return None
    broken = [_broken(run, name, bound) for name, bound in bounds_of(slo).items()]
    if not broken:
        return Attained(1.0, 1.0)
    known = [found for found in broken if found is not None]
    if not known:
        return None
    least = max(low for low, _ in known)
    most = 1.0 if len(known) < len(broken) else min(1.0, sum(high for _, high in known))
    return Attained(1.0 - most, 1.0 - least)


def _broken(run: Result, name: str, bound_ms: float) -> tuple[float, float] | None:
    """(least, most) share of requests beyond a bound, by the percentiles that are known."""
    least, most, known = 0.0, 1.0, False
    for p in PERCENTILES:
        value = run.value(f"latency/{name}_p{p}_ms")
        if value is None:
            continue
        known = True
        share = 1.0 - p / 100.0
        if value <= bound_ms:
            most = min(most, share)
        else:
            least = max(least, share)
    return (least, most) if known else None


def counted(run: Result, slo: SloConfig) -> Attained | None:
    """What the requests in the run's record say, each held against the bounds; None where there is no record, or it cannot be read."""
    sent = run.value("requests/sent")
    if run.record is None or not sent or run.kind == "batch":
        return None
    good = _good(run.record, slo)
    return None if good is None else Attained(good / sent, good / sent)


@lru_cache(maxsize=MOST_KEPT)
def _good(record: Path, slo: SloConfig) -> int | None:
    try:
        return good_requests(Record.open(record), slo)
    except (WattcountError, OSError):
        return None


def over_runs(runs: Iterable[Result], slo: SloConfig, count: Count = Count.NEVER) -> Attained | None:
    """Of several runs, their mean; None where no run tells. `count`: when the requests in the records are counted, which takes some 50 ms a run."""
    found = []
    for run in runs:
        one = attained(run, slo)
        vague = (
            one is None or one.low < one.high if count is Count.ALWAYS else one is None or one.keeps is None
        )
        if count is not Count.NEVER and vague:
            one = counted(run, slo) or one
        if one is not None:
            found.append(one)
    if not found:
        return None
    return Attained(sum(one.low for one in found) / len(found), sum(one.high for one in found) / len(found))
