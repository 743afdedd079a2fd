"""Learns the coefficients that are shipped, of the published data set: writes wattcount/prediction/learned.json.

python tools/learn_prediction.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from wattcount.dataset.store import Dataset
from wattcount.fitting.fit import (
    GPU_EFFECTS,
    HOST_EFFECTS,
    OWN,
    POWER,
    SOURCE_EFFECTS,
    START,
    TIME,
    fitted,
    host_of,
)
from wattcount.fitting.rows import rows
from wattcount.prediction.learned import FILE
from wattcount.prediction.physics import NAMES

ROOT = Path(__file__).resolve().parents[1]


def learned() -> str:
    """The file's text: the physics of our own runs on captured graphs, which has to stand here without any correction."""
    own_rows = [
        row
        for row in rows(Dataset.open(ROOT / "data" / "dataset").results())
        if row.source == OWN and not row.prepared.setting.enforce_eager
    ]
    alone = {"smooth": 0.03, "source": 1e-3, "source_shape": 1e-3, "source_gpu": 1e-3}
    fit = fitted(
        own_rows,
        spreads=(replace(TIME, **alone), replace(POWER, **alone)),
    )
    layout = fit.layout
    logs = {name: float(np.log(getattr(START, name)) + fit.theta[at]) for at, name in enumerate(NAMES)}
    own = fit.known.sources.index(OWN)
    for name in SOURCE_EFFECTS:
        logs[name] += float(fit.theta[layout.source_at[name] + own])
    gpus = {}
    for at, family in enumerate(fit.known.families):
        host = fit.known.hosts.index(host_of(OWN, family))
        places = {name: layout.gpu_at[name] + at for name in GPU_EFFECTS}
        # Each kind of GPU had one kind of host.
        places |= {name: layout.host_at[name] + host for name in HOST_EFFECTS}
        gpus[family] = {name: float(f"{np.exp(fit.theta[place]):.6g}") for name, place in places.items()}
    values = {name: float(f"{np.exp(log):.6g}") for name, log in logs.items()}
    return json.dumps({"coefficients": values, "gpus": gpus}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(learned())
