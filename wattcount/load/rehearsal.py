"""What an engine is given before it is measured, so that it meets every batch size once.

vLLM compiles some kernels (Triton's, of mixtures of experts and state-space models among them) when a batch first has
a certain size, and stands still for half a second and more each time. A rehearsal takes it through all sizes, from as many
requests as it runs at once down to one, and through full prefill steps.

::

    running  N |    .----.
               |   /      `--.
               |  /           `-----.
             1 | /                   `-----------.___
               +----------------------------------------> steps
                 prefill   each step an eighth fewer, at the end one fewer
"""

from __future__ import annotations

import numpy as np

from wattcount.load.plan import LoadPlan
from wattcount.load.streams import Stream, derived_seed

SHORT_INPUT_TOKENS = 16
"""Of requests that are there for the batch's size alone: decoding does not compile anew for a longer context."""
FULL_PREFILL_STEPS = 2
"""Prompts of the load's own lengths fill so many steps."""


def rehearsal_plan(
    load: LoadPlan, requests: int, *, max_batched_tokens: int, max_request_tokens: int
) -> LoadPlan:
    """A plan of `requests` at once whose number falls to one as they end.

    load                what is rehearsed: its longest prompts are the longest of the rehearsal
    max_batched_tokens  that the engine prefills in a step at most
    max_request_tokens  that a request may have, prompt and completion

    Those that stay longest come first, with short prompts; the load's prompts are those of the last, which
    stay shortest, and as many as `FULL_PREFILL_STEPS` hold. Raises `ValueError` for less than one request.
    """
    if requests < 1:
        raise ValueError(f"a rehearsal needs at least one request, got {requests}")
    longest = np.sort(load.input_tokens)[::-1]
    own = np.resize(longest, requests)[::-1]
    # From the last one back, until the steps are full.
    tokens_behind = np.cumsum(own[::-1])[::-1] - own
    inputs = np.where(
        tokens_behind < FULL_PREFILL_STEPS * max_batched_tokens, own, np.minimum(own, SHORT_INPUT_TOKENS)
    )
    prefill_steps = -(-int(inputs.sum()) // max_batched_tokens)
    outputs = np.clip(_steps_running(requests) + prefill_steps, 1, max(1, max_request_tokens - 1))
    inputs = np.maximum(1, np.minimum(inputs, max_request_tokens - outputs))
    return LoadPlan(
        send_offset_ns=np.zeros(requests, np.int64),
        input_tokens=inputs.astype(np.int32),
        output_tokens=outputs.astype(np.int32),
        force_output_length=True,
        seed=derived_seed(load.seed, Stream.REHEARSAL),
    )


def _steps_running(requests: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """int64[requests]: for how many steps each one runs, the first the longest."""
    steps = np.zeros(requests, np.int64)
    running = requests
    while running:
        steps[:running] += 1
        running -= max(1, running // 8)
    return steps
