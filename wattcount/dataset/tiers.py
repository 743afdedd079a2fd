"""How far a result of the data set is to be trusted: `validated`, or `reproduced` by somebody else.

validated    the validator found nothing to reject in its record
reproduced   besides, another submitter (or the maintainers) measured the same setting, and what both say of the energy per output token
             differs by less than MARGIN, with the 95 % interval of the difference

A difference between two submitters has three parts. Starts of an engine scatter: their part is in the interval, from both
submitters' repeats and from how far starts scatter elsewhere (`result.host_part`). Boards differ, and so do their sensors: that part is in
the difference itself, and MARGIN has room for it. So two submitters who each started the engine once or twice can reproduce nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations

from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.result.result import OWN
from wattcount.study.comparison import by_chance
from wattcount.study.selection import by, valid

MARGIN = 0.10
"""By how much two submitters may differ in energy per output token, interval included [share]. The sensors of two boards may differ
by 7 % (5 % each, 95 %: docs/uncertainty.md), and two means of three starts by 2 to 4 % by chance."""
MIN_STARTS = 3
"""Least number of starts of the engine that each of both submitters measured [1]: as many as the sweep `submission` has."""


class Tier(StrEnum):
    """From the lower to the higher."""

    VALIDATED = "validated"
    REPRODUCED = "reproduced"


@dataclass(frozen=True)
class Comparison:
    """What two submitters say of one setting.

    starts             of the engine, by each of both
    percent            the second against the first, energy per output token
    half_width_percent 95 %; by chance alone
    """

    setting_key: str
    submitters: tuple[str, str]
    starts: tuple[int, int]
    percent: float
    half_width_percent: float

    @property
    def agree(self) -> bool:
        """Whether the whole interval of the difference lies within the margin, and both measured often enough."""
        within = abs(self.percent) + self.half_width_percent <= 100 * MARGIN
        return within and min(self.starts) >= MIN_STARTS

    @property
    def words(self) -> str:
        """A line for people."""
        first, second = self.submitters
        text = (
            f"{second} against {first}: {self.percent:+.1f} % (± {self.half_width_percent:.1f} % by chance)"
        )
        if min(self.starts) < MIN_STARTS:
            return f"{text}, but {min(self.starts)} starts of the engine are fewer than {MIN_STARTS}"
        return f"{text}, {'within' if self.agree else 'not within'} {100 * MARGIN:.0f} %"


def tiers(results: Iterable[Result]) -> dict[tuple[str, str], Tier]:
    """By setting and submitter. Results that are no measurement, have no setting or are not valid have no tier."""
    found: dict[tuple[str, str], Tier] = {}
    for setting, submitters in _measured(results).items():
        compared = _comparisons(setting, submitters)
        reproduced = {name for comparison in compared if comparison.agree for name in comparison.submitters}
        for name in submitters:
            found[setting, name] = Tier.REPRODUCED if name in reproduced else Tier.VALIDATED
    return found


def comparisons(results: Iterable[Result]) -> list[Comparison]:
    """Of every setting, each two submitters who measured it, by the order of setting and submitters."""
    return [
        comparison
        for setting, submitters in _measured(results).items()
        for comparison in _comparisons(setting, submitters)
    ]


def _measured(results: Iterable[Result]) -> Mapping[str, Mapping[str, Sequence[Result]]]:
    """By setting and submitter the results that count, both sorted."""
    counted = [
        result
        for result in valid(results)
        if result.origin == OWN
        and result.evidence is Evidence.MEASURED
        and result.setting_key
        and result.by
        and _positive(result)
    ]
    settings = by(counted, lambda result: str(result.setting_key))
    return {
        setting: dict(sorted(by(found, lambda result: str(result.by)).items()))
        for setting, found in sorted(settings.items())
    }


def _positive(result: Result) -> bool:
    value = result.value(PER_TOKEN)
    return value is not None and value > 0


def _comparisons(setting: str, submitters: Mapping[str, Sequence[Result]]) -> list[Comparison]:
    starts = {
        name: len(by(found, lambda run: run.session or run.run_id)) for name, found in submitters.items()
    }
    made = []
    for first, second in combinations(submitters, 2):
        found = by_chance(submitters[second], submitters[first])
        assert found is not None
        ratio = math.exp(found.difference)
        made.append(
            Comparison(
                setting,
                (first, second),
                (starts[first], starts[second]),
                100 * (ratio - 1),
                100 * ratio * math.sinh(found.half_width),
            )
        )
    return made
