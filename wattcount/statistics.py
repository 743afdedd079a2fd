"""Student's t, and trends in series that vary by chance.

scipy is imported where it is needed: to load it takes longer than most commands of wattcount.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MIN_VALUES = 8
"""Fewest values of a trend: with fewer, no order of the values is rare enough."""
CONFIDENCE = 0.99
"""Confidence of the interval of a trend: one series in a hundred has a trend by chance."""


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


def t_975(freedom: int) -> float:
    """97.5 % point of Student's t. ValueError below one degree of freedom."""
    from scipy.special import stdtrit

    if freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {freedom}")
    return float(stdtrit(freedom, 0.975))
