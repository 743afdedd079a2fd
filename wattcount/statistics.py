"""Student's t, means and paired differences with its intervals, and trends in series that vary by chance.

scipy is imported where it is needed: to load it takes longer than most commands of wattcount.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_VALUES = 8
"""Fewest values of a trend: with fewer, no order of the values is rare enough."""
CONFIDENCE = 0.99
"""Confidence of the interval of a trend: one series in a hundred has a trend by chance."""
BATCH_GAP = 2.0
"""Time between the begins of two stretches from which on they belong to two batches [usual time between begins]."""


@dataclass(frozen=True)
class Drift:
    """Change from the begin of a stretch to its end along the fitted line, percent of the mean.

    low, high  99 % interval
    """

    percent: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether it is more than chance."""
        return self.low > 0 or self.high < 0


def theil_sen(values: Floats, mean: float | None = None) -> Drift | None:
    """Drift over a stretch that is cut into equal bins with these values, float64[bins].

    The slope is the median of the slopes between all pairs of values (Theil-Sen); a few odd values do not change it much. Its
    interval is Sen's, from the distribution of Kendall's S (P. K. Sen, J. Am. Stat. Assoc. 63 (1968) 1379). It supposes that the
    values vary independently.

    None: there are fewer than MIN_VALUES, or the mean is 0.

    mean  what the drift is a percentage of; None: the mean of the values
    """
    n = len(values)
    if mean is None:
        mean = float(np.mean(values)) if n else 0.0
    if n < MIN_VALUES or mean == 0.0:
        return None
    from scipy.stats import theilslopes

    found = theilslopes(values, alpha=CONFIDENCE)
    # Bins' middles lie n - 1 steps apart; the window is n long.
    scale = 100.0 * n / mean
    return Drift(*(scale * float(slope) for slope in (found.slope, found.low_slope, found.high_slope)))


def preload() -> None:
    """Loads what `theil_sen` needs, which takes half a second of CPU: for a process that must not pause when it calls it."""
    import scipy.stats  # noqa: F401


def residual(values: Floats, by: Floats) -> Floats:
    """What a straight line in `by` leaves of `values`, float64[bins], mean 0 (least squares)."""
    centred = by - by.mean()
    spread = float(centred @ centred)
    rest: Floats = values - values.mean()
    if spread > 0:
        rest = rest - float(centred @ rest) / spread * centred
    return rest


@lru_cache(maxsize=1024)
def t_975(freedom: float) -> float:
    """97.5 % point of Student's t. ValueError below one degree of freedom."""
    from scipy.special import stdtrit

    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    return float(stdtrit(freedom, 0.975))


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, 95 % half width of the mean by Student's t) of at least two values."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean, deviation, t_975(len(values) - 1) * deviation / sqrt(len(values))


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % half width, both in percent, from so many pairs."""

    mean_percent: float
    half_width_percent: float
    pairs: int


def paired(differences: Floats) -> Difference:
    """The mean of relative differences of pairs, with Student's t interval. A single pair has no interval (nan)."""
    if len(differences) < 2:
        return Difference(100 * float(np.mean(differences)), float("nan"), len(differences))
    mean, _, half = spread(differences.tolist())
    return Difference(100 * mean, 100 * half, len(differences))


def detrended(values: Floats, turned: NDArray[np.bool_], start_s: Floats) -> Difference:
    """The effect on log(values) of what was turned in some stretches. Each batch of stretches has a cubic in time beside it.

    Decoding slows down as contexts grow, by more within a pair than the effect that is looked for. The fit is by least squares,
    the interval 95 % by Student's t.

    values   float64[n], of stretches that began at `start_s` [s], increasing
    turned   bool[n]
    """
    batch = np.concatenate(([0], np.cumsum(np.diff(start_s) > BATCH_GAP * np.median(np.diff(start_s)))))
    columns = [turned.astype(float)]
    for number in range(batch[-1] + 1):
        within = batch == number
        t = np.where(within, start_s - start_s[within][0], 0.0) / max(1.0, float(np.ptp(start_s[within])))
        columns += [within * t**power for power in range(min(4, int(within.sum() // 3) + 1))]
    design = np.stack(columns, axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, np.log(values), rcond=None)
    freedom = len(values) - int(rank)
    left = np.log(values) - design @ solution
    variance = float(left @ left) / max(1, freedom) * np.linalg.pinv(design.T @ design)[0, 0]
    half = t_975(freedom) * float(variance) ** 0.5 if freedom > 0 else float("nan")
    return Difference(100 * float(solution[0]), 100 * half, len(values) // 2)
