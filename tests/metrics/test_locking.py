"""Whether a load keeps step with the power sensor."""

from __future__ import annotations

import numpy as np
import pytest

from wattcount.metrics.locking import locking

MS = 1_000_000


def steps(length_ms: float, jitter_ms: float = 0.0, count: int = 2000) -> np.ndarray:
    rng = np.random.default_rng(0)
    lengths = length_ms + jitter_ms * rng.standard_normal(count)
    return np.asarray(5_000 * MS + np.cumsum(lengths) * MS, np.int64)


@pytest.mark.parametrize(
    ("length_ms", "a_sample", "error"), [(20.0, 1, 0.16), (10.0, 2, 0.08), (5.0, 4, 0.0)]
)
def test_steps_at_the_samples_period_or_a_fraction_are_locked(
    length_ms: float, a_sample: int, error: float
) -> None:
    found = locking(steps(length_ms), 20e6)
    assert found is not None
    assert found.steps_a_sample == a_sample
    assert found.coherence == pytest.approx(1.0, abs=0.01)
    assert found.error_share == pytest.approx(error, abs=0.002)


@pytest.mark.parametrize("length_ms", [20.34, 19.66, 14.2, 10.17, 9.1, 26.0])
def test_detuned_steps_are_not(length_ms: float) -> None:
    found = locking(steps(length_ms), 20e6)
    assert found is not None
    assert found.error_share < 0.01


def test_steps_that_wander_are_not() -> None:
    found = locking(steps(20.0, jitter_ms=1.0, count=100_000), 20e6)
    assert found is not None
    assert found.error_share < 0.01


def test_steps_that_are_late_now_and_then_but_keep_the_beat_are() -> None:
    on_time = steps(20.0)
    late = on_time + np.random.default_rng(1).integers(0, 2 * MS, len(on_time))
    found = locking(late, 20e6)
    assert found is not None
    assert found.coherence > 0.9


def test_chance_is_not_taken_for_coherence() -> None:
    rng = np.random.default_rng(2)
    found = locking(np.sort(rng.integers(0, 10_000 * MS, 500)), 20e6)
    assert found is not None
    assert found.coherence < 0.12


def test_too_few_steps_tell_nothing() -> None:
    assert locking(steps(20.0, count=10), 20e6) is None
    assert locking(np.zeros(100, np.int64), 20e6) is None
