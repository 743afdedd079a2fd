"""What the first run of a session measures for all of them: the bare GPU, and the start of the engine.

The runs of a session share one start of an engine (`sweep.share_engine`). Each later record has a copy of these figures, with
where they come from, so that it needs no other record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wattcount.energy.events import Source
from wattcount.metrics.observations import gpu_uuids, held, phase_window
from wattcount.records.schema import Phase

if TYPE_CHECKING:
    from wattcount.records import Record


def measured_once(record: Record) -> dict[str, Any]:
    """`bare_idle` and `engine_start` for `RunInfo.session` of the runs that follow; empty where `record` has no whole start.

    By GPU: mean power and its 95 % uncertainty [W], mean temperature [C] and SM clock [MHz] of bare idle; energy of the start with
    its uncertainty [J]. None: not known.
    """
    phases, info = record.info.phases, record.info
    start = phase_window(phases, Phase.ENGINE_START)
    if start is None or not start.complete:
        return {}
    told = {"run_id": info.run_id, "started_utc": info.started_utc}
    found: dict[str, Any] = {}
    energies: dict[str, Any] = {}
    for uuid in gpu_uuids(record):
        estimate = record.power.energy(start.start_ns, start.end_ns, uuid)
        energies[uuid] = {"energy_j": estimate.value_j, "u95_j": estimate.u95_j}
    found["engine_start"] = {**told, "seconds": start.duration_s, "gpus": energies}
    bare = phase_window(phases, Phase.BARE_IDLE)
    if bare is None:
        return found
    powers: dict[str, Any] = {}
    for index, uuid in enumerate(record.power.gpu_uuids):
        estimate = record.power.energy(bare.start_ns, bare.end_ns, uuid)

        def mean(source: Source, gpu: int = index) -> float | None:
            values, lengths = held(record.power.events, gpu, source, bare)
            return float((values * lengths).sum() / lengths.sum()) if len(values) else None

        powers[uuid] = {
            "mean_w": None if estimate.value_j is None else estimate.value_j / bare.duration_s,
            "u95_w": None if estimate.u95_j is None else estimate.u95_j / bare.duration_s,
            "temperature_c": mean(Source.TEMPERATURE_GPU),
            "sm_clock_mhz": mean(Source.CLOCK_SM),
        }
    found["bare_idle"] = {**told, "seconds": bare.duration_s, "gpus": powers}
    return found


def bare_idle_of_session(record: Record, name: str) -> list[float] | None:
    """A figure of bare idle (`mean_w`, ...) that an earlier run of the session has measured, one a GPU; None: not all are known."""
    told = record.info.session.get("bare_idle", {}).get("gpus", {})
    values = [told.get(uuid, {}).get(name) for uuid in gpu_uuids(record)]
    return None if not values or None in values else [float(value) for value in values]
