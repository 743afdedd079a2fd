"""A power trace: what a sampler saw of some GPUs. Pure NumPy; readable on any machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.estimate import EnergyModel
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.uncertainty import EnergyEstimate

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SOURCE_NAMES = [source.name.lower() for source in Source]
"""Names of the sources, by their number, as they stand in `power.parquet`."""


class PowerTrace:
    """Observations of one or more GPUs.

    gpu_uuids   in the order of the events' `gpu` index
    events      EVENT_DTYPE[n], in no particular order
    clock_bound_ns  most by which all times may be early or late alike; 0: they are of this machine's clock
    """

    def __init__(
        self, gpu_uuids: tuple[str, ...] | list[str], events: NDArray[np.void], *, clock_bound_ns: float = 0
    ) -> None:
        if events.dtype != EVENT_DTYPE:
            raise TypeError(f"events must have EVENT_DTYPE, got {events.dtype}")
        self.gpu_uuids = tuple(gpu_uuids)
        self.events = events
        self.clock_bound_ns = clock_bound_ns
        self._models: dict[str, EnergyModel] = {}
        self._steps: dict[tuple[str, Source, str], float | None] = {}
        self._sorted: dict[tuple[int, int], NDArray[np.void]] | None = None

    def __len__(self) -> int:
        return len(self.events)

    def of(self, gpu_uuid: str, source: Source) -> NDArray[np.void]:
        """Events of one source of one GPU in the order of time. Raises KeyError for a GPU that is not here."""
        return self._of(self._index(gpu_uuid), source)

    def _of(self, gpu: int, source: Source) -> NDArray[np.void]:
        """All events are sorted once, because metrics and rules ask some fifty times."""
        if self._sorted is None:
            fields = ("source_ts_us", "t0_ns", "source", "gpu")
            ordered = self.events[np.lexsort([np.ascontiguousarray(self.events[name]) for name in fields])]
            ordered.setflags(write=False)
            group = ordered["gpu"].astype(np.int64) * (1 << 16) + ordered["source"]
            ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(group)).tolist() if len(group) else []
            self._sorted = {
                (int(ordered["gpu"][low]), int(ordered["source"][low])): ordered[low:high]
                for low, high in zip([0, *ends], ends, strict=False)
            }
        return self._sorted.get((gpu, int(source)), self.events[:0])

    def energy(self, start_ns: int, end_ns: int, gpu_uuid: str) -> EnergyEstimate:
        """Energy a GPU took in [start_ns, end_ns], CLOCK_MONOTONIC; see `wattcount.energy.estimate`.

        Raises ValueError if the interval is empty or reversed, KeyError for a GPU that is not here.
        """
        return self.model(gpu_uuid).energy(start_ns, end_ns)

    def usual_step(self, gpu_uuid: str, source: Source, stamp: str) -> float | None:
        """Usual distance of two different stamps (`source_ts_us`, `t0_ns`, ...) of a source, in their unit; None: there are no two."""
        asked = gpu_uuid, source, stamp
        if asked not in self._steps:
            apart = np.diff(np.sort(self.of(gpu_uuid, source)[stamp]))
            apart = apart[apart > 0]
            self._steps[asked] = float(np.median(apart)) if len(apart) else None
        return self._steps[asked]

    def prepare(self, intervals: Iterable[tuple[int, int]]) -> None:
        """Finds out about intervals whose energy will be asked for, all at once: that takes hardly longer than one."""
        asked = [one for one in dict.fromkeys(intervals) if one[0] < one[1]]
        for uuid in self.gpu_uuids:
            self.model(uuid).prepare(asked)

    def energy_by_source(self, start_ns: int, end_ns: int, gpu_uuid: str) -> dict[str, EnergyEstimate]:
        """What each source on its own says of the same interval, by the name of the source."""
        return self.model(gpu_uuid).energy_by_source(start_ns, end_ns)

    def cumulative_j(self, gpu_uuid: str, t_ns: Ints) -> Floats:
        """Joules up to each time, float64 of the same shape, against a zero that all times share.

        The same curve that `energy` integrates where the counter can be used; where it cannot, the best power source.
        Raises KeyError for a GPU that is not here, ValueError where nothing was seen of its power.
        """
        joules = self.model(gpu_uuid).cumulative_j(np.asarray(t_ns, np.int64))
        if joules is None:
            raise ValueError(f"nothing was seen of the power of {gpu_uuid}")
        return joules

    def bounds_ns(self, gpu_uuid: str) -> tuple[int, int] | None:
        """Begin and end of what `cumulative_j` has seen [ns]; None: it has seen nothing. Raises KeyError for a GPU that is not here."""
        return self.model(gpu_uuid).bounds_ns

    def curve(self, gpu_uuid: str, max_points: int) -> tuple[Ints, Floats]:
        """Mean power in at most `max_points` equal stretches of the trace: (middle ns, watts).

        The means times the stretch add up to the energy of the whole, whatever `max_points` is.
        """
        return self.model(gpu_uuid).curve(max_points)

    def to_arrow(self) -> pa.Table:
        """The table of `power.parquet` (`records.schema.POWER_SCHEMA`)."""
        import pyarrow as pa

        events = self.events

        def nullable(name: str) -> Any:
            column = events[name]
            return pa.array(column, mask=column < 0)

        def dictionary(indices: NDArray[Any], names: list[str]) -> Any:
            return pa.DictionaryArray.from_arrays(
                pa.array(indices.astype(np.int16)), pa.array(names, pa.string())
            )

        return pa.table(
            {
                "gpu": dictionary(events["gpu"], list(self.gpu_uuids)),
                "source": dictionary(events["source"], SOURCE_NAMES),
                "prev_t0_ns": nullable("prev_t0_ns"),
                "t0_ns": pa.array(events["t0_ns"]),
                "t1_ns": pa.array(events["t1_ns"]),
                "source_ts_us": nullable("source_ts_us"),
                "value": pa.array(events["value"]),
                "nvml_return": pa.array(events["nvml_return"]),
            }
        )

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        gpu_uuids: list[str] | tuple[str, ...] | None = None,
        *,
        clock_bound_ns: float = 0,
    ) -> PowerTrace:
        """Makes the trace of the table of `power.parquet`. GPUs without an event are known only if named in `gpu_uuids`.

        Raises ValueError for a source this version does not know.
        """
        import pyarrow.compute as pc

        def codes(name: str) -> tuple[Ints, list[str]]:
            column = pc.dictionary_encode(pc.cast(table[name], "string")).combine_chunks()
            return column.indices.to_numpy(zero_copy_only=False).astype(
                np.int64
            ), column.dictionary.to_pylist()

        gpu, uuids = codes("gpu")
        source, names = codes("source")
        known = {name: number for number, name in enumerate(SOURCE_NAMES)}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"power.parquet holds sources this version of wattcount does not know: {unknown}"
            )
        order = list(gpu_uuids) if gpu_uuids is not None else sorted(uuids)
        if missing := [uuid for uuid in uuids if uuid not in order]:
            raise ValueError(f"power.parquet holds GPUs that run.json does not: {missing}")
        events = np.empty(len(table), EVENT_DTYPE)
        if len(table):
            events["gpu"] = np.array([order.index(uuid) for uuid in uuids])[gpu]
            events["source"] = np.array([known[name] for name in names])[source]
            for name in ("prev_t0_ns", "t0_ns", "t1_ns", "source_ts_us", "value", "nvml_return"):
                events[name] = pc.fill_null(table[name], -1).to_numpy()
        return cls(tuple(order), events, clock_bound_ns=clock_bound_ns)

    def to_pandas(self) -> pd.DataFrame:
        """One row an event; GPU and source by name, -1 stamps as NA."""
        frame: pd.DataFrame = self.to_arrow().to_pandas(types_mapper=_nullable_ints)
        return frame

    def _index(self, gpu_uuid: str) -> int:
        try:
            return self.gpu_uuids.index(gpu_uuid)
        except ValueError:
            raise KeyError(f"no GPU {gpu_uuid} in this trace; it has {', '.join(self.gpu_uuids)}") from None

    def model(self, gpu_uuid: str) -> EnergyModel:
        """The sources of one GPU, prepared. Raises KeyError for a GPU that is not here."""
        if gpu_uuid not in self._models:
            sources = {source: self.of(gpu_uuid, source) for source in Source}
            self._models[gpu_uuid] = EnergyModel(sources, self.clock_bound_ns)
        return self._models[gpu_uuid]


def _nullable_ints(arrow_type: Any) -> Any:
    import pandas as pd
    import pyarrow as pa

    return {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype()}.get(arrow_type)
