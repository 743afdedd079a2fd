"""What a choice of GPU saves: of three baselines the default GPU, the best single one, and the optimum of each model.

A unit is a model at a load. Of each unit and GPU the setting with the least energy counts. Only units that all GPUs in question have are summed,
each with the energy of one token, so no model counts for more because it talks more.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.result.host_part import PER_TOKEN
from wattcount.study.comparison import Cell, Scatters

Floats = NDArray[np.float64]

DRAWS = 2000
"""Draws of units for an interval: its ends move by less than 2 % of its width from one set of draws to the next."""
FEWEST_UNITS = 5
"""Units from which on drawing among them tells an interval: fewer give few different draws."""
SEED = 20
"""Of the draws: the same results give the same interval."""
IDLE = ("energy/bare_idle_j", "energy/context_idle_j")
"""Keys of the energy that a window takes with and without an engine, whatever it does [J]."""
DYNAMIC = "energy/dynamic_j"
"""Key of the energy above them [J]."""
TOKENS = "tokens/output"
"""Key of the output tokens of the window."""


@dataclass(frozen=True)
class Saving:
    """What `to` saves of the energy of `of`, summed over the units.

    share      1 - to / of; excess: of / to - 1; low, high: 95 % interval of `share` over units like these; None: too few, or one that is 0 by
               what it means
    idle_share, active_share  parts of `share` by idle and by active energy; None: not every unit tells them
    is_best  whether `of` is the best single GPU
    by_chance  how much of `share` picking the least of figures that scatter makes up; None: nothing was repeated
    """

    of: str
    to: str
    units: int
    share: float
    excess: float
    low: float | None
    high: float | None
    idle_share: float | None
    active_share: float | None
    by_chance: float | None
    is_best: bool


OPTIMUM = "the best of each load"
"""Name of the baseline that takes the best option for each unit by itself."""


@dataclass(frozen=True)
class Matrix:
    """Joules per output token of units on GPUs.

    energy   float64[units, gpus]; idle, active: its parts; nan: not known
    sd       float64[units, gpus], standard uncertainty of its logarithm; nan: not known
    """

    units: Sequence[Hashable]
    gpus: Sequence[str]
    energy: Floats
    idle: Floats
    active: Floats
    sd: Floats
    best: Mapping[tuple[Hashable, str], Cell]

    @property
    def used(self) -> list[Cell]:
        """The cells that its figures are of."""
        return [self.best[unit, gpu] for unit in self.units for gpu in self.gpus]


def gpu_of(cell: Cell) -> str | None:
    return cell.gpu_model


def matrix(
    units: Mapping[Hashable, Sequence[Cell]],
    gpus: Sequence[str],
    scatters: Scatters,
    option: Callable[[Cell], str | None] = gpu_of,
) -> Matrix:
    """Of the units that have a figure with each of `gpus`, or of what else `option` names."""
    best: dict[tuple[Hashable, str], Cell] = {}
    for unit, found in units.items():
        for cell in found:
            name = option(cell)
            if name is None:
                continue
            value, held = cell.mean(PER_TOKEN), best.get((unit, name))
            if value is not None and (held is None or value < (held.mean(PER_TOKEN) or np.inf)):
                best[unit, name] = cell
    whole = [unit for unit in units if all((unit, gpu) in best for gpu in gpus)]
    shape = (len(whole), len(gpus))
    energy, idle, active, sd = (np.full(shape, np.nan) for _ in range(4))
    for i, unit in enumerate(whole):
        for j, gpu in enumerate(gpus):
            cell = best[unit, gpu]
            energy[i, j] = cell.mean(PER_TOKEN)
            parts = idle_and_active(cell)
            if parts is not None:
                idle[i, j], active[i, j] = parts
            known = scatters.log_sd(cell)
            sd[i, j] = np.nan if known is None else known
    return Matrix(whole, list(gpus), energy, idle, active, sd, best)


def idle_and_active(cell: Cell) -> tuple[float, float] | None:
    """(J per output token that the idle GPU would have taken, the rest), means; None where not all runs tell."""
    pairs = []
    for run in cell.runs:
        parts = [run.value(key) for key in (*IDLE, DYNAMIC)]
        tokens = run.value(TOKENS)
        if not tokens or parts[2] is None or parts[0] is None:
            return None
        pairs.append((((parts[0] or 0.0) + (parts[1] or 0.0)) / tokens, parts[2] / tokens))
    idle, active = np.mean(pairs, axis=0)
    return float(idle), float(active)


def savings(m: Matrix, default: str | None = None) -> list[Saving]:
    """Of the worst and the default GPU to the best single one, of each to the optimum. None where a unit or GPU is missing."""
    if not len(m.units) or len(m.gpus) < 2:
        return []
    totals = m.energy.sum(axis=0)
    best, worst = int(totals.argmin()), int(totals.argmax())
    chosen = worst if default is None else list(m.gpus).index(default)
    pairs: list[tuple[int, int | None]] = [(chosen, best), (chosen, None), (best, None)]
    if chosen != worst:
        pairs.insert(0, (worst, best))
    return [_saving(m, of, to) for of, to in dict.fromkeys(pairs) if of != to]


def _saving(m: Matrix, of: int, to: int | None) -> Saving:
    least = m.energy.argmin(axis=1) if to is None else np.full(len(m.units), to)
    rows = np.arange(len(m.units))
    before, after = m.energy[:, of], m.energy[rows, least]
    share = 1.0 - float(after.sum() / before.sum())
    idle = active = None
    if not (np.isnan(m.idle).any() or np.isnan(m.active).any()):
        idle = float((m.idle[:, of] - m.idle[rows, least]).sum() / (m.idle + m.active)[:, of].sum())
        active = float((m.active[:, of] - m.active[rows, least]).sum() / (m.idle + m.active)[:, of].sum())
    low = high = None
    rng = np.random.default_rng(SEED)
    if len(m.units) >= FEWEST_UNITS:
        drawn = rng.integers(0, len(m.units), (DRAWS, len(m.units)))
        shares = 1.0 - after[drawn].sum(axis=1) / before[drawn].sum(axis=1)
        low, high = (float(end) for end in np.quantile(shares, (0.025, 0.975)))
    chance = None
    if to is None and not np.isnan(m.sd).any():
        noisy = m.energy * np.exp(rng.normal(size=(DRAWS, *m.energy.shape)) * m.sd)
        # The same figures scattered once more: what their least has below what is truly least.
        picked = noisy.argmin(axis=2)
        true = np.take_along_axis(np.broadcast_to(m.energy, noisy.shape), picked[..., None], axis=2)[..., 0]
        seen = noisy.min(axis=2)
        chance = float(np.mean((true.sum(axis=1) - seen.sum(axis=1)) / before.sum()))
    return Saving(
        m.gpus[of],
        OPTIMUM if to is None else m.gpus[to],
        len(m.units),
        share,
        float(before.sum() / after.sum()) - 1.0,
        low,
        high,
        idle,
        active,
        chance,
        of == int(m.energy.sum(axis=0).argmin()),
    )
