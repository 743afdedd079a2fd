"""Tables of docs/simulation.md and docs/fleet.md, from what their benchmarks wrote to data/study."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from wattcount.report.units import markdown

STUDY = Path(__file__).resolve().parent.parent / "data" / "study"
NAMES = {
    "energy": "energy",
    "tpot_p50": "TPOT p50",
    "ttft_p95": "TTFT p95",
    "slo": "SLO 500/50 ms",
    "tight_slo": "SLO 100/15 ms",
}
"""What the gates are called."""


def _read(name: str) -> Any:
    return json.loads((STUDY / f"{name}.json").read_text())


def gates() -> str:
    """Each gate: its limit, the median error of what counts, how many rates pass, the worst; and the same of the others, and of repeats."""
    done = _read("simulation")
    rows = done["left_out"]
    kinds: Sequence[tuple[str, list[Mapping[str, Any]]]] = (
        ("within", [row for row in rows if row["within"] and not row["development"]]),
        ("within, development", [row for row in rows if row["within"] and row["development"]]),
        ("beyond", [row for row in rows if not row["within"]]),
        ("another run", done["repeats"]),
    )
    made = []
    for gate, limit in done["gates"].items():
        for name, those in kinds:
            errors = [abs(row["errors"][gate]) for row in those if row["errors"][gate] is not None]
            verdict = ("passed" if median(errors) <= limit else "**failed**") if name == "within" else ""
            made.append(
                [
                    NAMES[gate],
                    f"{100 * limit:g}",
                    name,
                    f"{100 * median(errors):.1f}",
                    f"{sum(error <= limit for error in errors)} of {len(errors)}",
                    f"{100 * max(errors):.1f}",
                    verdict,
                ]
            )
    return markdown(["gate", "limit, % or points", "rates", "median", "pass", "worst", "verdict"], made)


def rates() -> str:
    made = [
        [
            row["model"],
            row["gpu"].removeprefix("NVIDIA ").split()[0],
            row["engine"],
            f"{row['rate_rps']:g}",
            ("within" if row["within"] else "beyond") + (", development" if row["development"] else ""),
            *("-" if row["errors"][gate] is None else f"{100 * row['errors'][gate]:+.1f}" for gate in NAMES),
        ]
        for row in _read("simulation")["left_out"]
    ]
    return markdown(["model", "GPU", "engine", "req/s", "rate", *NAMES.values()], made)


def intervals() -> str:
    """As factors."""
    found = _read("simulation")["intervals"]
    made = [
        [name, *(f"x or / {math.exp(found[name][kind]):.2f}" for kind in ("energy", "tpot", "ttft"))]
        for name in found
    ]
    return markdown(["step model", "energy, power, tokens/s", "TPOT, E2E", "TTFT"], made)


def day() -> str:
    done = _read("fleet")
    best = done["plans"][0]["kwh"]
    made = []
    for line in done["plans"]:
        if line["kwh"] is None:
            made.append([line["rule"], "-", "-", "-", "-", "-", line["abstained"]])
            continue
        cost = "-" if line["cost"] is None else f"{line['cost']:.0f}"
        kept = f"{100 * line['slo_attainment']:.2f} %"
        worst = f"{100 * line['slo_attainment_worst_slot']:.1f} %"
        more = f"{100 * (line['kwh'] / best - 1):+.1f} %"
        made.append(
            [line["rule"], f"{line['kwh']:.1f}", more, cost, kept, worst, f"{line['solved_s']:.1f} s"]
        )
    return markdown(
        ["boards", "kWh", "to the plan", "cost, $", "keep the SLO", "in the worst slot", "solved in"], made
    )
