"""The sampler's own books, and the run's, as metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wattcount.metrics.registry import POLLED_SOURCES
from wattcount.records.schema import RunInfo

STATUS_SOURCES = ("temperature_gpu", "clock_sm", "utilization_gpu", "memory_used")
"""Read together at the status rate; the first one that the GPU has stands for all."""


def sampler_figures(info: RunInfo) -> dict[str, int | float]:
    """`sampler/...` figures of a run; a figure that cannot be had is left out.

    Several GPUs: shares and counts add up; of rates the slowest, of lateness the worst.
    """
    gpus = [gpu for gpu in info.sampler.values() if isinstance(gpu, Mapping)]
    figures: dict[str, int | float] = {}
    shares = [gpu["cpu_ns"] / gpu["wall_ns"] for gpu in gpus if gpu.get("wall_ns")]
    if shares and len(shares) == len(gpus):
        figures["sampler/cpu_share"] = math.fsum(shares)
    for name in ("missed_deadlines", "dropped_events", "ring_overflows"):
        counts = [gpu[name] for gpu in gpus if gpu.get(name) is not None]
        if counts:
            figures[f"sampler/{name}"] = int(sum(counts))
    for source in POLLED_SOURCES:
        books = [book for gpu in gpus if (book := _book(gpu, source)) is not None]
        if rates := [book["rate_hz"] for book in books if book.get("rate_hz")]:
            figures[f"sampler/{source}_rate_hz"] = float(min(rates))
        if late := [book["lateness_p99_ns"] for book in books if book.get("lateness_p99_ns") is not None]:
            figures[f"sampler/{source}_jitter_ms"] = float(max(late)) / 1e6
    return figures


def _book(gpu: Mapping[str, Any], source: str) -> Mapping[str, Any] | None:
    """The books of a source that works on this GPU."""
    sources = gpu.get("sources", {})
    for name in STATUS_SOURCES if source == "status" else (source,):
        book: Mapping[str, Any] | None = sources.get(name)
        if book is not None and book.get("calls", 0) > book.get("errors", 0):
            return book
    return None


def timing_figures(info: RunInfo) -> dict[str, float]:
    """`run/...`: what wattcount itself adds to a run, seconds."""
    return {
        f"run/{name}": float(info.timing[name])
        for name in ("overhead_s", "engine_start_s")
        if name in info.timing
    }
