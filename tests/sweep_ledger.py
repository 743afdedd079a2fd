"""A sweep's ledger with a bit of everything in it."""

from __future__ import annotations

from pathlib import Path

from synthetic_record import SyntheticRun

from wattcount.metrics import write
from wattcount.records.schema import Evidence
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Outcome, Plan, Point, State


def planned(key: str, **other) -> Point:
    values = {
        "model": "llama3_8b", "gpu": "h200", "scenario": "server", "load": "server 4/s", "seed": 0, "repeat": 0,
        "overrides": (f"model=llama3_8b repeat={key}",),
    }  # fmt: skip
    return Point(key=key, **(values | other))


PER_TOKEN = "energy/gpu_j_per_output_token"
NAMES = ("done", "failed", "running", "waiting", "done_too")


def make_sweep(folder: Path) -> Ledger:
    """`big` in `folder`: six points, of which two are done, one failed, one runs, one waits and one is skipped.

    It lives until the ledger is closed.
    """
    points = [planned(name, repeat=i, wall_s=100.0, basis="predicted") for i, name in enumerate(NAMES)]
    points.append(
        planned(
            "skipped",
            model="llama3_70b",
            gpu="l4",
            state=State.skipped,
            reason="does_not_fit",
            message="weights 131.4 GiB + KV cache 2.5 GiB > 22.5 GiB [L4]",
        )
    )
    ledger = Ledger.open(folder, "big")
    ledger.write_plan(Plan("big", tuple(points), "2026-01-01T00:00:00Z", ("+experiment=big", "a=b c")))
    ledger.append(Outcome(State.running))
    for name in ("done", "done_too"):
        record = SyntheticRun(run_id=name, evidence=Evidence.EMULATED).write(folder / "records" / name)
        write(record)
        ledger.append(Outcome(State.running, name))
        ledger.append(
            Outcome(
                State.done,
                name,
                record=str(record),
                wall_s=120.0,
                energy_j=5000.0,
                figures={PER_TOKEN: 0.0813},
            )
        )
    ledger.append(Outcome(State.running, "failed"))
    ledger.append(Outcome(State.failed, "failed", reason="out_of_memory", message="CUDA [out] of\nmemory"))
    ledger.append(Outcome(State.running, "running", gpu_uuid="GPU-0123456789"))
    return ledger
