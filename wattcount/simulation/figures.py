"""What people ask of a load that was played: energy, latencies, the share that keeps an SLO; by the keys and in the units of `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.metrics.observations import Bools, Floats, percentile
from wattcount.metrics.service import PERCENTILES
from wattcount.simulation.scheduler import Played


@dataclass(frozen=True)
class Latencies:
    """float64[n] of the requests sent in a window [s]: `inf` where it never came, NaN where there is none (the TPOT of a single token)."""

    ttft_s: Floats
    tpot_s: Floats
    e2e_s: Floats

    def good(self, slo: SloConfig) -> Bools:
        """Which requests keep an SLO; one with a single token has no TPOT to break it with."""
        good = np.isfinite(self.e2e_s)
        for values, bound_ms in (
            (self.ttft_s, slo.ttft_ms),
            (self.tpot_s, slo.tpot_ms),
            (self.e2e_s, slo.e2e_ms),
        ):
            if bound_ms is not None:
                good = good & ~(values * 1e3 > bound_ms)
        return good

    def attained(self, slo: SloConfig) -> float | None:
        """Share of the requests that keep an SLO; None: there is no request."""
        return float(self.good(slo).mean()) if len(self.e2e_s) else None

    def percentile_ms(self, name: str, p: int) -> float | None:
        """Of `ttft`, `tpot` or `e2e`."""
        values: Floats = getattr(self, f"{name}_s")
        found = percentile(values[~np.isnan(values)], p)[0]
        return None if found is None else 1e3 * found


def latencies(played: Played, window_s: tuple[float, float], front_s: float = 0.0) -> Latencies:
    """Of the requests sent in the window, as a client sees them: `front_s` later than the engine."""
    sent = in_window(played, window_s)
    arrival, tokens = played.load.arrival_s[sent], played.load.output_tokens[sent]
    first, last = played.first_s[sent], played.last_s[sent]
    done = ~np.isnan(last)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(tokens > 1, np.where(done, (last - first) / (tokens - 1), np.inf), np.nan)
    return Latencies(
        np.where(np.isnan(first), np.inf, first - arrival + front_s),
        tpot,
        np.where(done, last - arrival + front_s, np.inf),
    )


def in_window(played: Played, window_s: tuple[float, float]) -> Bools:
    """Requests that are sent in the window."""
    arrival = played.load.arrival_s
    inside: Bools = (arrival >= window_s[0]) & (arrival < window_s[1])
    return inside


def figures(
    played: Played, window_s: tuple[float, float], front_s: float = 0.0
) -> Mapping[str, float | None]:
    """Figures of a window by key; None where there is nothing to tell them from."""
    seconds = window_s[1] - window_s[0]
    energy_j = played.energy_j(*window_s)
    tokens = played.steps.emitted_between(window_s[0] - front_s, window_s[1] - front_s)
    seen = latencies(played, window_s, front_s)
    steps = played.steps
    inside = (steps.end_s > window_s[0]) & (steps.start_s < window_s[1])
    return {
        "power/gpu_mean_w": energy_j / seconds,
        "energy/gpu_j": energy_j,
        "energy/gpu_j_per_output_token": energy_j / tokens if tokens else None,
        "throughput/output_tokens_per_s": tokens / seconds,
        **{
            f"latency/{name}_p{p}_ms": seen.percentile_ms(name, p)
            for name in ("ttft", "tpot", "e2e")
            for p in PERCENTILES
        },
        "requests/sent": float(len(seen.e2e_s)),
        "requests/completed": float(np.isfinite(seen.e2e_s).sum()),
        "tokens/output": tokens,
        "engine/running_max": float(steps.running[inside].max(initial=0)),
        "engine/waiting_max": float(steps.waiting[inside].max(initial=0)),
        "engine/preemptions": float(played.preemptions[in_window(played, window_s)].sum()),
    }
