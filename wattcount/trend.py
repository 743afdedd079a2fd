"""Trends in series that vary by chance.

The slope is the median of the slopes between all pairs of values (Theil-Sen: P. K. Sen, J. Am. Stat. Assoc. 63
(1968) 1379), which a few odd values do not move; its interval is Sen's, from the distribution of Kendall's S.
It supposes that the values vary independently.
"""

from __future__ import annotations

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
