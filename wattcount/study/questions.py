"""The standing questions, each answered from a set of results: rows, one sentence, how sure."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from wattcount.config.identity import key_of
from wattcount.config.schema import SloConfig
from wattcount.engines import registry
from wattcount.report.labels import load_label
from wattcount.report.units import count, significant
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import OWN, Result
from wattcount.statistics import t_975
from wattcount.study import savings as saved
from wattcount.study.answers import NOTHING, Answer, Column, Row
from wattcount.study.comparison import (
    Cell,
    Comparison,
    Scatters,
    Tell,
    cells,
    family_of,
    load_of,
    parts_of,
    start_of,
)
from wattcount.study.curves import KNEE_SHARE, Curve, Point, curves
from wattcount.study.mixed import BOARD, REST, START
from wattcount.study.quality import MARGIN, NOT_MEASURED, Score, Users, precision_of, quality, service
from wattcount.study.savings import Saving
from wattcount.study.selection import sizes_of
from wattcount.study.service import KEPT_SHARE, Count, over_runs

USUAL_SLO = SloConfig(ttft_ms=500.0, tpot_ms=50.0)
"""Bounds where nobody gives any: half a second until an answer begins, and 20 tokens a second, faster than people read."""
FEWEST_MODELS = 4
"""Models from which on an exponent in their size is fitted: two coefficients leave two degrees of freedom."""
SUBMITTER, VERSION = "submitter", "engine version"


@dataclass
class Study:
    """A set of results, and what is worked out of it once for all questions. Emulated and predicted results are left out, invalid ones count for nothing."""

    results: Sequence[Result]
    slo: SloConfig = USUAL_SLO
    default_gpu: str | None = None
    scores: Sequence[Score] = ()
    _answers: dict[str, Answer] = field(init=False, default_factory=dict)

    @cached_property
    def cells(self) -> list[Cell]:
        return cells(run for run in self.results if run.is_measured)

    @cached_property
    def scatters(self) -> Scatters:
        return Scatters(self.cells)

    @cached_property
    def loads(self) -> Mapping[Hashable, list[Cell]]:
        """Cells that differ by GPU and settings only."""
        found: dict[Hashable, list[Cell]] = {}
        for cell in self.cells:
            if cell.mean(PER_TOKEN) is not None:
                found.setdefault(load_of(cell.first), []).append(cell)
        return found

    @cached_property
    def counting(self) -> Count:
        """When requests are held against the SLO one by one."""
        return Count.affordable((run for cell in self.cells for run in cell.runs), self.slo)

    def may_serve(self, cell: Cell) -> bool:
        """Whether its figures do not say that it breaks the SLO."""
        share = over_runs(cell.runs, self.slo)
        return share is None or share.keeps is not False

    @cached_property
    def curves(self) -> list[Curve]:
        return curves(self.cells, self.scatters, self.slo)

    def answers(self, only: Iterable[str] = ()) -> list[Answer]:
        return [self.answer(name) for name in list(only) or list(QUESTIONS)]

    def answer(self, name: str) -> Answer:
        """Worked out once, for one question may ask what another found."""
        if name not in self._answers:
            self._answers[name] = replace(QUESTIONS[name](self), data=self.data)
        return self._answers[name]

    def parts(self) -> list[Study]:
        """A study for each origin: our own first, then those with the most results. Their rows are those of this one, for no comparison is across origins."""
        origins = Counter(run.origin for run in self.results)
        return [
            replace(self, results=[run for run in self.results if run.origin == origin])
            for origin in sorted(origins, key=lambda origin: (origin != OWN, -origins[origin], origin))
        ]

    @cached_property
    def source(self) -> str:
        """`Measured by wattcount`, `Published by mlenergy`; of a part."""
        name = data_of(self.results[0])
        return "Measured by wattcount" if name == MEASURED else f"Published by {name}"

    @cached_property
    def data(self) -> str:
        """What all answers rest on, and what was left out."""
        used = [run for cell in self.cells for run in cell.runs]
        own = [run for run in used if run.origin == OWN]
        parts = []
        if own:
            boards, starts = len({b for run in own for b in run.boards}), len({start_of(run) for run in own})
            parts.append(f"{count(len(own), 'run')} measured by wattcount ({count(boards, 'board')}, {count(starts, 'start')})")  # fmt: skip
        others = Counter(data_of(run) for run in used if run.origin != OWN)
        if others:
            sources = ", ".join(f"{name} {number}" for name, number in others.most_common())
            parts.append(f"{count(sum(others.values()), 'result')} that others measured ({sources})")
        not_measured = Counter(str(run.evidence) for run in self.results if not run.is_measured)
        parts = parts or ["nothing that was measured"] * bool(not_measured)
        if not parts:
            return ""
        out = [f"{number} {evidence}" for evidence, number in not_measured.items()]
        invalid = len(self.results) - not_measured.total() - len(used)
        out += [f"{invalid} invalid"] * (invalid > 0)
        return f"Data: {'; '.join(parts)}." + (f" Left out: {', '.join(out)}." if out else "")


MEASURED = "measured"
"""`data` of a row that is of wattcount's own measurements."""


def data_of(run: Result) -> str:
    """Whose measurement a row is: `measured` by wattcount, else the source that published it."""
    return MEASURED if run.origin == OWN else run.origin.removeprefix("imported:")


def _rests(cells: Iterable[Cell]) -> Row:
    """Whose rows these are, and on how many boards, starts and runs they rest."""
    runs = [run for cell in cells for run in cell.runs]
    boards = len({board for run in runs for board in run.boards})
    starts = len({start_of(run) for run in runs})
    return {
        "data": data_of(runs[0]),
        "evidence": str(runs[0].evidence or "unknown"),
        "boards": boards,
        "starts": starts,
        "runs": len(runs),
        "basis": f"{boards or '?'}/{starts}/{len(runs)}",
    }


def _own_first(row: Row) -> tuple[bool, str]:
    return (row["data"] != MEASURED, str(row["data"]))


BASIS = Column("basis", "boards/ starts/ runs")
WHAT = Column("what", "model, load", brief=True)


def _load_words(cell: Cell) -> str:
    run = cell.first
    words = [load_label(run.kind, run.num_requests, run.rate_rps)]
    if run.input_tokens is not None and run.output_tokens is not None:
        words.append(f"{run.input_tokens}/{run.output_tokens}")
    if run.setting_key is None and run.scenario:
        words.append(str(run.scenario))
    return " ".join(words)


def _brief_load(cell: Cell) -> str:
    """As `_load_words`, where there is little room: `server 20/s, 256/64`."""
    return (
        re.sub(r" requests/s\b", "/s", _load_words(cell))
        .replace("batch of ", "batch ")
        .replace(" ", ", ")
        .replace(", ", " ", 1)
    )


def setting_words(cell: Cell) -> str:
    """What an operator set, in words; of an imported result also what its source names apart."""
    words = list(cell.levers)
    engine = cell.first.setting.get("engine", {})
    if cell.first.setting_key is None:
        words += [
            f"{name} {engine[key]}" for key, name in _IMPORTED_WORDS if engine.get(key) not in (None, 1)
        ]
    if cell.first.engine and cell.first.engine != registry.DEFAULT:
        words.insert(0, cell.first.engine)
    return ", ".join(words) or "as the engine chooses"


_IMPORTED_WORDS = (
    ("tensor_parallel_size", "TP"),
    ("pipeline_parallel_size", "PP"),
    ("max_num_seqs", "at most"),
)


def _compared(found: Comparison | None) -> dict[str, object]:
    if found is None:
        return {}
    return {
        "change_percent": found.percent,
        "low_percent": None if found.low is None else 100 * (found.low - 1),
        "high_percent": None if found.high is None else 100 * (found.high - 1),
        "interval": found.interval,
        "tell": found.tell.value,
        "sure": found.tell is not Tell.CANNOT,
        "rests_on": found.basis.words,
    }


def _told(rows: Sequence[Row]) -> tuple[int, int]:
    return sum(row.get("tell") in (Tell.LESS.value, Tell.MORE.value) for row in rows), len(rows)


def _by_gpu(cells: Iterable[Cell], usable: Callable[[Cell], bool]) -> dict[str, Cell]:
    """The cell with the least energy of a token on each GPU model."""
    best: dict[str, Cell] = {}
    for cell in cells:
        value = cell.mean(PER_TOKEN)
        if value is None or not usable(cell):
            continue
        held = best.get(cell.gpu_model)
        if held is None or value < (held.mean(PER_TOKEN) or np.inf):
            best[cell.gpu_model] = cell
    return best


# -- a: which GPU


def gpu_choice(study: Study) -> Answer:
    rows: list[Row] = []
    broken = 0
    for found in study.loads.values():
        best = _by_gpu(found, study.may_serve)
        late = sorted({cell.gpu_model for cell in found} - set(best))
        if len(best) + len(late) < 2:
            continue
        if not best:
            broken += 1
            continue
        order = sorted(best.values(), key=lambda cell: cell.mean(PER_TOKEN) or np.inf)
        first, rest = order[0], order[1:]
        against = study.scatters.compare(first, rest[0]) if rest else None
        share = over_runs(first.runs, study.slo)
        rows.append(
            {
                "model": first.first.model,
                "load": _load_words(first),
                "what": f"{first.first.model}, {_brief_load(first)}",
                "origin": first.first.origin,
                "gpu": first.gpu,
                "setting": setting_words(first),
                "j_per_output_token": first.mean(PER_TOKEN),
                "runner_up": rest[0].gpu if rest else None,
                "runner_up_setting": setting_words(rest[0]) if rest else None,
                "same_setting": None if not rest else setting_words(first) == setting_words(rest[0]),
                "break_slo": ", ".join(late) or None,
                "slo_told": None if share is None else share.keeps is not None,
                **_rests(order[:2]),
                **_compared(against),
                **(_service_row(study, first, rest[0]) if rest else {}),
            }
        )
    rows.sort(key=lambda row: (*_own_first(row), row.get("tell") != Tell.LESS.value))
    told, all_of = _told(rows)
    wins: dict[str, int] = {}
    for row in rows:
        if row.get("tell") == Tell.LESS.value:
            name = re.sub(r"^\d+ x ", "", str(row["gpu"]))
            wins[name] = wins.get(name, 0) + 1
    listed = ", ".join(f"{name} of {number}" for name, number in sorted(wins.items(), key=lambda i: -i[1]))
    sentence = (
        f"Of {count(all_of, 'load')} that several GPUs served, the data name the GPU with the least energy for {told}"
        + (f" ({listed})" if listed else "")
        + (f"; on {count(broken, 'load')} more none keeps the SLO." if broken else ".")
        if rows
        else NOTHING
    )
    return Answer(
        "gpu-choice",
        "Which GPU takes the least energy, by model, load and SLO?",
        (
            WHAT,
            Column("model", "model", detail=True),
            Column("load", "load", detail=True),
            Column("gpu", "least on"),
            Column("j_per_output_token", "J/token"),
            Column("runner_up", "next"),
            Column("change_percent", "less by", "%"),
            Column("interval", "95 %", detail=True),
            Column("tell", "tell", detail=True),
            Column("sure", "sure", brief=True),
            Column("same_setting", "alike", detail=True),
            Column("users", "SLO", detail=True),
            BASIS,
        ),
        2,
        rows,
        sentence,
        f"{all_of - told} of {all_of} cannot be told: the interval meets 0, or nothing was repeated."
        if rows
        else "",
        (
            "Alike: whether both GPUs stand with the same settings. Next: the GPU with the least energy but one.",
            f"A setting counts that keeps {slo_words(study.slo)} for {100 * KEPT_SHARE:.0f} % of the requests, or whose figures do not say it breaks it. Each GPU stands with its best measured setting; "
            "where these are not alike, the other may only not have been measured there.",
            f"SLO: `kept` where the share of requests that keep it falls by less than {100 * MARGIN:.0f} points against the next, in pairs with the same arrivals, with 95 %.",
        ),
    )


def slo_words(slo: SloConfig) -> str:
    bounds = (("TTFT", slo.ttft_ms), ("TPOT", slo.tpot_ms), ("E2E", slo.e2e_ms))
    return ", ".join(f"{name} <= {bound:g} ms" for name, bound in bounds if bound is not None) or "no SLO"


# -- b: savings


def savings(study: Study) -> Answer:
    rows: list[Row] = []
    for (origin, kind, gpus), units in _unit_groups(study).items():
        m = saved.matrix(units, gpus, study.scatters)
        default = study.default_gpu if study.default_gpu in gpus else None
        rows += [
            {"origin": origin, "kind": kind, "gpus": len(gpus), **_rests(m.used), **_saving_row(found)}
            for found in saved.savings(m, default)
        ]
    rows.sort(key=_own_first)
    ends = _ends([row for row in rows if row["units"] >= saved.FEWEST_UNITS])
    if ends is not None:
        sentence = (
            f"Leaving the worst or default GPU for the best single one saves {ends[0]} to {ends[1]} %, going on to the best GPU of each model "
            f"another {ends[2]} to {ends[3]} %: most of a large saving is a bad baseline."
        )
    else:
        sentence = (
            NOTHING
            if not rows
            else f"No set of GPUs has {saved.FEWEST_UNITS} loads in common: too few to tell."
        )
    return Answer(
        "savings",
        "What does the choice of GPU save, against which baseline?",
        (
            Column("kind", "load"),
            Column("of", "instead of"),
            Column("to", "take"),
            Column("units", "loads"),
            Column("saved_percent", "saves", "%"),
            Column("interval", "95 %"),
            Column("excess_percent", "takes more by, %", detail=True),
            Column("idle_percent", "idle part", "%", detail=True),
            Column("active_percent", "active part", "%", detail=True),
            Column("by_chance_percent", "by chance", "%", detail=True),
            BASIS,
        ),
        3,
        rows,
        sentence,
        "Intervals are over models and loads like these (drawn anew), not of one deployment; the sensors' 5 % between GPU models is not in them.",
        (
            f"Each load counts with the energy of one output token on the best setting of each GPU that does not break {slo_words(study.slo)}; the optimum takes the least of figures that scatter, "
            "and `by chance` is what this alone seems to save. `takes more by`: the first against the second, of / to - 1.",
        ),
    )


# -- how many at once


def at_once(study: Study) -> Answer:
    rows: list[Row] = []
    groups: dict[tuple[str, str, str], dict[Hashable, list[Cell]]] = {}
    for load, found in study.loads.items():
        for cell in found:
            if _limit(cell) is not None:
                key = (cell.first.origin, cell.first.kind or "unknown", cell.gpu_model)
                groups.setdefault(key, {}).setdefault(load, []).append(cell)
    for (origin, kind, gpu), units in groups.items():
        had = Counter(limit for found in units.values() for limit in {_limit(cell) for cell in found})
        usual = [str(limit) for limit, number in had.items() if 2 * number >= len(units)]
        m = saved.matrix(units, sorted(usual, key=len), study.scatters, _limit)
        if len(m.units) >= saved.FEWEST_UNITS:
            rows += [
                {"origin": origin, "kind": kind, "gpu": gpu, **_rests(m.used), **_saving_row(found)}
                for found in saved.savings(m)
            ]
    rows.sort(key=_own_first)
    ends = _ends(rows)
    sentence = NOTHING
    if ends is not None:
        sentence = (
            f"Leaving the worst number at once for the best one for all loads saves {ends[0]} to {ends[1]} %, going on to the best of each load another "
            f"{ends[2]} to {ends[3]} %."
        )
    return Answer(
        "at-once",
        "What does the number of requests at once save, against which baseline?",
        (
            Column("gpu", "GPU"),
            Column("kind", "load", detail=True),
            Column("of", "instead of"),
            Column("to", "take"),
            Column("units", "loads"),
            Column("saved_percent", "saves", "%"),
            Column("interval", "95 %"),
            Column("excess_percent", "takes more by, %", detail=True),
            BASIS,
        ),
        4,
        rows,
        sentence,
        "Intervals are over models and loads like these (drawn anew). Latency rises with the number at once, and is not in it.",
        (
            "Limits that at least half of the loads were measured with, and loads that were measured with each of these; of each, the parallelism with the least energy.",
        ),
    )


def _limit(cell: Cell) -> str | None:
    """`at most 64`: how many requests the engine takes at once; None: not told."""
    limit = cell.first.setting.get("engine", {}).get("max_num_seqs")
    return None if limit is None else f"at most {limit}"


# -- what the paper claims

PAPER = "arXiv 2604.09048"
"""Watt Counts: Energy-Aware Benchmark for Sustainable LLM Inference on Heterogeneous GPU Architectures, whose claims are held against other data."""
CLAIMED_SHARE = {"server": 0.70, "batch": 0.20}
"""What its abstract says GPU choice saves at most, by kind of load."""
CLAIMED_EXPONENT = 0.24
"""Of the energy of a token in the number of parameters, as summaries of the paper give it."""


def claims(study: Study) -> Answer:
    rows: list[Row] = []
    for (origin, kind, gpus), units in _unit_groups(study).items():
        m = saved.matrix(units, gpus, study.scatters)
        if len(m.units) >= saved.FEWEST_UNITS and kind in CLAIMED_SHARE:
            rows += _claimed_savings(study, m, origin, kind)
    fits = [row for row in study.answer("scaling").rows if row["what"] == "parameters"]
    for origin in sorted({str(row["origin"]) for row in fits}):
        mine = [row for row in fits if row["origin"] == origin]
        agree = sum(row["low"] <= CLAIMED_EXPONENT <= row["high"] for row in mine)
        ends = [end(float(row["exponent"]) for row in mine) for end in (min, max)]
        rows.append(
            {
                "claim": "energy of a token grows with parameters",
                "origin": origin,
                "data": mine[0]["data"],
                "published": f"to the power of {CLAIMED_EXPONENT}",
                "found": f"{ends[0]:.2f} to {ends[1]:.2f}; {agree} of {len(mine)} intervals have {CLAIMED_EXPONENT} in them",
                "loads": len(mine),
                "low": ends[0],
                "high": ends[1],
            }
        )
    kept = [
        row for row in study.answer("levers").rows if row.get("users") and row.get("tell") == Tell.LESS.value
    ]
    if kept:
        good = sum(row["users"] == Users.KEPT.value for row in kept)
        rows.append(
            {
                "claim": "users of servers lose nothing",
                "origin": str(kept[0]["origin"]),
                "data": kept[0]["data"],
                "published": "negligible",
                "found": f"shown for {good} of {count(len(kept), 'lever')} that save",
                "loads": len(kept),
            }
        )
    rows.sort(key=_own_first)
    parts = [row["bad_baseline_percent"] for row in rows if row.get("bad_baseline_percent") is not None]
    sentence = NOTHING
    if parts:
        sentence = (
            f"Of what leaving the worst GPU for each model's best one saves, {min(parts):.0f} to {max(parts):.0f} % is had by the best single GPU: "
            "that part of a saving is a bad baseline, not a choice by model."
        )
    return Answer(
        "claims",
        f"Do the claims of {PAPER} hold on these data?",
        (
            Column("claim", "claim"),
            Column("published", "published"),
            Column("found", "found"),
            Column("gpus", "GPUs", detail=True),
            Column("loads", "loads"),
            Column("bad_baseline_percent", "of it a bad baseline, %"),
        ),
        5,
        rows,
        sentence,
        "Other GPUs, models and loads than the paper's: where a claim is not met here, it may hold there. Its own data set is not among these.",
    )


def _claimed_savings(study: Study, m: saved.Matrix, origin: str, kind: str) -> list[Row]:
    totals, least = m.energy.sum(axis=0), m.energy.min(axis=1)
    best = int(totals.argmin())
    whole = 1 - float(least.sum() / totals.max())
    to_best = 1 - float(totals[best] / totals.max())
    most = float((1 - least / m.energy.max(axis=1)).max())
    other = [
        (study.scatters.compare(m.best[unit, m.gpus[int(row.argmin())]], m.best[unit, m.gpus[best]]))
        for unit, row in zip(m.units, m.energy, strict=True)
        if int(row.argmin()) != best
    ]
    told = sum(found is not None and found.tell is Tell.LESS for found in other)
    shared = {
        "origin": origin,
        "gpus": ", ".join(m.gpus),
        "loads": len(m.units),
        "kind": kind,
        **_rests(m.used),
    }
    return [
        {
            **shared,
            "claim": f"GPU choice saves ({kind})",
            "published": f"up to {100 * CLAIMED_SHARE[kind]:.0f} %",
            "found": f"up to {100 * most:.0f} % on one load, {100 * whole:.1f} % over all",
            "most_percent": 100 * most,
            "all_percent": 100 * whole,
            "bad_baseline_percent": 100 * to_best / whole if whole > 0 else None,
        },
        {
            **shared,
            "claim": f"the best GPU differs by model ({kind})",
            "published": "significantly",
            "found": f"on {len(other)} of {len(m.units)} another than {m.gpus[best]}; {told} of these surely",
            "differs": len(other),
            "told": told,
        },
    ]


def _ends(rows: Sequence[Row]) -> list[str] | None:
    """Least and most of what leaving the worst for the best single one saves, and of what going on to each one's best does [%].
    None: one of the two was not found."""
    to_best = [row["saved_percent"] for row in rows if row["to"] != saved.OPTIMUM]
    to_optimum = [row["saved_percent"] for row in rows if row["to"] == saved.OPTIMUM and row["is_best"]]
    if not to_best or not to_optimum:
        return None
    return [f"{end(group):.1f}" for group in (to_best, to_optimum) for end in (min, max)]


def _saving_row(found: Saving) -> dict[str, object]:
    def percent(share: float | None) -> float | None:
        return None if share is None else 100 * share

    interval = (
        None
        if found.low is None or found.high is None
        else f"{100 * found.low:.1f} to {100 * found.high:.1f} %"
    )
    return {
        "units": found.units,
        "of": found.of,
        "to": found.to,
        "is_best": found.is_best,
        "saved_share": found.share,
        "saved_percent": percent(found.share),
        "excess_percent": percent(found.excess),
        "low_percent": percent(found.low),
        "high_percent": percent(found.high),
        "interval": interval,
        "idle_percent": percent(found.idle_share),
        "active_percent": percent(found.active_share),
        "by_chance_percent": percent(found.by_chance),
    }


def _unit_groups(
    study: Study,
) -> dict[tuple[str, str, tuple[str, ...]], dict[Hashable, list[Cell]]]:
    """Units by origin, kind of load and a set of GPUs that all of them have: with settings that do not break the SLO, for an overloaded server takes the least.
    Each set that some unit has is one of its own."""
    by_kind: dict[tuple[str, str], dict[Hashable, list[Cell]]] = {}
    for load, found in study.loads.items():
        first = found[0].first
        if serving := [cell for cell in found if study.may_serve(cell)]:
            by_kind.setdefault((first.origin, first.kind or "unknown"), {})[load] = serving
    groups: dict[tuple[str, str, tuple[str, ...]], dict[Hashable, list[Cell]]] = {}
    for (origin, kind), units in by_kind.items():
        had = {load: frozenset(cell.gpu_model for cell in found) for load, found in units.items()}
        for gpus in sorted({gpus for gpus in had.values() if len(gpus) > 1}, key=sorted):
            groups[origin, kind, tuple(sorted(gpus))] = {
                load: found for load, found in units.items() if had[load] >= gpus
            }
    return groups


# -- c: load curves


def load_curves(study: Study) -> Answer:
    rows: list[Row] = []
    knees = []
    places = Counter((curve.first.first.model, curve.first.gpu) for curve in study.curves)
    for curve in sorted(study.curves, key=lambda curve: data_of(curve.first.first) != MEASURED):
        if curve.knee is not None:
            knees.append(curve.knee.rate_rps)
        apart = places[curve.first.first.model, curve.first.gpu] > 1
        rows += [_point_row(curve, point, apart) for point in curve.points]
    if study.curves:
        falls = [
            100 * (1 - min(p.per_token.value for p in c.points) / c.points[0].per_token.value)
            for c in study.curves
        ]
        at = f"; the knee lies at {_from_to(knees)} requests/s for {len(knees)} of them" if knees else ""
        sentence = f"On {count(len(study.curves), 'curve')} a token costs {min(falls):.0f} to {max(falls):.0f} % less at the best measured load than at the lowest{at}."
    else:
        sentence = NOTHING
    return Answer(
        "load-curves",
        "How does energy fall with load, and where does it stop?",
        (
            Column("curve", "model, GPU", brief=True),
            Column("model", "model", detail=True),
            Column("gpu", "GPU", detail=True),
            Column("setting_apart", "setting", detail=True),
            Column("rate_rps", "req/s"),
            Column("j_per_output_token", "J/token"),
            Column("interval", "95 %", detail=True),
            Column("against_first_percent", "to lowest", "%"),
            Column("j_per_request", "J/request"),
            Column("j_per_good_request", "J/good"),
            Column("kept_least", "keep SLO, at least", "share"),
            Column("knee", "knee"),
            BASIS,
        ),
        1,
        rows,
        sentence,
        "Only measured loads are shown; nothing is drawn between or beyond them.",
        (
            f"Knee: the lowest measured load from which on a token costs within {100 * KNEE_SHARE:.0f} % of the least. SLO: {slo_words(study.slo)}.",
        ),
    )


def _from_to(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _point_row(curve: Curve, point: Point, apart: bool) -> Row:
    """`apart`: the setting is named, because another curve is of the same model and GPU."""
    first, last = curve.points[0], curve.points[-1]
    name = f"{curve.first.first.model}, {curve.first.gpu}"
    if apart:
        name += f", {setting_words(curve.first)}"
    return {
        "curve": name if point is first else "",
        "setting_apart": setting_words(curve.first) if apart else None,
        **_rests([point.cell]),
        "interval": _ends_words(point.per_token.low, point.per_token.high),
        "model": curve.first.first.model,
        "gpu": curve.first.gpu,
        "setting": setting_words(curve.first),
        "rate_rps": point.rate_rps,
        "j_per_output_token": point.per_token.value,
        "low": point.per_token.low,
        "high": point.per_token.high,
        "against_first_percent": 100 * (point.per_token.value / first.per_token.value - 1),
        "j_per_request": point.per_request,
        "j_per_good_request": point.per_good_request,
        "kept_least": None if point.attained is None else point.attained.low,
        "kept_most": None if point.attained is None else point.attained.high,
        "overloaded_runs": point.overloaded,
        "knee": point is curve.knee,
        "measured_from_rps": first.rate_rps,
        "measured_to_rps": last.rate_rps,
        "rests_on": point.per_token.basis.words,
    }


def _ends_words(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{significant(low, 3)} to {significant(high, 3)}"


# -- d: levers


def levers(study: Study) -> Answer:
    """Each pair of settings of one load and GPU that differ by one lever."""
    rows: list[Row] = []
    for found in study.loads.values():
        groups: dict[Hashable, list[Cell]] = {}
        for cell in found:
            groups.setdefault((cell.gpu_model, cell.first.engine, cell.first.engine_version), []).append(cell)
        for group in groups.values():
            by_levers: dict[frozenset[str], list[Cell]] = {}
            for cell in group:
                by_levers.setdefault(frozenset(cell.levers), []).append(cell)
            for base, without in by_levers.items():
                for more, turned in by_levers.items():
                    extra = more - base
                    if base < more and len(extra) == 1 and len(without) == len(turned) == 1:
                        rows.append(_lever_row(study, next(iter(extra)), turned[0], without[0]))
    rows.sort(
        key=lambda row: (
            *_own_first(row),
            row.get("tell") == Tell.CANNOT.value,
            str(row["lever"]),
            str(row["model"]),
        )
    )
    told, all_of = _told(rows)
    saves = [row for row in rows if row.get("tell") == Tell.LESS.value]
    most = min(saves, key=lambda row: float(row["change_percent"]), default=None)
    sentence = NOTHING
    if rows:
        safe = sum(row["claim"] in (SAVES, SAVES_KEPT) for row in saves)
        sentence = f"Of {count(all_of, 'lever')} at a load, {len(saves)} surely save energy and {told - len(saves)} surely cost some"
        sentence += (
            f"; most saves {most['lever']} ({most['change_percent']:+.1f} %, {most['model']}, {most['load']}). "
            f"Of those that save, {safe} {'takes' if safe == 1 else 'take'} nothing from users; of the others this was not shown."
            if most
            else "."
        )
    return Answer(
        "levers",
        "What does each lever save?",
        (
            Column("lever", "lever"),
            WHAT,
            Column("model", "model", detail=True),
            Column("load", "load", detail=True),
            Column("gpu", "GPU"),
            Column("claim", "claim"),
            Column("change_percent", "energy", "%"),
            Column("interval", "95 %"),
            Column("users", "SLO", detail=True),
            Column("quality", "quality", detail=True),
            BASIS,
        ),
        4,
        rows,
        sentence,
        f"{all_of - told} of {all_of} cannot be told apart from no effect." if rows else "",
        (
            "Energy per output token, with against without; runs on one board share its sensor, which cancels.",
        ),
    )


SAVES, SAVES_KEPT = "saves", "saves, users keep what they had"
"""What is claimed of a saving that takes nothing from users: batches have none; where they have, that was shown."""


def _claim(study: Study, tell: Tell, turned: Cell, without: Cell) -> str:
    """What may be said of a lever: a saving only with what it does to users, and to quality where precision changes."""
    if tell is not Tell.LESS:
        return "cannot tell" if tell is Tell.CANNOT else "costs energy"
    missing = []
    if precision_of(turned.first) != precision_of(without.first):
        found = quality(turned.first, without.first, study.scores)
        words = {Users.KEPT: "", Users.WORSE: "quality lost", Users.UNTOLD: "quality not shown to be kept"}
        missing.append(NOT_MEASURED if found.change is None else words[found.users])
    if turned.first.kind == "server":
        users = service(turned, without, study.slo, study.counting).users
        missing.append(
            {Users.KEPT: "", Users.WORSE: "SLO lost", Users.UNTOLD: "SLO not shown to be kept"}[users]
        )
    if not missing:
        return SAVES
    said = [words for words in missing if words]
    return f"saves; {', '.join(said)}" if said else SAVES_KEPT


def _lever_row(study: Study, lever: str, turned: Cell, without: Cell) -> Row:
    compared = study.scatters.compare(turned, without)
    return {
        "lever": lever,
        "model": turned.first.model,
        "load": _load_words(turned),
        "what": f"{turned.first.model}, {_brief_load(turned)}",
        "gpu": turned.gpu,
        "beside": ", ".join(without.levers) or None,
        "origin": turned.first.origin,
        **_rests((turned, without)),
        **_compared(compared),
        **_users(study, turned, without),
        "claim": None if compared is None else _claim(study, compared.tell, turned, without),
        "with_gpus": len(turned.first.gpus),
        "without_gpus": len(without.first.gpus),
    }


def _users(study: Study, turned: Cell, without: Cell) -> Row:
    """What a lever does to users: the SLO of a server, and quality where precision changes."""
    found = quality(turned.first, without.first, study.scores)
    same_precision = precision_of(turned.first) == precision_of(without.first)
    return {
        "quality": None if same_precision else found.words,
        "quality_change_share": None if same_precision else found.change,
        "quality_half_width_share": None if same_precision else found.half_width,
        "quality_tasks": None if same_precision else found.tasks,
        **_service_row(study, turned, without),
    }


def _service_row(study: Study, turned: Cell, without: Cell) -> Row:
    if turned.first.kind != "server":
        return {}
    kept = service(turned, without, study.slo, study.counting)
    return {
        "users": kept.users.value,
        "slo_change_share": kept.change,
        "slo_low_share": kept.low,
        "slo_high_share": kept.high,
        "slo_pairs": kept.pairs,
    }


# -- e: how energy scales


def scaling(study: Study) -> Answer:
    rows: list[Row] = []
    groups: dict[tuple[Hashable, ...], list[Cell]] = {}
    for cell in study.cells:
        run = cell.first
        if cell.mean(PER_TOKEN) is not None and len(set(run.gpus)) == 1:
            where = (*family_of(run), cell.gpu_model, run.scenario, run.kind)
            groups.setdefault(
                (*where, run.num_requests, run.rate_rps, run.input_tokens, run.output_tokens), []
            ).append(cell)
    for group in groups.values():
        for what, of in (("parameters", 0), ("active parameters", 1)):
            points = [
                (sizes[of], value)
                for cell in _least_of_models(group)
                if (sizes := sizes_of(cell.first)) is not None and (value := cell.mean(PER_TOKEN)) is not None
            ]
            rows += _exponent_row(what, group[0], points, len(points))
    for what, read in (("sequences at once", _at_once), ("tokens of a request", _context)):
        same: dict[Hashable, list[tuple[float, float]]] = {}
        heads: dict[Hashable, Cell] = {}
        for cell in study.cells:
            x, y = read(cell), cell.mean(PER_TOKEN)
            if x and y:
                place = (
                    *family_of(cell.first),
                    cell.gpu,
                    cell.first.kind if what == "sequences at once" else cell.first.scenario,
                )
                same.setdefault((*place, cell.first.model), []).append((x, y))
                heads.setdefault((*place, cell.first.model), cell)
        grouped: dict[Hashable, list[list[tuple[float, float]]]] = {}
        first: dict[Hashable, Cell] = {}
        for key, points in same.items():
            if len({x for x, _ in points}) > 1:
                assert isinstance(key, tuple)
                grouped.setdefault(key[:-1], []).append(points)
                first.setdefault(key[:-1], heads[key])
        for key, models in grouped.items():
            rows += _exponent_row(what, first[key], _within(models), len(models), lost=len(models))
    rows.sort(key=_own_first)
    size = [row for row in rows if row["what"] == "active parameters" and row["low"] is not None]
    if size:
        low, high = min(float(r["exponent"]) for r in size), max(float(r["exponent"]) for r in size)
        sentence = f"Energy of a token grows with active parameters to the power of {low:.2f} to {high:.2f}, by GPU and load ({len(size)} fits)."
    else:
        sentence = NOTHING
    return Answer(
        "scaling",
        "How does energy scale with parameters, active parameters, context and batch?",
        (
            Column("what", "with"),
            Column("gpu", "GPU"),
            Column("load", "load", detail=True),
            Column("brief_load", "load", brief=True),
            Column("models", "models"),
            Column("points", "points"),
            Column("exponent", "exponent"),
            Column("interval", "95 %"),
            Column("r_squared", "r2", digits=2),
        ),
        3,
        rows,
        sentence,
        "Least squares of logarithms, 95 % by Student's t over models (or over settings within models, for context and batch).",
        (
            "An exponent describes the models that are there: architecture, precision and size of the vocabulary go with size, and are not taken out.",
        ),
    )


def _least_of_models(group: Sequence[Cell]) -> list[Cell]:
    best: dict[str | None, Cell] = {}
    for cell in group:
        held = best.get(cell.first.model)
        if held is None or (cell.mean(PER_TOKEN) or np.inf) < (held.mean(PER_TOKEN) or np.inf):
            best[cell.first.model] = cell
    return list(best.values())


def _at_once(cell: Cell) -> float | None:
    """Mean number of sequences that ran at once."""
    return cell.middle("engine/running_mean")


def _context(cell: Cell) -> float | None:
    run = cell.first
    if run.input_tokens is None or run.output_tokens is None:
        return None
    return float(run.input_tokens + run.output_tokens)


def _within(models: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Points of each model about the mean of their logarithms."""
    found = []
    for points in models:
        logs = np.log(points)
        found += [(float(x), float(y)) for x, y in np.exp(logs - logs.mean(axis=0))]
    return found


def _exponent_row(
    what: str, cell: Cell, points: Sequence[tuple[float, float]], models: int, lost: int = 1
) -> list[Row]:
    """The fit of ln y on ln x; nothing for too few points. `lost`: means that were fitted."""
    freedom = len(points) - lost - 1
    if freedom < 2 or (lost == 1 and models < FEWEST_MODELS):
        return []
    x, y = np.log(points).T
    x, y = x - x.mean(), y - y.mean()
    across = float(x @ x)
    if across <= 0:
        return []
    slope = float(x @ y) / across
    left = y - slope * x
    half = t_975(freedom) * float((left @ left) / freedom / across) ** 0.5
    return [
        {
            "what": what,
            "gpu": cell.gpu_model if what.endswith("parameters") else cell.gpu,
            "load": _load_words(cell) if what.endswith("parameters") else str(cell.first.kind),
            "brief_load": _brief_load(cell) if what.endswith("parameters") else str(cell.first.kind),
            "origin": cell.first.origin,
            "data": data_of(cell.first),
            "evidence": str(cell.first.evidence or "unknown"),
            "models": models,
            "points": len(points),
            "exponent": slope,
            "low": slope - half,
            "high": slope + half,
            "interval": f"{slope - half:.2f} to {slope + half:.2f}",
            "r_squared": 1 - float(left @ left) / float(y @ y) if float(y @ y) > 0 else None,
        }
    ]


# -- f: does it reproduce


def reproduce(study: Study) -> Answer:
    rows: list[Row] = []
    for kind in study.scatters.kinds:
        for key, name in ((PER_TOKEN, "J per output token"), (WATTS, "mean W")):
            found = study.scatters.pooled(key, kind)
            if not found.freedom:
                continue
            parts = parts_of(found)
            rows.append(
                {
                    "what": name,
                    "kind": f"{kind[-2]}{', eager' if kind[-1] else ''}",
                    "origin": kind[1],
                    "data": str(kind[1]).removeprefix("imported:") if kind[1] != OWN else MEASURED,
                    "board_percent": _percent(parts[BOARD]),
                    "start_percent": _percent(parts[START]),
                    "rest_percent": _percent(parts[REST]),
                    "settings": found.settings,
                    "freedom": found.freedom,
                }
            )
    rows += _between(study, SUBMITTER, lambda cell: cell.first.by or cell.first.origin)
    rows += _between(study, VERSION, lambda cell: cell.first.version_minor)
    spreads = [row for row in rows if row["what"] == "J per output token"]
    if spreads:
        most = [
            max(float(row[f"{part}_percent"] or 0.0) for part in ("board", "start", "rest"))
            for row in spreads
        ]
        sentence = f"Repeats of a setting agree to {min(most):.1f} to {max(most):.1f} % (one standard deviation of the largest part), by kind of load."
    else:
        sentence = "No setting was repeated: whether anything reproduces, these results do not tell."
    return Answer(
        "reproduce",
        "Does it reproduce between boards, starts, submitters and versions of the engine?",
        (
            Column("what", "what"),
            Column("kind", "load"),
            Column("board_percent", "boards sd, %", digits=2),
            Column("start_percent", "starts sd, %", digits=2),
            Column("rest_percent", "rest sd, %", digits=2),
            Column("settings", "settings"),
            Column("freedom", "df"),
            Column("change_percent", "differ by", "%"),
            Column("interval", "95 %"),
            Column("tell", "tell"),
            BASIS,
        ),
        2,
        rows,
        sentence,
        "REML; a part without a figure could not be told from the rest, and is in it. 0.0: estimated at or below zero.",
    )


def _percent(sd: float | None) -> float | None:
    return None if sd is None else 100 * sd


def _between(study: Study, what: str, of: Callable[[Cell], str | None]) -> list[Row]:
    """The same setting by different submitters, or with different versions of the engine."""
    same: dict[Hashable, dict[str, Cell]] = {}
    for cell in study.cells:
        mark = of(cell)
        if cell.first.setting_key is None or mark is None:
            continue
        if what == VERSION:
            same.setdefault(key_of(cell.first.setting, without=("engine.version_minor",)), {})[mark] = cell
        else:
            for by in {run.by for run in cell.runs if run.by}:
                part = Cell((cell.key, by), tuple(run for run in cell.runs if run.by == by))
                same.setdefault(cell.key, {})[str(by)] = part
    rows: list[Row] = []
    for marks in same.values():
        ordered = sorted(marks.items())
        for (old, base), (new, cell) in itertools.pairwise(ordered):
            rows.append(
                {
                    "what": f"{what} {new} against {old}",
                    "kind": f"{cell.first.model}, {_load_words(cell)}",
                    **_rests((cell, base)),
                    **_compared(study.scatters.compare(cell, base)),
                }
            )
    return rows


QUESTIONS: Mapping[str, Callable[[Study], Answer]] = {
    "gpu-choice": gpu_choice,
    "savings": savings,
    "at-once": at_once,
    "load-curves": load_curves,
    "levers": levers,
    "scaling": scaling,
    "reproduce": reproduce,
    "claims": claims,
}
"""The standing questions, in their order."""
