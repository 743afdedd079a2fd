"""Markdown tables of docs/study.md: the standing questions on a set of results, and the benchmarks of intervals and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wattcount.report.units import markdown
from wattcount.result.result import Result
from wattcount.study.questions import Study


def asked(name: str, *results: Sequence[Result]) -> str:
    """The sentence, how sure it is, and the rows of one question."""
    answer = Study([run for some in results for run in some]).answer(name)
    headings, rows = answer.cells()
    table = markdown(headings, [[cell.replace("|", "\\|") for cell in row] for row in rows]) if rows else ""
    return "\n\n".join(part for part in (answer.sentence, answer.sure, table, answer.data) if part)


def coverage(rows: Sequence[Mapping[str, Any]]) -> str:
    """How often the 95 % interval covered the truth, by number of boards and by what tells the scatter."""
    made = []
    for boards in sorted({row["boards"] for row in rows}):
        cells = [str(boards)]
        for scatter in ("own", "pooled"):
            for same in (True, False):
                found = [
                    r
                    for r in rows
                    if (r["boards"], r["scatter"], r["same_boards"]) == (boards, scatter, same)
                ]
                told = sum(r["tries"] - r["without_interval"] for r in found)
                covered = sum(r["covered"] for r in found)
                half = float(np.mean([r["half_width_median"] for r in found])) if found else float("nan")
                cells.append(f"{100 * covered / told:.1f} % (± {100 * half:.1f} %)" if told else "-")
        told = sum(r["tries"] - r["without_interval"] for r in rows if r["boards"] == boards)
        cells.append(str(told))
        made.append(cells)
    head = ["boards", "own repeats, same boards", "own repeats, other boards", "pooled, same board", "pooled, other boards", "comparisons"]  # fmt: skip
    return markdown(head, made)


def regret(done: Mapping[str, Mapping[str, Any]]) -> str:
    """Mean regret of the advice and of the baselines on held-out loads, and how many tries were refused."""
    keys = ("regret", "against_all", "knows_all", "default_gpu", "best_single_gpu", "nothing_turned", "worst")
    made = []
    for kind, of in done.items():
        tries, refused = (sum(load[key] for load in of["loads"]) for key in ("tries", "refused"))
        means = [f"{100 * of['mean'][key]:.1f} %" if key in of["mean"] else "-" for key in keys]
        made.append([kind, f"{len(of['loads'])} ({tries})", *means, str(refused)])
    head = ["load", "held-out loads (tries)", "recommend", "against all starts", "who knows the held-out starts too", "default GPU (H100), its best setting", "best single GPU, its best setting", "nothing turned", "worst option", "refused"]  # fmt: skip
    return markdown(head, made)


def interpolation(done: Mapping[str, Any]) -> str:
    """How far interpolated power lies from measured power, by the line that it lies on and by how far apart the measured rates are."""
    bins = list(next(iter(done["rms_by_factor"].values())))
    made = [
        [
            name,
            f"{100 * done['rms'][name]:.1f} %",
            f"{100 * done['bias'][name]:+.1f} %",
            *(
                f"{100 * of[1][0]:.1f} % ({of[1][1]})"
                for of in sorted(found.items(), key=lambda item: bins.index(item[0]))
            ),
        ]
        for name, found in done["rms_by_factor"].items()
    ]
    head = ["straight line in, or", "rms", "mean", *(f"rates apart by a factor of {name.replace('to inf', 'and more')}" for name in bins)]  # fmt: skip
    return markdown(head, made)
