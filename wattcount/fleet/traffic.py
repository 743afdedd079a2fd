"""A day's traffic by slots: how many requests a second come in each, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wattcount.errors import NotStartedError
from wattcount.load.arrivals import Trace
from wattcount.simulation.scheduler import Load

DAY_S = 86400.0
"""Length of a day [s]."""


@dataclass(frozen=True)
class Traffic:
    """A trace that is played at the pace of a day: its course is stretched to `day_s`, its requests a second stay and are multiplied by `scale`.

    Within a slot, gaps and lengths are drawn from those that the trace has there.
    """

    trace: Trace
    slots: int
    scale: float = 1.0
    day_s: float = DAY_S

    def __post_init__(self) -> None:
        if len(self.trace) < 2 or self.trace.duration_s <= 0:
            raise NotStartedError(
                f"trace file {self.trace.path} spans no time: it needs two requests at different times"
            )
        if self.slots < 1 or not self.scale > 0:
            raise NotStartedError("traffic needs at least one slot and a scale above 0")

    @property
    def slot_s(self) -> float:
        return self.day_s / self.slots

    def rates_rps(self) -> list[float]:
        """Requests a second in each slot."""
        return [
            len(self._rows(slot)) / (self.trace.duration_s / self.slots) * self.scale
            for slot in range(self.slots)
        ]

    def _rows(self, slot: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        place = self.trace.offset_ns / 1e9 / self.trace.duration_s * self.slots
        return np.flatnonzero(np.minimum(place.astype(np.int64), self.slots - 1) == slot)

    def drawn(self, slot: int | None, rate_rps: float, seconds: float, seed: int) -> Load:
        """Requests at a rate, with the gaps and lengths of a slot. None: Poisson arrivals, with the lengths of the whole trace."""
        random = np.random.default_rng([seed, 0 if slot is None else slot + 1])
        rows = np.arange(len(self.trace)) if slot is None else self._rows(slot)
        count = int(rate_rps * seconds * 1.5 + 50)
        gaps = np.diff(self.trace.offset_ns[rows]) / 1e9
        if slot is None or len(gaps) < 2 or gaps.sum() <= 0:
            drawn = random.standard_exponential(count)
        else:
            drawn = random.choice(gaps / gaps.mean(), count)
        arrival = np.cumsum(drawn) / rate_rps
        arrival = arrival[arrival < seconds]
        chosen = random.choice(rows, len(arrival)) if len(rows) else np.zeros(0, np.int64)
        return Load(
            arrival[: len(chosen)],
            np.maximum(self.trace.input_tokens[chosen], 1).astype(np.int64),
            np.maximum(self.trace.output_tokens[chosen], 1).astype(np.int64),
        )


def shares(models: Sequence[str]) -> dict[str, float]:
    """`a=3,b` as shares of the requests by model: 0.75 and 0.25. Raises NotStartedError."""
    weights: dict[str, float] = {}
    for model in models:
        name, _, text = model.partition("=")
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            weight = 0.0
        if not name or not 0 < weight < 1e9 or name in weights:
            raise NotStartedError(
                f"{model!r}: give each model once, as NAME or NAME=SHARE with a share above 0"
            )
        weights[name] = weight
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}
