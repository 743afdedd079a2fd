#!/usr/bin/env python3
"""A day of Azure's conversation trace on H100 and H200 boards: the plan of `wattcount fleet` beside the baselines.

python benchmarks/bench_fleet.py        # writes data/study/fleet.json; `make docs` makes the table of it
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from wattcount.cli.sources import results_of, server_runs
from wattcount.fleet.compare import Asked, compared
from wattcount.fleet.traffic import Traffic
from wattcount.load.arrivals import read_trace
from wattcount.study.questions import USUAL_SLO

ROOT = Path(__file__).resolve().parent.parent
DATA = str(ROOT / "data" / "dataset")
TRACE = ROOT.parent / "shared" / "data" / "azure" / "AzureLLMInferenceTrace_conv.csv"
OWNED = {"h100": 6, "h200": 6}
SHARE = {"llama3_1_8b": 0.5, "qwen3_8b": 0.5}
SCALE = 8.0
"""Times as many requests as the trace has: enough for several boards."""
SLOTS = 8
"""Parts of the day: three hours each."""
PRICE = {"h100": 2.5, "h200": 3.5}
"""Dollars for a GPU and hour, as an example: about what clouds ask in 2026."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument("--json", type=Path, default=ROOT / "data" / "study" / "fleet.json")
    args = parser.parse_args()
    rows = results_of([DATA])

    def bare_w(gpu: str) -> float | None:
        found = sorted(value for run in rows if run.gpu == gpu and (value := run.value("power/idle_bare_w")))
        return found[len(found) // 2] if found else None

    asked = Asked(OWNED, SHARE, Traffic(read_trace(args.trace), SLOTS, SCALE), USUAL_SLO, price=PRICE)
    found = compared(asked, lambda model: server_runs([DATA], model), bare_w)
    for line in found.lines:
        print(line.to_json())
    print(f"{found.seconds:.0f} s in all")
    args.json.write_text(json.dumps({**found.to_json(), "seconds": found.seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
