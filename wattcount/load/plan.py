"""A load plan: when each request is sent, and how long its prompt and its completion are; where the randomness comes from.

A plan is a function of the scenario and the workload seed alone, so every model and every GPU gets the same arrivals and the
same lengths. Each purpose (arrivals, input lengths, ...) has a Philox stream of its own under that seed. A change to one of
them (another arrival process, another output length) leaves the draws of the others as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import SamplingConfig

_SEED_MASK = (1 << 63) - 1
"""Largest workload seed: 63 bits, so that it is an int64 wherever it is kept."""


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
    """The seed of everything random in the load of a run, 63 bits. It depends on seed and repeat alone."""
    if seed < 0 or repeat < 0:
        raise ValueError(f"seed and repeat must not be negative, got {seed} and {repeat}")
    word = np.random.SeedSequence([seed, repeat]).generate_state(1, np.uint64)[0]
    return int(word) & _SEED_MASK


def stream(seed: int, purpose: Stream) -> np.random.Generator:
    """The random stream of one purpose under a workload seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose),))
    return np.random.Generator(np.random.Philox(sequence))


def derived_seed(seed: int, purpose: Stream) -> int:
    """Another workload seed, 63 bits, for a part of the load that shares nothing with the rest."""
    word = np.random.SeedSequence(seed, spawn_key=(int(purpose),)).generate_state(1, np.uint64)[0]
    return int(word) & _SEED_MASK


@dataclass(frozen=True)
class LoadPlan:
    """`n` requests in order of their planned send.

    send_offset_ns    int64[n], from the start of the load, not decreasing
    input_tokens      int32[n], at least 1
    output_tokens     int32[n], at least 1: the exact or the largest number of output tokens
    force_output_length  exact (end-of-sequence ignored) or natural up to `output_tokens`
    seed              what the token ids are made from
    sampling          how tokens are drawn
    follows           bool[n]: whether the request is the next turn of the conversation of the one before it; None: none is. In a
                      closed loop it waits for that one's answer
    prompt_token_ids  given only where the prompts are real text; else they are drawn by `token_ids`
    """

    send_offset_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    force_output_length: bool
    seed: int
    prompt_token_ids: tuple[tuple[int, ...], ...] | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    follows: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.send_offset_ns)

    def conversations(self) -> list[range]:
        """The requests of each conversation, in order; one that stands alone is a conversation of one turn."""
        first = np.arange(len(self)) if self.follows is None else np.flatnonzero(~self.follows)
        bounds = [*first.tolist(), len(self)]
        return [range(begin, end) for begin, end in pairwise(bounds)]

    def token_ids(self, index: int, vocab_size: int) -> list[int]:
        """Token ids of prompt `index`, for a vocabulary of `vocab_size`.

        They are drawn from a Philox stream of (seed, index). So no two prompts share a prefix, and the order in which they are
        drawn does not matter.
        """
        if self.prompt_token_ids is not None:
            return list(self.prompt_token_ids[index])
        bits = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        # The lowest ids are control tokens in nearly every vocabulary.
        low = min(256, vocab_size // 2)
        ids: list[int] = bits.integers(low, vocab_size, int(self.input_tokens[index])).tolist()
        return ids
