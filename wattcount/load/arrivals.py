"""Arrival processes: when requests come, as offsets from the start of the load.

Every process is drawn at unit rate and then stretched by 1 / rate, so another rate is the same
workload played faster or slower: request i comes at `unit_time[i] / rate` and stays request i.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import MAX_REQUESTS, ArrivalConfig, ArrivalKind
from wattcount.errors import NotStartedError
from wattcount.load.streams import Stream, stream
from wattcount.load.trace import Trace, read_trace


class Arrivals(ABC):
    """An arrival process of a given mean rate."""

    @abstractmethod
    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        """All arrivals in [0, duration), int64, not decreasing."""


class RenewalArrivals(Arrivals):
    """Independent gaps of mean 1 / rate: Poisson where they are exponential (cv = 1).

    Gaps are gamma distributed with shape 1 / cv² (cv > 1: bursts, cv < 1: more regular than Poisson).
    """

    def __init__(self, rate_rps: float, cv: float, seed: int) -> None:
        self.rate_rps = rate_rps
        self.cv = cv
        self.seed = seed

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        _check_size(self.rate_rps * duration_s)
        random = stream(self.seed, Stream.ARRIVALS)
        unit_duration = duration_s * self.rate_rps
        # Mean plus four standard deviations of a renewal process' count, then whatever is still missing.
        block = ceil(unit_duration + 4 * self.cv * sqrt(unit_duration) + 16)
        gaps = self._unit_gaps(random, block)
        while gaps.sum() < unit_duration + 1:
            gaps = np.concatenate([gaps, self._unit_gaps(random, block)])
        times = np.cumsum(gaps)
        return _to_ns(times / self.rate_rps, duration_s)

    def _unit_gaps(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        if self.cv == 1.0:
            return random.standard_exponential(count)
        shape = 1.0 / self.cv**2
        return random.standard_gamma(shape, count) / shape


class ConstantArrivals(Arrivals):
    """One request every 1 / rate seconds, the first at 0."""

    def __init__(self, rate_rps: float) -> None:
        self.rate_rps = rate_rps

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        _check_size(self.rate_rps * duration_s)
        count = ceil(self.rate_rps * duration_s) + 1
        return _to_ns(np.arange(count) / self.rate_rps, duration_s)


class TraceArrivals(Arrivals):
    """Arrivals as recorded, from the trace's first request on; rescaled where a rate is given."""

    def __init__(self, trace: Trace, rate_rps: float | None) -> None:
        if rate_rps is not None and trace.rate_rps == 0:
            raise NotStartedError(
                f"trace file {trace.path} spans no time, so it has no rate to scale to {rate_rps} requests/s"
            )
        self.trace = trace
        self.stretch = 1.0 if rate_rps is None else trace.rate_rps / rate_rps

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        available_s = self.trace.duration_s * self.stretch
        if available_s < duration_s:
            raise NotStartedError(
                f"trace file {self.trace.path} lasts {available_s:.1f} s at this rate, shorter than warm-up and window"
                f" ({duration_s:g} s): shorten scenario.window_s or lower scenario.rate_rps"
            )
        return _to_ns(self.trace.offset_ns.astype(np.float64) * (self.stretch / 1e9), duration_s)


def create(config: ArrivalConfig, rate_rps: float | None, seed: int) -> Arrivals:
    """The arrival process a scenario asks for."""
    if config.kind is ArrivalKind.trace:
        if config.path is None:
            raise NotStartedError("scenario.arrivals.kind=trace needs scenario.arrivals.path, a trace file")
        return TraceArrivals(read_trace(config.path), rate_rps)
    if rate_rps is None:
        raise NotStartedError(
            f"scenario.rate_rps is needed for {config.kind.value} arrivals; only a trace has its own"
        )
    if config.kind is ArrivalKind.constant:
        return ConstantArrivals(rate_rps)
    return RenewalArrivals(rate_rps, config.cv if config.kind is ArrivalKind.gamma else 1.0, seed)


def _to_ns(times_s: NDArray[np.float64], duration_s: float) -> NDArray[np.int64]:
    offsets = np.rint(times_s * 1e9).astype(np.int64)
    return offsets[offsets < round(duration_s * 1e9)]


def _check_size(expected: float) -> None:
    if expected > MAX_REQUESTS:
        raise NotStartedError(
            f"the load would hold {expected:.3g} requests, more than {MAX_REQUESTS}: lower the rate"
        )
