"""When a warm-up is over: once power and throughput have settled.

Samples are taken at even intervals from the load's begin on. The later half of them, so that what is looked
at grows with the warm-up and its beginning is forgotten, must show

- as many as a trend can be told from;
- no trend of the tokens/s beyond chance, so the server has filled up;
- no trend of the power beyond chance that the tokens/s do not explain: clocks, temperature;
- and the load must have gone on for twice as long as a request lives: before the first ones end, more and
  more are in flight however steady everything looks.

A trend within `TOLERANCE_PERCENT` over the samples looked at is let pass, however certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import numpy as np

from wattcount.load.generator import RequestRecord
from wattcount.statistics import MIN_VALUES, residual, theil_sen

TOLERANCE_PERCENT = 5.0
LIVES = 2.0


class Settling:
    """Takes samples of a load that warms up and says what has not settled yet."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._now_ns = start_ns
        self._tokens: list[int] = [0]
        self._power_w: list[float | None] = []

    def add(self, t_ns: int, output_tokens: int, power_w: float | None) -> None:
        """A sample: output tokens in all, and mean power since the one before; at even intervals."""
        self._now_ns = t_ns
        self._tokens.append(output_tokens)
        self._power_w.append(power_w)

    def unsettled(self) -> dict[str, float]:
        """What still drifts, `power` or `throughput`, by how many percent over the samples looked at."""
        count = max(MIN_VALUES, (len(self._power_w) + 1) // 2)
        if len(self._power_w) < count:
            return {}
        tokens = np.diff(np.array(self._tokens, dtype=np.float64))[-count:]
        drifts = {"throughput": theil_sen(tokens)}
        known = [value for value in self._power_w[-count:] if value is not None]
        if len(known) == count:
            watts = np.array(known)
            drifts["power"] = theil_sen(residual(watts, tokens), float(watts.mean()))
        return {
            name: drift.percent
            for name, drift in drifts.items()
            if drift is not None and drift.certain and abs(drift.percent) > TOLERANCE_PERCENT
        }

    def needed_s(self, requests: Iterable[RequestRecord]) -> float | None:
        """How long the load has to go on for it to have filled up; None: no request has ended yet."""
        lives, sent = [], False
        for record in requests:
            sent = sent or record.actual_send_ns is not None
            if record.status == "completed":
                assert record.actual_send_ns is not None
                assert record.last_token_ns is not None
                lives.append(record.last_token_ns - record.actual_send_ns)
        if not lives:
            return None if sent else 0.0
        return LIVES * median(lives) / 1e9

    def settled(self, requests: Iterable[RequestRecord]) -> bool:
        """Whether the warm-up may end; `requests`: what was sent or is to be sent in it."""
        needed_s = self.needed_s(requests)
        if len(self._power_w) < MIN_VALUES or needed_s is None:
            return False
        return (self._now_ns - self._start_ns) / 1e9 >= needed_s and not self.unsettled()

    def verdict(self, requests: Sequence[RequestRecord]) -> dict[str, Any]:
        """For `run.json`: `settled`, `unsettled` (percent by what drifts), `needed_s`."""
        return {
            "settled": self.settled(requests),
            "unsettled": {name: round(percent, 2) for name, percent in self.unsettled().items()},
            "needed_s": self.needed_s(requests),
        }
