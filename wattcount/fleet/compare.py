"""A fleet's plan beside what people do without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wattcount.config.composition import compose
from wattcount.config.schema import SloConfig
from wattcount.fleet.options import Board, board
from wattcount.fleet.plan import Fleet, Plan, Rule, solve, why_not
from wattcount.fleet.replay import Boards, Replayed, replay
from wattcount.fleet.traffic import Traffic
from wattcount.prediction.setting import Abstained
from wattcount.simulation.measured import SeenRun
from wattcount.simulation.predicted import EVIDENCE, Basis, basis_of

J_PER_KWH = 3.6e6
"""Joules in a kilowatt-hour."""


@dataclass(frozen=True)
class Asked:
    """What a fleet is asked for. `owned`: boards by GPU option. `share`: of the requests, by model option."""

    owned: Mapping[str, int]
    share: Mapping[str, float]
    traffic: Traffic
    slo: SloConfig
    target: float = 0.95
    headroom: float = 0.1
    spare: bool = True
    price: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Line:
    """A plan under one rule; `why` where there is none."""

    rule: Rule
    plan: Plan | None
    replayed: Replayed | None
    planned_j: float | None
    cost: float | None
    why: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "rule": self.rule.name,
            "kwh": None if self.replayed is None else self.replayed.energy_j / J_PER_KWH,
            "planned_kwh": None if self.planned_j is None else self.planned_j / J_PER_KWH,
            "cost": self.cost,
            "slo_attainment": None if self.replayed is None else self.replayed.attained,
            "slo_attainment_worst_slot": None if self.replayed is None else self.replayed.worst,
            "solved_s": None if self.plan is None else self.plan.seconds,
            "gap": None if self.plan is None else self.plan.gap,
            "abstained": self.why,
        }


@dataclass(frozen=True)
class Compared:
    """fleet     what the plans rest on
    lines     the plan first, then the baselines
    left_out  why a GPU cannot serve a model, in words
    seconds   that it all took
    """

    fleet: Fleet
    lines: Sequence[Line]
    left_out: Sequence[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        plan = self.lines[0].plan if self.lines else None
        return {
            "evidence": EVIDENCE.value,
            "boards": [
                {
                    "model": one.model,
                    "gpu": one.gpu,
                    "capacity_rps": one.capacity_rps,
                    "power_w": list(one.power_w),
                    "asleep_w": one.asleep_w,
                    "bare_w": one.bare_w,
                    "load_s": one.load_s,
                    "wake_s": one.wake_s,
                    "basis": one.basis,
                }
                for one in self.fleet.boards.values()
            ],
            "demand_rps": {model: list(rates) for model, rates in self.fleet.demand.items()},
            "plans": [line.to_json() for line in self.lines],
            "slots": []
            if plan is None
            else [slot_of(self.fleet, plan, slot) for slot in range(self.fleet.slots)],
            "left_out": list(self.left_out),
        }


def slot_of(fleet: Fleet, plan: Plan, slot: int) -> dict[str, Any]:
    """Boards of a slot: on by GPU and model, asleep, unloaded, off by GPU."""
    return {
        "on": {f"{gpu}/{model}": n for gpu, model in fleet.boards if (n := plan.boards_on(slot, gpu, model))},
        "asleep": {f"{g}/{m}": n for (t, g, m), n in plan.asleep.items() if t == slot},
        "unloaded": {g: n for (t, g), n in plan.unloaded.items() if t == slot},
        "off": {g: n for (t, g), n in plan.off.items() if t == slot},
    }


def compared(
    asked: Asked,
    runs: Callable[[str], Sequence[SeenRun]],
    bare_w: Callable[[str], float | None],
) -> Compared:
    """The plan and its baselines. Raises `Abstained` where no plan serves the load.

    runs    real runs of a model that tell their steps
    bare_w  measured power of a GPU without an engine [W]; None: not measured, its data sheet's stands for it
    """
    begun = time.perf_counter()
    boards: dict[tuple[str, str], Board] = {}
    bases: dict[tuple[str, str], Basis] = {}
    left_out = []
    for model in asked.share:
        found = runs(model)
        for gpu in asked.owned:
            config = compose([f"model={model}", f"gpu={gpu}", "scenario=server", *_lengths(asked.traffic)])
            idle_w = bare_w(gpu)
            try:
                basis = basis_of(config, found)
                boards[gpu, model] = board(
                    config,
                    basis,
                    asked.traffic,
                    asked.slo,
                    asked.target,
                    asked.headroom,
                    idle_w if idle_w is not None else config.gpu.idle_w or 0.0,
                )
                bases[gpu, model] = basis
            except Abstained as abstained:
                left_out.append(f"{model} on {gpu}: {abstained.reason}")
    rates = asked.traffic.rates_rps()
    demand = {model: [share * rate for rate in rates] for model, share in asked.share.items()}
    usable = {gpu: number for gpu, number in asked.owned.items() if any(name == gpu for name, _ in boards)}
    fleet = Fleet(usable, boards, demand, asked.traffic.slot_s, asked.spare, asked.price or {})
    rules = [Rule("the plan")]
    rules += [Rule(f"only {gpu}", gpus=frozenset({gpu})) for gpu in usable if len(usable) > 1]
    rules.append(Rule("everything always on", always_on=True))
    if asked.price and all(gpu in asked.price for gpu in usable):
        rules.append(Rule("least price, the same boards all day (Melange)", fixed=True, by_price=True))
    lines = []
    known: Boards = {}
    for rule in rules:
        theirs = fleet
        if rule.gpus is not None:
            # As many boards of that GPU model as there are of all.
            theirs = replace(
                fleet,
                owned=dict.fromkeys(rule.gpus, sum(usable.values())),
                boards={p: b for p, b in boards.items() if p[0] in rule.gpus},
            )
        plan = solve(theirs, rule) if boards else None
        if plan is None:
            if rule is rules[0]:
                raise Abstained("; ".join([why_not(theirs), *left_out]))
            lines.append(Line(rule, None, None, None, None, "these boards cannot serve the load"))
            continue
        played = replay(theirs, plan, asked.traffic, bases, asked.slo, known)
        lines.append(Line(rule, plan, played, plan.energy_j(theirs), plan.cost(theirs)))
    return Compared(fleet, lines, left_out, time.perf_counter() - begun)


def _lengths(traffic: Traffic) -> list[str]:
    """Of the longest request that the traffic has, so that the engine's context holds it."""
    trace = traffic.trace
    return [
        f"scenario.lengths.input_tokens={max(1, int(trace.input_tokens.max()))}",
        f"scenario.lengths.output_tokens={max(1, int(trace.output_tokens.max()))}",
    ]
