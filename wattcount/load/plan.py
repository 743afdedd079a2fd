"""A load plan: who is sent when, and how long each prompt and completion is.

A plan is a function of the scenario and the workload seed alone, so every model and every GPU gets
the same arrivals and the same lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import SamplingConfig


@dataclass(frozen=True)
class LoadPlan:
    """`n` requests in order of their planned send.

    send_offset_ns    int64[n], from the start of the load, not decreasing
    input_tokens      int32[n], at least 1
    output_tokens     int32[n], at least 1: the exact or the largest number of output tokens
    force_output_length  exact (end-of-sequence ignored) or natural up to `output_tokens`
    seed              what the token ids are made from
    sampling          how tokens are drawn
    prompt_token_ids  given only where the prompts are real text; else they are drawn by `token_ids`
    """

    send_offset_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    force_output_length: bool
    seed: int
    prompt_token_ids: tuple[tuple[int, ...], ...] | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __len__(self) -> int:
        return len(self.send_offset_ns)

    def token_ids(self, index: int, vocab_size: int) -> list[int]:
        """Token ids of prompt `index`, for a vocabulary of `vocab_size`.

        Drawn from a Philox stream keyed by (seed, index): no two prompts share a prefix, whatever the
        order in which they are asked for.
        """
        if self.prompt_token_ids is not None:
            return list(self.prompt_token_ids[index])
        bits = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        # The lowest ids are control tokens in nearly every vocabulary.
        low = min(256, vocab_size // 2)
        ids: list[int] = bits.integers(low, vocab_size, int(self.input_tokens[index])).tolist()
        return ids
