"""Which boards are on, asleep, unloaded or off in each slot: a mixed-integer program, solved by HiGHS.

::

    minimise    energy of all boards over the day, with that of loading, waking and booting them
    each slot   boards of a GPU model: on with a model + asleep with a model + unloaded + off = owned
                rates of a model's boards                                    >= its requests a second
                capacities of its boards, without the largest of them (N+1)  >= the same

The power of a board is linear between the loads in LEVELS. Of boards that are alike all but one may stand at one of these loads without loss, for
moving load between two that do not would lower the energy, or leave it, until one does. So the variables are numbers of boards at each
level, and for one more board between which levels it stands and where. The day repeats: before the first slot comes the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from wattcount.fleet.options import LEVELS, Board

GAP = 0.005
"""Relative gap at which a plan is good enough: far less than its energies are sure of."""
LIMIT_S = 50.0
"""Time after which the best plan so far is taken [s]."""


@dataclass(frozen=True)
class Fleet:
    """What there is and what is asked of it.

    owned      boards by GPU model
    boards     by (GPU model, model): what it can do; a pair that is not there cannot serve
    demand     by model: requests a second of each slot
    slot_s     length of a slot [s]
    spare      N+1: any one board may fail
    price      of a GPU for an hour, by GPU model; empty: not known
    """

    owned: Mapping[str, int]
    boards: Mapping[tuple[str, str], Board]
    demand: Mapping[str, Sequence[float]]
    slot_s: float
    spare: bool = True
    price: Mapping[str, float] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return len(next(iter(self.demand.values())))


@dataclass(frozen=True)
class Rule:
    """What a plan may do.

    gpus        only these; None: all
    always_on   every board serves all day
    fixed       the same boards serve all day; others may be off
    by_price    the price of what serves is made least, not the energy
    serving     by (slot, GPU model, model) how many boards serve; None: that is to be found
    """

    name: str
    gpus: frozenset[str] | None = None
    always_on: bool = False
    fixed: bool = False
    by_price: bool = False
    serving: Mapping[tuple[int, str, str], int] | None = None


@dataclass(frozen=True)
class Plan:
    """on: by (slot, GPU model, model) the loads of boards, as shares of their capacity, and how many stand there; asleep by (slot, GPU model, model), unloaded
    and off by (slot, GPU model)."""

    rule: Rule
    on: Mapping[tuple[int, str, str], tuple[tuple[float, int], ...]]
    asleep: Mapping[tuple[int, str, str], int]
    unloaded: Mapping[tuple[int, str], int]
    off: Mapping[tuple[int, str], int]
    gap: float
    seconds: float

    def boards_on(self, slot: int, gpu: str, model: str | None = None) -> int:
        return sum(
            number
            for (t, g, m), loads in self.on.items()
            if (t, g) == (slot, gpu) and model in (None, m)
            for _, number in loads
        )

    def changes(self, fleet: Fleet) -> float:
        """Energy of loading, waking and booting over the day [J]."""
        total = 0.0
        for slot in range(fleet.slots):
            before = slot - 1 if slot else fleet.slots - 1
            for (gpu, model), board in fleet.boards.items():
                on, was_on = self.boards_on(slot, gpu, model), self.boards_on(before, gpu, model)
                held = on + self.asleep.get((slot, gpu, model), 0)
                was_held = was_on + self.asleep.get((before, gpu, model), 0)
                loaded = max(0, held - was_held)
                total += loaded * board.load_j + max(0, on - was_on - loaded) * board.wake_j
            for gpu in fleet.owned:
                booted = max(0, self.off.get((before, gpu), 0) - self.off.get((slot, gpu), 0))
                total += booted * _any(fleet, gpu).boot_j
        return total

    def energy_j(self, fleet: Fleet) -> float:
        """By the boards' curves [J]."""
        total = self.resting_w(fleet) * fleet.slot_s + self.changes(fleet)
        for (_, gpu, model), loads in self.on.items():
            board = fleet.boards[gpu, model]
            total += fleet.slot_s * sum(number * board.power_at(share) for share, number in loads)
        return total

    def resting_w(self, fleet: Fleet) -> float:
        """Power of what is asleep or unloaded, summed over the slots [W]."""
        asleep = sum(n * fleet.boards[gpu, model].asleep_w for (_, gpu, model), n in self.asleep.items())
        return asleep + sum(n * _any(fleet, gpu).bare_w for (_, gpu), n in self.unloaded.items())

    def cost(self, fleet: Fleet) -> float | None:
        """Of all boards that are not off; None: a price is not known."""
        total = 0.0
        for slot in range(fleet.slots):
            for gpu, owned in fleet.owned.items():
                kept = owned - self.off.get((slot, gpu), 0)
                if kept and gpu not in fleet.price:
                    return None
                total += kept * fleet.price.get(gpu, 0.0) * fleet.slot_s / 3600
        return total


def _any(fleet: Fleet, gpu: str) -> Board:
    return next(board for (name, _), board in fleet.boards.items() if name == gpu)


class _Program:
    """Variables by name, rows of a matrix."""

    def __init__(self) -> None:
        self.index: dict[tuple[Any, ...], int] = {}
        self.cost: list[float] = []
        self.high: list[float] = []
        self.whole: list[int] = []
        self._rows: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._top: list[float] = []

    def variable(
        self, name: tuple[Any, ...], cost: float = 0.0, high: float = np.inf, whole: bool = True
    ) -> None:
        self.index[name] = len(self.cost)
        self.cost.append(cost)
        self.high.append(high)
        self.whole.append(int(whole))

    def row(
        self, terms: Iterable[tuple[tuple[Any, ...], float]], low: float = -np.inf, high: float = np.inf
    ) -> None:
        number = len(self._low)
        self._rows += [(number, self.index[name], factor) for name, factor in terms]
        self._low.append(low)
        self._top.append(high)

    def solve(self, limit_s: float) -> tuple[np.ndarray[Any, np.dtype[np.float64]], float] | None:
        """(values, gap); None: there is no solution, or none was found in time."""
        rows, columns, values = zip(*self._rows, strict=True)
        matrix = coo_matrix((values, (rows, columns)), shape=(len(self._low), len(self.cost)))
        scale = max(max(self.cost), 1.0)
        found = milp(
            np.array(self.cost) / scale,
            constraints=LinearConstraint(matrix.tocsr(), self._low, self._top),
            bounds=Bounds(0.0, self.high),
            integrality=self.whole,
            options={"mip_rel_gap": GAP, "time_limit": limit_s},
        )
        if found.x is None:
            return None
        whole = np.array(self.whole, dtype=bool)
        return np.where(whole, np.rint(found.x), found.x), float(found.mip_gap or 0.0)


def solve(fleet: Fleet, rule: Rule, limit_s: float = LIMIT_S) -> Plan | None:
    """The best plan under a rule; None: no plan serves the load, or none was found in time."""
    begun = time.perf_counter()
    program, slots = _Program(), range(fleet.slots)
    pairs = [pair for pair in fleet.boards if rule.gpus is None or pair[0] in rule.gpus]
    gpus = sorted({gpu for gpu, _ in pairs})
    if not pairs:
        return None
    for slot in slots:
        for gpu, model in pairs:
            board, owned = fleet.boards[gpu, model], fleet.owned[gpu]
            for level, power_w in enumerate(board.power_w):
                cost = fleet.price.get(gpu, board.idle_w) if rule.by_price else power_w * fleet.slot_s
                program.variable(("on", slot, gpu, model, level), cost, owned)
                if level == 0:
                    continue
                # One board may stand between this level and the one below.
                more = 0.0 if rule.by_price else (power_w - board.power_w[level - 1]) * fleet.slot_s
                below = cost if rule.by_price else cost - more
                program.variable(("part", slot, gpu, model, level), below, 1)
                program.variable(("more", slot, gpu, model, level), more, 1, whole=False)
            resting = 0 if rule.fixed or rule.always_on else owned
            program.variable(("asleep", slot, gpu, model), board.asleep_w * fleet.slot_s, resting)
            program.variable(("load", slot, gpu, model), 0.0 if rule.by_price else board.load_j, whole=False)
            program.variable(("wake", slot, gpu, model), 0.0 if rule.by_price else board.wake_j, whole=False)
            program.variable(("used", slot, gpu, model), 0.0, 1)
        for gpu in gpus:
            any_board, owned = _any(fleet, gpu), fleet.owned[gpu]
            program.variable(
                ("unloaded", slot, gpu),
                any_board.bare_w * fleet.slot_s,
                0 if rule.fixed or rule.always_on else owned,
            )
            program.variable(("off", slot, gpu), 0.0, 0 if rule.always_on else owned)
            program.variable(("boot", slot, gpu), 0.0 if rule.by_price else any_board.boot_j, whole=False)
        for model in fleet.demand:
            program.variable(("largest", slot, model), whole=False)
    levels = range(len(LEVELS))

    def on(slot: int, gpu: str, model: str, factor: float = 1.0) -> list[tuple[tuple[Any, ...], float]]:
        whole = [(("on", slot, gpu, model, level), factor) for level in levels]
        return whole + [(("part", slot, gpu, model, level), factor) for level in levels[1:]]

    for slot in slots:
        before = slot - 1 if slot else fleet.slots - 1
        for gpu in gpus:
            terms = [
                term
                for g, m in pairs
                if g == gpu
                for term in [*on(slot, g, m), (("asleep", slot, g, m), 1.0)]
            ]
            rest = [(("unloaded", slot, gpu), 1.0), (("off", slot, gpu), 1.0)]
            program.row([*terms, *rest], fleet.owned[gpu], fleet.owned[gpu])
            if before != slot:
                program.row(
                    [(("boot", slot, gpu), 1.0), (("off", before, gpu), -1.0), (("off", slot, gpu), 1.0)], 0.0
                )
        for gpu, model in pairs:
            held = [(("asleep", slot, gpu, model), -1.0), (("asleep", before, gpu, model), 1.0)]
            rises = [*on(slot, gpu, model, -1.0), *on(before, gpu, model, 1.0)]
            if before != slot:
                program.row([(("load", slot, gpu, model), 1.0), *rises, *held], 0.0)
                program.row(
                    [(("wake", slot, gpu, model), 1.0), (("load", slot, gpu, model), 1.0), *rises], 0.0
                )
                if rule.fixed or rule.always_on:
                    program.row(rises, 0.0, 0.0)
            program.row(
                [(("used", slot, gpu, model), float(fleet.owned[gpu])), *on(slot, gpu, model, -1.0)], 0.0
            )
            parts = [("part", slot, gpu, model, level) for level in levels[1:]]
            program.row([(part, 1.0) for part in parts], high=1.0)
            for part in parts:
                program.row([(part, 1.0), (("more", *part[1:]), -1.0)], 0.0)
            if rule.serving is not None:
                number = rule.serving[slot, gpu, model]
                program.row(on(slot, gpu, model), number, number)
            capacity = fleet.boards[gpu, model].capacity_rps
            program.row([(("largest", slot, model), 1.0), (("used", slot, gpu, model), -capacity)], 0.0)
        for model, rates in fleet.demand.items():
            mine = [pair for pair in pairs if pair[1] == model]
            if not mine:
                return None
            served = [
                (("on", slot, gpu, model, level), share * fleet.boards[gpu, model].capacity_rps)
                for gpu, _ in mine
                for level, share in enumerate(LEVELS)
            ]
            for gpu, _ in mine:
                capacity = fleet.boards[gpu, model].capacity_rps
                for level in levels[1:]:
                    low, high = LEVELS[level - 1], LEVELS[level]
                    served.append((("part", slot, gpu, model, level), low * capacity))
                    served.append((("more", slot, gpu, model, level), (high - low) * capacity))
            program.row(served, rates[slot])
            if fleet.spare:
                held_terms = [
                    term
                    for gpu, _ in mine
                    for term in on(slot, gpu, model, fleet.boards[gpu, model].capacity_rps)
                ]
                program.row([*held_terms, (("largest", slot, model), -1.0)], rates[slot])
    found = program.solve(limit_s)
    if found is None:
        return None
    values, gap = found

    def of(*name: Any) -> int:
        return int(values[program.index[name]])

    def loads(*pair: Any) -> tuple[tuple[float, int], ...]:
        whole = [(share, of("on", *pair, level)) for level, share in enumerate(LEVELS)]
        for level in levels[1:]:
            if of("part", *pair, level):
                inside = float(np.clip(values[program.index["more", *pair, level]], 0.0, 1.0))
                whole.append((LEVELS[level - 1] + inside * (LEVELS[level] - LEVELS[level - 1]), 1))
        return tuple(sorted((share, number) for share, number in whole if number))

    left = [gpu for gpu in fleet.owned if gpu not in gpus]
    if rule.by_price:
        # The price is that of the boards. How they divide the load is then chosen as for all others.
        counts = {(t, g, m): sum(number for _, number in loads(t, g, m)) for t in slots for g, m in pairs}
        chosen = solve(fleet, replace(rule, by_price=False, serving=counts), limit_s)
        return None if chosen is None else replace(chosen, rule=rule)
    return Plan(
        rule,
        {(t, g, m): loads(t, g, m) for t in slots for g, m in pairs},
        {(t, g, m): n for t in slots for g, m in pairs if (n := of("asleep", t, g, m))},
        {(t, g): n for t in slots for g in gpus if (n := of("unloaded", t, g))},
        {(t, g): n for t in slots for g in gpus if (n := of("off", t, g))}
        | {(t, g): fleet.owned[g] for t in slots for g in left},
        gap,
        time.perf_counter() - begun,
    )


def why_not(fleet: Fleet) -> str:
    """Why no plan serves the load, in words."""
    for model, rates in fleet.demand.items():
        mine = {gpu: board for (gpu, name), board in fleet.boards.items() if name == model}
        if not mine:
            return f"no GPU keeps the SLO for {model}"
        capacity = sum(board.capacity_rps * fleet.owned[gpu] for gpu, board in mine.items())
        spare = max(board.capacity_rps for board in mine.values()) if fleet.spare else 0.0
        if capacity - spare < max(rates):
            return (
                f"{model} is asked for {max(rates):.3g} requests/s at most, and all boards together serve {max(0.0, capacity - spare):.3g}"
                + (" when one fails (N+1; --no-spare does without)" if fleet.spare else "")
            )
    return "the boards do not suffice for all models at once, or no plan was found in time"
