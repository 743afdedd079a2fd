"""A plan played in the simulator with the traffic of each slot: whether it keeps its SLO, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wattcount.config.schema import SloConfig
from wattcount.fleet.options import PLAYED_S, WARMUP_S, front_s, played_on
from wattcount.fleet.plan import Fleet, Plan
from wattcount.fleet.traffic import Traffic
from wattcount.simulation.figures import latencies
from wattcount.simulation.predicted import Basis

Boards = dict[tuple[int, str, str, float], tuple[float, float | None]]
"""What was played already: by (slot, GPU model, model, rate) the mean power [W] and the share that keeps the SLO."""


@dataclass(frozen=True)
class Replayed:
    """energy_j   of the day, transitions and resting boards included
    attained   share of the requests that keep the SLO
    worst      the same of the slot in which it is least
    """

    energy_j: float
    attained: float
    worst: float


def replay(
    fleet: Fleet,
    plan: Plan,
    traffic: Traffic,
    bases: Mapping[tuple[str, str], Basis],
    slo: SloConfig,
    known: Boards,
    seed: int = 1,
) -> Replayed:
    """Each board gets a part of the slot's requests in proportion to its load in the plan: PLAYED_S of each slot are played, and stand for all of it.

    Gaps and lengths are those of the slot's part of the trace, not those that the capacities were found with.
    """
    energy_j = plan.resting_w(fleet) * fleet.slot_s + plan.changes(fleet)
    good = asked = 0.0
    worst = 1.0
    window_s = (WARMUP_S, PLAYED_S)
    for slot in range(fleet.slots):
        slot_good = slot_asked = 0.0
        for model, rates in fleet.demand.items():
            mine = {
                (gpu, load): number
                for (t, gpu, m), loads in plan.on.items()
                if (t, m) == (slot, model)
                for load, number in loads
            }
            planned = sum(
                number * load * fleet.boards[gpu, model].capacity_rps for (gpu, load), number in mine.items()
            )
            for (gpu, load), number in mine.items():
                board = fleet.boards[gpu, model]
                rate = load * board.capacity_rps * (rates[slot] / planned if planned else 0.0)
                if rate <= 0:
                    energy_j += number * board.idle_w * fleet.slot_s
                    continue
                key = (slot, gpu, model, rate)
                if key not in known:
                    basis = bases[gpu, model]
                    played = played_on(basis, traffic.drawn(slot, rate, PLAYED_S, seed), seed)
                    mean_w = played.energy_j(*window_s) / (window_s[1] - window_s[0])
                    known[key] = mean_w, latencies(played, window_s, front_s(basis)).attained(slo)
                power_w, share = known[key]
                energy_j += number * power_w * fleet.slot_s
                weight = number * rate
                slot_asked += weight
                slot_good += weight * (1.0 if share is None else share)
        if slot_asked:
            worst = min(worst, slot_good / slot_asked)
        good, asked = good + slot_good, asked + slot_asked
    return Replayed(energy_j, good / asked if asked else 1.0, worst)
