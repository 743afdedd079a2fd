"""The tables of docs/prediction.md, of what `benchmarks/bench_prediction.py` found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from wattcount.report.units import markdown

Found = Callable[[], Mapping[str, Any]]
NAMES = {"power_w": "power", "tpot_ms": "TPOT", "j_per_output_token": "J per token"}
SPLITS = {"model": "one model out", "gpu": "one GPU out"}
POWER, TPOT, J = NAMES
GATES = (
    ("leave one model out: J per token, MdAPE", "model", "served", J, "mdape", 0.0, 8.0),
    ("leave one GPU out: J per token, MdAPE", "gpu", "served", J, "mdape", 0.0, 12.0),
    ("leave one model out: coverage of J per token", "model", "served", J, "coverage", 85.0, 95.0),
    ("leave one GPU out: coverage of J per token", "gpu", "served", J, "coverage", 85.0, 95.0),
    ("leave one GPU out: power, batches", "gpu", "served, batches", POWER, "mdape", 0.0, 3.4),
    ("leave one GPU out: power, servers", "gpu", "served, servers", POWER, "mdape", 0.0, 13.5),
    ("leave one GPU out: TPOT, batches", "gpu", "served, batches", TPOT, "mdape", 0.0, 24.9),
    ("leave one GPU out: TPOT, servers", "gpu", "served, servers", TPOT, "mdape", 0.0, 8.5),
    ("leave one model out: power, batches", "model", "served, batches", POWER, "mdape", 0.0, 2.0),
    ("leave one model out: power, servers", "model", "served, servers", POWER, "mdape", 0.0, 6.7),
    ("leave one model out: TPOT, batches", "model", "served, batches", TPOT, "mdape", 0.0, 15.6),
    ("leave one model out: TPOT, servers", "model", "served, servers", TPOT, "mdape", 0.0, 5.6),
)
"""Gate, split, rows, quantity, figure, and between what it must lie [%]."""


def tables(found: Found) -> dict[str, Callable[[], str]]:
    each = {"gates": gates, "scores": scores, "by-gpu": by_gpu, "ablation": ablation, "unseen": unseen}
    return {name: partial(_made, make, found) for name, make in each.items()}


def _made(make: Callable[[Mapping[str, Any]], str], found: Found) -> str:
    return make(found())


def gates(found: Mapping[str, Any]) -> str:
    by = {(one["split"], one["of"], one["quantity"]): one for one in found["scores"]}
    made = []
    for name, split, of, quantity, figure, low, high in GATES:
        value = by[split, of, quantity][figure]
        limit = f"below {high:g} %" if low == 0.0 else f"{low:g} to {high:g} %"
        made.append([name, limit, f"{value:.1f} %", "yes" if low <= value <= high else "no"])
    for one in found["outside"]:
        if one["quantity"] == J:
            for figure, low, high in (("mdape", 0.0, 12.0), ("coverage", 85.0, 95.0)):
                limit = f"below {high:g} %" if low == 0.0 else f"{low:g} to {high:g} %"
                name = f"never seen, {one['source']}, {one['rows']} settings: J per token, {'MdAPE' if figure == 'mdape' else figure}"
                made.append(
                    [name, limit, f"{one[figure]:.1f} %", "yes" if low <= one[figure] <= high else "no"]
                )
    for name, key, limit_s in (
        ("a fit", "fit_cpu_s", 30.0),
        ("1,000 predictions", "predict_1000_cpu_s", 5.0),
    ):
        value = found[key]
        made.append(
            [f"{name}, CPU time", f"{limit_s:g} s", f"{value:.1f} s", "yes" if value <= limit_s else "no"]
        )
    return markdown(["gate", "limit", "found", "kept"], made)


def scores(found: Mapping[str, Any]) -> str:
    return _scores([one for one in found["scores"] if not one["of"].startswith("GPU ")], "rows of")


def by_gpu(found: Mapping[str, Any]) -> str:
    mine = [one for one in found["scores"] if one["of"].startswith("GPU ") and one["quantity"] == J]
    return _scores(mine, "left out")


def _scores(each: Sequence[Mapping[str, Any]], of: str) -> str:
    head = [
        "split",
        of,
        "quantity",
        "rows",
        "no prediction",
        "MdAPE",
        "median of groups",
        "90th percentile",
        "coverage",
        "width",
        "roofline",
        "TDP",
    ]
    made = [
        [
            SPLITS[one["split"]],
            one["of"],
            NAMES[one["quantity"]],
            str(one["rows"]),
            str(one["abstained"]),
            *(
                f"{one[key]:.1f} %"
                for key in ("mdape", "mdape_of_groups", "p90", "coverage", "width", "roofline", "tdp")
            ),
        ]
        for one in each
    ]
    return markdown(head, made)


def ablation(found: Mapping[str, Any]) -> str:
    made = [[one["with"], f"{one['model']:.1f} %", f"{one['gpu']:.1f} %"] for one in found["ablation"]]
    return markdown(["with", "one model out", "one GPU out"], made)


def unseen(found: Mapping[str, Any]) -> str:
    made = [
        [
            one["source"],
            NAMES[one["quantity"]],
            str(one["rows"]),
            str(one["abstained"]),
            *(f"{one[key]:.1f} %" for key in ("mdape", "p90", "coverage", "width")),
        ]
        for one in found["outside"]
    ]
    return markdown(
        ["source", "quantity", "settings", "no prediction", "MdAPE", "90th percentile", "coverage", "width"],
        made,
    )
