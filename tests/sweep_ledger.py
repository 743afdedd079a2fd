"""A sweep's ledger with a bit of everything in it."""

from __future__ import annotations

from pathlib import Path

from synthetic_record import SyntheticRun

from wattcount.metrics import write
from wattcount.records.schema import Evidence
from wattcount.sweep.ledger import Event, EventKind, Ledger
from wattcount.sweep.plan import Plan, PlannedPoint, PlanState


def planned(key: str, **other) -> PlannedPoint:
    values = {
        "model": "llama3_8b", "gpu": "h200", "scenario": "server", "load": "server 4/s", "seed": 0, "repeat": 0,
        "overrides": (f"model=llama3_8b repeat={key}",),
    }  # fmt: skip
    return PlannedPoint(key=key, **(values | other))


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
            state=PlanState.skipped,
            reason="does_not_fit",
            message="weights 131.4 GiB + KV cache 2.5 GiB > 22.5 GiB [L4]",
        )
    )
    ledger = Ledger.open(folder, "big")
    ledger.write_plan(Plan("big", tuple(points), "2026-01-01T00:00:00Z", ("+experiment=big", "a=b c")))
    ledger.append(Event(EventKind.start))
    for name in ("done", "done_too"):
        record = SyntheticRun(run_id=name, evidence=Evidence.EMULATED).write(folder / "records" / name)
        write(record)
        ledger.append(Event(EventKind.started, name))
        ledger.append(
            Event(
                EventKind.done,
                name,
                record=str(record),
                wall_s=120.0,
                energy_j=5000.0,
                j_per_output_token=0.0813,
            )
        )
    ledger.append(Event(EventKind.started, "failed"))
    ledger.append(Event(EventKind.failed, "failed", reason="out_of_memory", message="CUDA [out] of\nmemory"))
    ledger.append(Event(EventKind.started, "running", gpu_uuid="GPU-0123456789"))
    return ledger
