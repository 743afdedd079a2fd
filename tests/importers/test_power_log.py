from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattcount.errors import NotStartedError
from wattcount.importers import PowerLog

S = 1_000_000_000


def log_of(power_w: list[float], period_ns: int = S // 10) -> PowerLog:
    t_ns = np.arange(len(power_w), dtype=np.int64) * period_ns + 1_700_000_000 * S
    return PowerLog(Path("log"), t_ns, np.array(power_w))


@given(st.lists(st.floats(0, 1e4), min_size=4, max_size=30), st.data())
def test_energies_of_adjoining_stretches_add_up(power_w: list[float], data: st.DataObject) -> None:
    log = log_of(power_w)
    start, end = int(log.t_ns[0]), int(log.t_ns[-1])
    cut = data.draw(st.integers(start + 1, end - 1))
    parts = log.energy(start, cut).value_j + log.energy(cut, end).value_j
    assert parts == pytest.approx(log.energy().value_j, rel=1e-6, abs=1e-3)
    assert log.energy().value_j >= 0


def test_sampling_uncertainty_covers_what_lies_between_readings() -> None:
    """Readings of a mean of 200 W with new noise of 30 W in each: 95 % of the intervals hold 200 W x 100 s."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        energy = log_of(list(200 + 30 * rng.standard_normal(1001))).energy()
        covered += abs(energy.value_j - 200 * 100) <= energy.u95_sampling_j
    assert 0.92 <= covered / 400 <= 0.98


def test_outside_of_the_log() -> None:
    log = log_of([100.0] * 10)
    start = int(log.t_ns[0])
    with pytest.raises(NotStartedError, match="does not cover"):
        log.energy(start - 1, start + S // 2)
    with pytest.raises(NotStartedError, match="no reading between"):
        log.mean_of_readings_w(start - 2 * S, start - S)
    with pytest.raises(ValueError, match="not after its start"):
        log.energy(start, start)
