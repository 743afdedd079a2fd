"""The columns of the tables of settings and of results: one name for pages, downloads and the API.

A figure's column has the name that it has in the files of a data set (`dataset.rows`).
"""

from __future__ import annotations

from dataclasses import dataclass

from wattcount.dataset.rows import column_of
from wattcount.metrics.metrics_json import spec
from wattcount.result.host_part import PER_TOKEN


@dataclass(frozen=True)
class Figure:
    """A figure that tables show.

    key      in the registry of metrics, which has its unit and definition
    heading  short
    factor, unit   what is shown is the figure times `factor`, in `unit`
    """

    key: str
    heading: str
    unit: str
    factor: float = 1.0

    @property
    def column(self) -> str:
        return column_of(self.key)

    @property
    def definition(self) -> str:
        return spec(self.key).description

    @property
    def better(self) -> str | None:
        return spec(self.key).better


def _latency(name: str, word: str) -> tuple[Figure, ...]:
    return (
        *(Figure(f"latency/{name}_p{p}_ms", f"{word} p{p}", "ms") for p in (50, 95, 99)),
        Figure(f"latency/{name}_mean_ms", f"{word} mean", "ms"),
    )


FIGURES: tuple[Figure, ...] = (
    Figure(PER_TOKEN, "Energy per output token", "mJ", 1e3),
    Figure("energy/dynamic_j_per_output_token", "without idle, per output token", "mJ", 1e3),
    Figure("energy/gpu_j_per_request", "Energy per request", "J"),
    Figure("energy/gpu_j_per_good_request", "Energy per good request", "J"),
    Figure("energy/wall_j_per_output_token", "At the wall, per output token", "mJ", 1e3),
    Figure("power/gpu_mean_w", "Mean power", "W"),
    Figure("power/idle_loaded_w", "Idle power, loaded", "W"),
    Figure("throughput/output_tokens_per_s", "Output", "tokens/s"),
    Figure("throughput/requests_per_s", "Requests done", "requests/s"),
    Figure("throughput/goodput_rps", "Good requests", "requests/s"),
    *_latency("ttft", "TTFT"),
    *_latency("tpot", "TPOT"),
    *_latency("e2e", "E2E"),
)
"""The figures of both tables, in their order."""
