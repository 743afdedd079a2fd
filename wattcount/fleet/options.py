"""What a board of a GPU model does for a model at each load: capacity within an SLO, power, and what it costs to wake it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wattcount.config.fit import weight_bytes
from wattcount.config.schema import RunConfig, SloConfig
from wattcount.engines import registry
from wattcount.fleet.traffic import Traffic
from wattcount.prediction.setting import Abstained
from wattcount.simulation.figures import latencies
from wattcount.simulation.measured import MeasuredSteps, play_load
from wattcount.simulation.predicted import Basis, overload
from wattcount.simulation.scheduler import Load, Played, play

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Loads at which a board may be, as shares of its capacity: power between two of them lies within a few per cent of the line."""
PLAYED_S, WARMUP_S = 100.0, 20.0
"""Length of a load that is played, and what of it is left out until the server has filled up [s]."""
ENDED_S = PLAYED_S + 60.0
"""When a load that is played is broken off [s]: who has waited a minute has not been served."""
TRIES = 6
"""Bisections of a capacity: to 1 %, after doublings."""
CUT, MOST_CUTS = 0.94, 12
"""By what a capacity is cut that does not hold in each part of the day, and how often at most: to half."""
FEWEST_RPS, MOST_RPS = 1 / 64, 512.0
"""Between which a capacity is looked for [requests/s]."""
ASLEEP_SHARE = 0.5
"""Power of an engine that sleeps, between no engine (0) and one that is up and idle (1): an assumption, no data here tell it."""
SLEEP_BYTES_PER_S = 25e9
"""Speed at which weights come back from the host's memory [bytes/s]: about half of PCIe 5."""
SLEEP_S = 2.0
"""What waking takes beside that [s]."""
BOOT_S = 300.0
"""From power on of a host until an engine can start [s]: an assumption, servers take three to six minutes."""


@dataclass(frozen=True)
class Board:
    """A board of a GPU model with a model on it.

    capacity_rps   the most that keeps the SLO with the arrivals and lengths of each slot, headroom taken off
    power_w        by LEVELS
    idle_w, asleep_w, bare_w   engine up, engine asleep, no engine
    load_s, wake_s   from no engine, and from an engine asleep, until it serves
    """

    model: str
    gpu: str
    capacity_rps: float
    power_w: tuple[float, ...]
    idle_w: float
    asleep_w: float
    bare_w: float
    load_s: float
    wake_s: float
    basis: str

    def power_at(self, share: float) -> float:
        """Watts at a share of the capacity: linear between LEVELS."""
        return float(np.interp(share, LEVELS, self.power_w))

    @property
    def load_j(self) -> float:
        """Energy of starting an engine above that of no engine."""
        return self.load_s * self.idle_w

    @property
    def wake_j(self) -> float:
        return self.wake_s * self.idle_w

    @property
    def boot_j(self) -> float:
        return BOOT_S * self.bare_w


def played_on(basis: Basis, load: Load, seed: int) -> Played:
    window_s = (WARMUP_S, PLAYED_S)
    if isinstance(basis.model, MeasuredSteps):
        return play_load(load, window_s, basis.limits, basis.model, seed, until_s=ENDED_S)
    return play(load, basis.limits, basis.model, until_s=ENDED_S, jump=True)


def front_s(basis: Basis) -> float:
    return basis.model.front_s if isinstance(basis.model, MeasuredSteps) else 0.0


def board(
    config: RunConfig,
    basis: Basis,
    traffic: Traffic,
    slo: SloConfig,
    target: float,
    headroom: float,
    bare_w: float,
) -> Board:
    """Raises `Abstained` where it cannot keep the SLO at any load.

    target    share of the requests that keep the SLO
    headroom  share of the capacity that stays free
    """
    window_s = (WARMUP_S, PLAYED_S)

    def run(rate: float, slot: int | None = None) -> Played:
        return played_on(basis, traffic.drawn(slot, rate, PLAYED_S, 0), 0)

    def keeps(rate: float, slot: int | None = None) -> bool:
        played = run(rate, slot)
        share = latencies(played, window_s, front_s(basis)).attained(slo)
        return overload(played, window_s) is None and (share is None or share >= target)

    low, high = 0.0, 1.0
    while high <= MOST_RPS and keeps(high):
        low, high = high, 2 * high
    while low == 0.0 and high > FEWEST_RPS:
        if keeps(high / 2):
            low = high / 2
        else:
            high /= 2
    if low == 0.0:
        raise Abstained(f"{config.model.name} on {config.gpu.name} keeps the SLO at no load")
    for _ in range(TRIES):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    # Arrivals and lengths of a part of the day may be harder to serve than those of a whole one that comes at random.
    slots = list(range(traffic.slots))
    for _ in range(MOST_CUTS):
        broken = next((slot for slot in slots if not keeps(low, slot)), None)
        if broken is None:
            break
        low *= CUT
        slots.sort(key=lambda slot: slot != broken)
    capacity = low * (1.0 - headroom)
    idle_w = basis.model.idle_w
    power = [idle_w]
    for level in LEVELS[1:]:
        # A board that is busier never draws less; chance may say so.
        power.append(max(power[-1], run(level * capacity).energy_j(*window_s) / (window_s[1] - window_s[0])))
    start_s = registry.plugin(config.engine.name).expected(config).start_s
    return Board(
        config.model.name,
        config.gpu.name,
        capacity,
        tuple(power),
        idle_w,
        bare_w + ASLEEP_SHARE * max(0.0, idle_w - bare_w),
        min(bare_w, idle_w),
        start_s,
        SLEEP_S + weight_bytes(config.model) / SLEEP_BYTES_PER_S,
        basis.words,
    )
