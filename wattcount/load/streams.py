"""Where a workload's randomness comes from: one seed, independent streams.

Each purpose (arrivals, input lengths, ...) has a Philox stream of its own, so that a change to one of
them (another arrival process, another output length) leaves the draws of the others as they were.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_SEED_MASK = (1 << 63) - 1


class Stream(IntEnum):
    """What a stream is for. The numbers are part of every workload: never renumber."""

    ARRIVALS = 0
    INPUT_LENGTHS = 1
    OUTPUT_LENGTHS = 2
    ROWS = 3
    """Which rows of a trace or prompt file are taken."""
    WARMUP = 4
    REHEARSAL = 5


def workload_seed(seed: int, repeat: int) -> int:
    """The seed of everything random in a run's load, 63 bits: a function of seed and repeat alone."""
    if seed < 0 or repeat < 0:
        raise ValueError(f"seed and repeat must not be negative, got {seed} and {repeat}")
    word = np.random.SeedSequence([seed, repeat]).generate_state(1, np.uint64)[0]
    return int(word) & _SEED_MASK


def stream(seed: int, purpose: Stream) -> np.random.Generator:
    """The random stream of one purpose under a workload seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose),))
    return np.random.Generator(np.random.Philox(sequence))


def derived_seed(seed: int, purpose: Stream) -> int:
    """A further workload seed, 63 bits, for a part of the load that must share nothing with the rest."""
    word = np.random.SeedSequence(seed, spawn_key=(int(purpose),)).generate_state(1, np.uint64)[0]
    return int(word) & _SEED_MASK
