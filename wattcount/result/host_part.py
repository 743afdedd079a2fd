"""How far starts of the engine scatter: what a single run cannot know of its setting, because hosts differ and change.

The CPU launches each step, so the same board serves otherwise on another host, or in another hour (`metrics.host`). A run does not show by how
much; repeats of other settings of its kind do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PER_TOKEN, WATTS = "energy/gpu_j_per_output_token", "power/gpu_mean_w"

BATCH, SERVER, EAGER_BATCH, EAGER_SERVER = "batch", "server", "eager batch", "eager server"


@dataclass(frozen=True)
class StartScatter:
    """How far a figure scatters between starts of the engine.

    sd       standard deviation of its logarithm, pooled over settings
    freedom  degrees of freedom of `sd`
    t_975    97.5 % point of Student's t for them: stands here because scipy takes longer to load than a record to be shown
    """

    sd: float
    freedom: int
    t_975: float

    @property
    def u95_share(self) -> float:
        """95 % half width for one start, relative."""
        return self.t_975 * self.sd


START_SCATTER: Mapping[str, Mapping[str, StartScatter]] = {
    BATCH: {PER_TOKEN: StartScatter(0.0144, 13, 2.16037), WATTS: StartScatter(0.0102, 14, 2.14479)},
    EAGER_BATCH: {PER_TOKEN: StartScatter(0.0397, 12, 2.17881), WATTS: StartScatter(0.0542, 12, 2.17881)},
    SERVER: {PER_TOKEN: StartScatter(0.0292, 27, 2.05183), WATTS: StartScatter(0.0275, 24, 2.0639)},
    EAGER_SERVER: {PER_TOKEN: StartScatter(0.0575, 13, 2.16037), WATTS: StartScatter(0.0412, 13, 2.16037)},
}
"""How far starts scatter, by kind of load and by figure. Measured: by the repeats in data/, each a start of its own, most on another board and host of a GPU model
(`python tools/start_scatter.py` writes these lines). Eager runs are short ones, of 8 to 30 s."""


def load_kind(kind: str | None, eager: bool) -> str | None:
    """What kind of load, for START_SCATTER; None for another than a batch or a server."""
    if kind == "batch":
        return EAGER_BATCH if eager else BATCH
    if kind in (
        "server",
        "concurrency",
    ):  # a closed loop is served as any: its scatter was not measured apart
        return EAGER_SERVER if eager else SERVER
    return None


def scatter_of_starts(load: str | None, key: str) -> StartScatter | None:
    """How far a figure scatters between starts; joules per request scatter as those per token do. None: not known."""
    figure = PER_TOKEN if key.startswith("energy/gpu_j_per_") else key
    return START_SCATTER.get(load or "", {}).get(figure)
