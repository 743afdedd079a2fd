"""What an engine is given before it is measured: the beginning of the run's own load, so that it meets the steps of the window.

Engines compile some kernels (Triton's, of mixtures of experts and state-space models among them) when a step first has
a certain number of tokens, and stand still for half a second and more each time.

::

    load       |-- warm-up --|-------------- window ---------------------|
    rehearsal                |-- played --|
                              round 0, round 1, ... until nothing new is compiled
"""

from __future__ import annotations

import numpy as np

from wattcount.load.plan import LoadPlan
from wattcount.load.streams import Stream, derived_seed


def beginning(
    load: LoadPlan, number: int, requests: int, *, begin_ns: int = 0, end_ns: int | None = None
) -> LoadPlan:
    """Round `number` of a rehearsal: the first `requests` of those of `load` that are planned from `begin_ns` on and before
    `end_ns`, with their lengths and arrivals; of those from the load's start where none is.

    begin_ns, end_ns  from the start of the load; None: to its end

    The token ids are others in each round, drawn at random, so that no prompt is found in a prefix cache. Raises `ValueError`
    for less than one request.
    """
    if requests < 1:
        raise ValueError(f"a rehearsal needs at least one request, got {requests}")
    offsets = load.send_offset_ns
    chosen = np.flatnonzero((offsets >= begin_ns) & (offsets < (end_ns if end_ns is not None else np.inf)))
    if not len(chosen):
        chosen = np.arange(len(load))
    chosen = chosen[:requests]
    return LoadPlan(
        send_offset_ns=offsets[chosen] - offsets[chosen[0]],
        input_tokens=load.input_tokens[chosen],
        output_tokens=load.output_tokens[chosen],
        force_output_length=load.force_output_length,
        sampling=load.sampling,
        seed=derived_seed(load.seed, Stream.REHEARSAL) + number,
    )
