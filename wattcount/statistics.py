"""Trends in series that vary by chance, and the spread of repeats.

The slope is the median of the slopes between all pairs of values (Theil-Sen: P. K. Sen, J. Am. Stat. Assoc. 63
(1968) 1379), which a few odd values do not move; its interval is Sen's, from the distribution of Kendall's S.
It supposes that the values vary independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_VALUES = 8
"""With fewer no order of the values is rare enough to speak of a trend."""
Z_99 = 2.576
"""Normal quantile 0.995: one series in a hundred has a trend by chance."""


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
    """Drift over a stretch cut into equal bins with these values, float64[bins].

    None where they are fewer than MIN_VALUES, or where the mean is 0.

    mean  what the drift is a percentage of; None: the mean of the values
    """
    n = len(values)
    if mean is None:
        mean = float(np.mean(values)) if n else 0.0
    if n < MIN_VALUES or mean == 0.0:
        return None
    low, high = np.triu_indices(n, 1)
    slopes = np.sort((values[high] - values[low]) / (high - low))
    count = len(slopes)
    # Sen (1968), eq. 2.6, normal approximation of Kendall's S: var = n (n - 1) (2 n + 5) / 18.
    reach = Z_99 * sqrt(n * (n - 1) * (2 * n + 5) / 18)
    below = max(floor((count - reach) / 2), 0)
    above = min(count - 1 - below, count - 1)
    # Bins' middles lie n - 1 steps apart; the window is n long.
    scale = 100.0 * n / mean
    return Drift(float(np.median(slopes)) * scale, float(slopes[below]) * scale, float(slopes[above]) * scale)


def residual(values: Floats, by: Floats) -> Floats:
    """What a straight line in `by` leaves of `values`, float64[bins], mean 0 (least squares)."""
    centred = by - by.mean()
    spread = float(centred @ centred)
    rest: Floats = values - values.mean()
    if spread > 0:
        rest = rest - float(centred @ rest) / spread * centred
    return rest


_T_975_SMALL = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645}


def t_975(freedom: int) -> float:
    """97.5 % point of Student's t; from 5 degrees of freedom on by Cornish and Fisher's expansion (Abramowitz and
    Stegun 26.7.5). ValueError below 1."""
    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    if freedom in _T_975_SMALL:
        return _T_975_SMALL[freedom]
    z, v = 1.959963984540054, float(freedom)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, 95 % half width of the mean by Student's t) of at least two values."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean, deviation, t_975(len(values) - 1) * deviation / sqrt(len(values))
