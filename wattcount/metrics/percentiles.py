"""Percentiles of latencies, where some requests never finished and some sets are too small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TOO_FEW_REQUESTS = "too_few_requests"
REQUESTS_UNFINISHED = "requests_unfinished"
NO_REQUESTS = "no_requests"


def needed(p: int) -> int:
    """Fewest values the `p`-th percentile is given for: ceil(100 / (100 - p)); 2, 20, 100 for 50, 95, 99.

    With fewer, no value lies above the percentile, and it would only be another name for the maximum.
    """
    return -(-100 // (100 - p))


def percentile(values: NDArray[np.float64] | Sequence[float], p: int) -> tuple[float | None, str | None]:
    """(value, None) or (None, why not); 0 < `p` < 100.

    Linear interpolation between the two nearest ranks (numpy's `linear`, Hyndman and Fan's type 7).
    A request that did not finish is given as `inf`: it was slower than any that did, so it takes its rank
    at the top, and a percentile that reaches it is null instead of flattering.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        return None, NO_REQUESTS
    if n < needed(p):
        return None, TOO_FEW_REQUESTS
    # In integers: 0.95 * (n - 1) in floating point can land beside the rank it means.
    rank, rest = divmod(p * (n - 1), 100)
    low = float(ordered[rank])
    if rest == 0:
        return (low, None) if low != float("inf") else (None, REQUESTS_UNFINISHED)
    high = float(ordered[rank + 1])
    if high == float("inf"):
        return None, REQUESTS_UNFINISHED
    return low + (high - low) * rest / 100, None
