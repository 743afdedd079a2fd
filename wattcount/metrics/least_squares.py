"""Non-negative least squares, with errors that neither vary alike nor are independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from wattcount.metrics.observations import Floats
from wattcount.trend import t_975


@dataclass(frozen=True)
class Fit:
    """Non-negative least squares of energy on amounts of work.

    terms            columns that were used, by their index
    value_j          float64[terms], joules per unit, >= 0
    covariance_j2    float64[terms, terms]; zero for a value that is held at 0
    condition_number of the columns scaled to length one
    residual_j       float64[n]
    """

    terms: tuple[int, ...]
    value_j: Floats
    covariance_j2: Floats
    condition_number: float
    residual_j: Floats

    @property
    def freedom(self) -> int:
        return len(self.residual_j) - int((self.value_j > 0).sum())

    @property
    def squares(self) -> float:
        return float(self.residual_j @ self.residual_j)

    def is_certain(self, term: int) -> bool:
        """Whether its coefficient is above 0 by twice its 95 % uncertainty."""
        at = self.terms.index(term)
        u95 = t_975(max(self.freedom, 5)) * math.sqrt(max(float(self.covariance_j2[at, at]), 0.0))
        return float(self.value_j[at]) > 2 * u95


def fit(amounts: Floats, energy_j: Floats, terms: Sequence[int]) -> Fit:
    """Fits `energy_j[n]` by the columns `terms` of `amounts[n, m]`.

    The covariance is Newey and West's (Econometrica 55, 1987), Bartlett kernel, 4 (n / 100)^(2/9) lags, times
    n / (n - k): neither equal variances nor independence of neighbouring intervals is assumed.
    """
    chosen = tuple(terms)
    columns = amounts[:, chosen]
    length = np.linalg.norm(columns, axis=0)
    scale = np.where(length > 0, length, 1.0)
    scaled = columns / scale
    singular = np.linalg.svd(scaled, compute_uv=False)
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else math.inf
    active = _non_negative(scaled, energy_j)
    value = np.zeros(len(chosen))
    covariance = np.zeros((len(chosen), len(chosen)))
    residual = energy_j
    if active:
        used = scaled[:, active]
        inverse = np.linalg.pinv(used.T @ used)
        found = inverse @ (used.T @ energy_j)
        residual = energy_j - used @ found
        value[list(active)] = found / scale[list(active)]
        middle = long_run(used * residual[:, None])
        freedom = max(len(energy_j) - len(active), 1)
        sandwich = inverse @ middle @ inverse * (len(energy_j) / freedom)
        at = np.ix_(active, active)
        covariance[at] = sandwich / np.outer(scale[list(active)], scale[list(active)])
    return Fit(chosen, value, covariance, condition, residual)


def _non_negative(columns: Floats, energy_j: Floats) -> tuple[int, ...]:
    """The columns of the non-negative least squares solution: of all sets without a negative one, the best."""
    gram, moment = columns.T @ columns, columns.T @ energy_j
    best: tuple[float, tuple[int, ...]] = (0.0, ())
    for size in range(1, columns.shape[1] + 1):
        for active in combinations(range(columns.shape[1]), size):
            found = np.linalg.pinv(gram[np.ix_(active, active)]) @ moment[list(active)]
            explained = float(moment[list(active)] @ found)
            if (found > 0).all() and explained > best[0]:
                best = (explained, active)
    return best[1]


def long_run(scores: Floats) -> Floats:
    """Newey and West's sum of autocovariances of `scores[n, k]`."""
    n = len(scores)
    lags = int(4 * (n / 100) ** (2 / 9))
    total = scores.T @ scores
    for lag in range(1, min(lags, n - 1) + 1):
        moved = scores[lag:].T @ scores[:-lag]
        total = total + (1 - lag / (lags + 1)) * (moved + moved.T)
    return np.asarray(total, np.float64)
