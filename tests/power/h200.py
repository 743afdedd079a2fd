"""Recordings of a real H200 as the sampler would have written them.

They are not part of the repository: `$WATTCOUNT_SHARED_DATA`, else `../shared/data` from the project's root.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from wattcount.power.events import EVENT_DTYPE, Source
from wattcount.power.trace import PowerTrace

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("WATTCOUNT_SHARED_DATA", ROOT / ".." / "shared" / "data")) / "h200"
UUID = "GPU-h200"
KINDS = {
    "E": Source.ENERGY_COUNTER,
    "A": Source.POWER_AVERAGE,
    "I": Source.POWER_INSTANT,
    "P": Source.POWER_USAGE,
    "R": Source.POWER_SAMPLES,
}


def load(name: str) -> pd.DataFrame:
    """Rows of a recording: `kind`, `t0_ns`, `t1_ns`, `value`."""
    frame = pd.read_csv(FOLDER / name)
    frame["t0_ns"] = (frame.pop("t0") * 1e9).round().astype("int64")
    frame["t1_ns"] = (frame.pop("t1") * 1e9).round().astype("int64")
    return frame


def events(frame: pd.DataFrame, kinds: str = "EAIPR") -> NDArray[np.void]:
    """EVENT_DTYPE events; the ring's stamps are on the monotonic clock, so the clock pair is 0 = 0."""
    chosen = frame[frame["kind"].isin(list(kinds))].sort_values(["t1_ns"], kind="stable")
    made = np.zeros(len(chosen) + 1, EVENT_DTYPE)
    made["prev_t0_ns"] = made["source_ts_us"] = -1
    pair, rows = made[:1], made[1:]
    pair["source"] = Source.REALTIME
    pair["t0_ns"] = pair["t1_ns"] = pair["value"] = chosen["t0_ns"].min()
    rows["t0_ns"], rows["t1_ns"] = chosen["t0_ns"], chosen["t1_ns"]
    rows["value"] = chosen["value"]
    rows["source"] = chosen["kind"].map({kind: int(source) for kind, source in KINDS.items()})
    ring = rows["source"] == Source.POWER_SAMPLES
    rows["source_ts_us"][ring] = rows["t0_ns"][ring] // 1000
    return made


def thinned(frame: pd.DataFrame, every_s: float, seed: int = 0) -> pd.DataFrame:
    """With counter reads some `every_s` seconds apart only, as the sampler makes them (5 % of jitter)."""
    rng = np.random.default_rng(seed)
    counter = frame[frame["kind"] == "E"].sort_values("t0_ns")
    seen = counter["t0_ns"].to_numpy()
    due, chosen = seen[0], []
    while due <= seen[-1]:
        chosen.append(int(np.searchsorted(seen, due)))
        due += int(every_s * 1e9 * rng.uniform(0.95, 1.05))
    return pd.concat([frame[frame["kind"] != "E"], counter.iloc[sorted(set(chosen))]])


def trace(frame: pd.DataFrame, kinds: str = "EAIPR") -> PowerTrace:
    return PowerTrace((UUID,), events(frame, kinds))


def counter_edges(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(when a new value was first seen, joules) from every read of the counter."""
    counter = frame[frame["kind"] == "E"].sort_values("t0_ns")
    fresh = np.flatnonzero(np.diff(counter["value"].to_numpy()) > 0) + 1
    edges = counter.iloc[fresh]
    return ((edges["t0_ns"] + edges["t1_ns"]) // 2).to_numpy(), edges["value"].to_numpy() / 1e3
