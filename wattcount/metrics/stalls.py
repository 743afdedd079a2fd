"""Stalls of a window: time in which the engine had work and did not do it (`load.stalls`).

A run that contains such stalls says what starting up costs, not what serving costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wattcount.load.stalls import Stalls, Steps
from wattcount.load.stalls import stalls as found_in
from wattcount.metrics.observations import MISSING, Requests, int_column
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record


def stalls(record: Record, requests: Requests, window: Window) -> Stalls | None:
    """Stalls within a window; None where the engine's steps are not known, or are too few to tell."""
    steps = record.steps
    reported_ns = int_column(steps, "logged_ns")
    prefill, decode = int_column(steps, "prefill_tokens"), int_column(steps, "decode_tokens")
    if not len(reported_ns) or (prefill == MISSING).any() or (decode == MISSING).any():
        return None
    sent = requests.actual_send_ns != MISSING
    # One that never got a last token was in flight until the end, for all that is known.
    ended_ns = np.where(requests.last_token_ns == MISSING, int(reported_ns.max()), requests.last_token_ns)
    return found_in(
        Steps(reported_ns, prefill, decode),
        requests.actual_send_ns[sent],
        ended_ns[sent],
        window.start_ns,
        window.end_ns,
    )
