"""Which settings of one load cannot be told apart by their energy per output token.

Settings are ranked within their *load*: what `study.comparison.load_of` has, but for the model; in large loads (MOST_RANKED) with the model. Two of them are tied where the study's
comparison has 1 in its 95 % interval. A setting whose figure has no interval (nothing was repeated, and nothing tells how such runs scatter)
has no place.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from wattcount.result.host_part import PER_TOKEN
from wattcount.study.comparison import Cell, Estimate, Scatters, Tell, load_of

MODEL_AT = 4
"""Where `load_of` has the model."""
MOST_RANKED = 120
"""Most settings of a load that are ranked together, across models. Each two of them whose intervals meet are compared, a millisecond each: more of them
would take minutes. Then each model has its own ranks."""


@dataclass(frozen=True)
class Place:
    """Of a setting among those that it is ranked with.

    group  number of these
    rank   0 has the least energy of a token
    ties   ranks that cannot be told from this one; None: nothing tells
    """

    group: int
    rank: int
    ties: tuple[int, ...] | None


def load_key(cell: Cell) -> tuple[Hashable, ...]:
    """What settings share that are ranked together: everything of their load but the model."""
    load = load_of(cell.first)
    return (*load[:MODEL_AT], *load[MODEL_AT + 1 :])


def places(
    cells: Sequence[Cell], estimates: Sequence[Estimate | None], scatters: Scatters
) -> list[Place | None]:
    """Of each cell its place in its load; None: it has no energy of a token."""
    loads: dict[Hashable, list[int]] = {}
    for at, (cell, estimate) in enumerate(zip(cells, estimates, strict=True)):
        if estimate is not None:
            loads.setdefault(load_key(cell), []).append(at)
    groups: dict[Hashable, list[int]] = {}
    for load, members in loads.items():
        for at in members:
            model = cells[at].first.model if len(members) > MOST_RANKED else None
            groups.setdefault((load, model), []).append(at)
    found: list[Place | None] = [None] * len(cells)
    for number, group in enumerate(groups.values()):
        order = sorted(group, key=lambda at: (_value(estimates[at]), at))
        tied = _ties([cells[at] for at in order], [estimates[at] for at in order], scatters)
        for rank, at in enumerate(order):
            found[at] = Place(number, rank, tied[rank])
    return found


def _value(estimate: Estimate | None) -> float:
    return math.inf if estimate is None else estimate.value


def _ties(
    cells: Sequence[Cell], estimates: Sequence[Estimate | None], scatters: Scatters
) -> list[tuple[int, ...] | None]:
    told = [e is not None and e.low is not None for e in estimates]
    tied: list[set[int]] = [set() for _ in cells]
    for one in range(len(cells)):
        if not told[one]:
            continue
        for other in range(one + 1, len(cells)):
            if not told[other] or _apart(estimates[one], estimates[other]):
                continue
            compared = scatters.compare(cells[one], cells[other], PER_TOKEN)
            if compared is not None and compared.tell is Tell.CANNOT:
                tied[one].add(other)
                tied[other].add(one)
    return [tuple(sorted(ties)) if known else None for ties, known in zip(tied, told, strict=True)]


def _apart(one: Estimate | None, other: Estimate | None) -> bool:
    """Whether the intervals do not meet. Then neither does that of the ratio meet 1, for it is narrower than both together."""
    ends = (None if one is None else one.high, None if other is None else other.low)
    return ends[0] is not None and ends[1] is not None and ends[0] < ends[1]
