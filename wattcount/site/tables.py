"""The two tables that the pages read: settings, each with its repeats pooled, and single results.

A table is `{"columns": [...], "units": {...}, "rows": [[...]]}`; for scripts it has its values by column, see `Table.coded`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wattcount.dataset.tiers import Tier, tiers
from wattcount.records.schema import Evidence
from wattcount.report.labels import load_label
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.result.result import OWN
from wattcount.site.columns import FIGURES
from wattcount.site.shown import rounded, shown
from wattcount.site.source import Entry, Source
from wattcount.site.ties import Place, places
from wattcount.study.comparison import Cell, Estimate, Scatters, boards_of, setting_of
from wattcount.study.quality import precision_of
from wattcount.study.questions import USUAL_SLO, setting_words
from wattcount.study.service import over_runs

ID_CHARACTERS = 12
"""Length of a setting's id: the begin of its key [hexadecimal digits]. It is longer where two begin alike."""


@dataclass(frozen=True)
class Table:
    """Rows by columns. `units`: of those columns that have one."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    units: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "units": dict(self.units),
            "rows": [list(row) for row in self.rows],
        }

    def coded(self) -> dict[str, Any]:
        """For scripts: values by column, which pack better than rows. Texts that come again stand once, columns without a value are only named."""
        texts: dict[str, list[str]] = {}
        columns: dict[str, list[Any]] = {}
        for at, name in enumerate(self.columns):
            values = [row[at] for row in self.rows]
            if all(value is None for value in values):
                continue
            known: dict[str, int] = {}
            if all(value is None or isinstance(value, str) for value in values) and 2 * len(
                set(values)
            ) <= len(values):
                values = [None if value is None else known.setdefault(value, len(known)) for value in values]
                texts[name] = list(known)
            columns[name] = values
        return {"columns": list(self.columns), "number": len(self.rows), "texts": texts, "values": columns}


@dataclass(frozen=True)
class Setting:
    """Runs of one setting, and what they tell together.

    cell    its valid runs; None: there is none
    apart   what tells it from settings whose words are the same; empty: it needs nothing
    """

    id: str
    entries: Sequence[Entry]
    cell: Cell | None
    estimate: Estimate | None
    place: Place | None
    tier: Tier | None
    apart: str = ""

    @property
    def first(self) -> Result:
        return self.entries[0].result if self.cell is None else self.cell.first


def settings_of(source: Source) -> list[Setting]:
    """All settings, in the order in which they come."""
    groups: dict[Hashable, list[Entry]] = {}
    for entry in source.entries:
        groups.setdefault(setting_of(entry.result), []).append(entry)
    cells = [_cell(key, entries) for key, entries in groups.items()]
    there = [cell for cell in cells if cell is not None]
    scatters = Scatters(there)
    estimates = [scatters.estimate(cell, PER_TOKEN) for cell in there]
    placed = places(there, estimates, scatters)
    known = {
        cell.key: (estimate, place) for cell, estimate, place in zip(there, estimates, placed, strict=True)
    }
    tier_of: dict[Hashable, Tier] = {}
    for (setting, _), tier in tiers(source.results).items():
        if tier_of.get(setting) is not Tier.REPRODUCED:
            tier_of[setting] = tier
    ids = _ids(groups)
    found = [
        Setting(ids[key], entries, cell, *known.get(key, (None, None)), tier_of.get(key))
        for (key, entries), cell in zip(groups.items(), cells, strict=True)
    ]
    return _told_apart(found)


def _told_apart(settings: Sequence[Setting]) -> list[Setting]:
    """The settings, in which those whose words are the same have what they differ in."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for at, setting in enumerate(settings):
        run = setting.first
        words = setting_words(Cell(setting.id, (run,)))
        alike.setdefault((run.origin, run.by, run.model, run.gpus, load_words(run), words), []).append(at)
    made = list(settings)
    for members in alike.values():
        if len(members) > 1:
            facts = [_flat(settings[at].first) for at in members]
            keys = _fewest(facts)
            for at, each in zip(members, facts, strict=True):
                differs = [
                    f"{key.rpartition('.')[2].replace('_', ' ')} {each[key]}" for key in keys if key in each
                ]
                made[at] = replace(settings[at], apart=", ".join(differs))
    return made


def _fewest(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Few keys whose values tell all of `facts` apart, as far as any do: those with the most values first, as long as they tell more."""
    values = {key: len({each.get(key) for each in facts}) for each in facts for key in each}
    found: list[str] = []
    told = 1
    for key in sorted(values, key=lambda key: (-values[key], key)):
        now = len({tuple(each.get(one) for one in (*found, key)) for each in facts})
        if now > told:
            found.append(key)
            told = now
    return found


def _flat(run: Result) -> dict[str, str]:
    """What a setting is made of, by dotted keys, and what else is told of a run in words."""
    found: dict[str, str] = {}

    def add(node: Mapping[str, Any], before: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping):
                add(value, f"{before}{key}.")
            elif isinstance(value, str | int | float):
                found[f"{before}{key}"] = str(value)

    add({key: value for key, value in run.setting.items() if key != "model"}, "")
    add({key: value for key, value in run.setting.get("model", {}).items() if key != "hf_config"}, "model.")
    return found


def _cell(key: Hashable, entries: Sequence[Entry]) -> Cell | None:
    runs = tuple(entry.result for entry in entries if entry.result.valid)
    return Cell(key, runs) if runs else None


def _ids(groups: Mapping[Hashable, Sequence[Entry]]) -> dict[Hashable, str]:
    """A setting's id is the begin of its key; that of a result nobody can repeat is the result's own."""
    keys = [key for key in groups if isinstance(key, str)]
    length = ID_CHARACTERS
    while len({key[:length] for key in keys}) < len(set(keys)):
        length += 4
    return {key: key[:length] if isinstance(key, str) else entries[0].id for key, entries in groups.items()}


# -- the table of settings

SETTING_FACTS = (
    "id", "model", "gpu", "gpu_model", "gpus", "kind", "load", "rate_rps", "num_requests", "input_tokens", "output_tokens",
    "setting", "engine", "engine_version", "precision", "weights", "evidence", "origin", "instrument", "measured_by", "tier",
    "status", "runs", "boards", "starts",
)  # fmt: skip
"""Columns of a setting beside its figures: what it is, and what its figures rest on."""
SETTING_MORE = ("low", "high", "basis", "slo_low", "slo_high", "ranked", "rank", "ties")
"""The interval of the energy of a token (95 %; 90 % of what is predicted) and what it rests on; the least and most share of requests that keep the usual SLO; the
load in which it is ranked, its rank, and the ranks that cannot be told from it."""


@dataclass(frozen=True)
class Form:
    """How tables are written: the texts of others, and the significant digits of figures."""

    text: Callable[[object], str]
    digits: int


PAGE, RUN_PAGE, PLAIN = Form(shown, 4), Form(shown, 3), Form(str, 6)
"""For pages, which show four digits of settings and three of runs; for the API, whose texts are whole."""


def setting_table(settings: Sequence[Setting], form: Form = PAGE) -> Table:
    rows = [
        [*_facts(setting, form.text), *_figures(setting, form.digits), *_more(setting, form.digits)]
        for setting in settings
    ]
    names = [*SETTING_FACTS, *(figure.column for figure in FIGURES), *SETTING_MORE]
    units = {figure.column: _unit(figure.key) for figure in FIGURES} | {
        "low": "J",
        "high": "J",
        "rate_rps": "requests/s",
    }
    return Table(names, rows, units)


def _unit(key: str) -> str:
    from wattcount.metrics.metrics_json import spec

    return spec(key).unit


def _facts(setting: Setting, text: Callable[[object], str]) -> list[Any]:
    run, cell = setting.first, setting.cell
    runs = [entry.result for entry in setting.entries]
    mine = cell or Cell(setting.id, tuple(runs))
    status = "valid" if cell is not None else str(run.status.value)
    return [
        setting.id, text(run.model or "unknown model"), text(mine.gpu), text(mine.gpu_model), len(run.gpus) or None,
        text(run.kind or "unknown"), text(load_words(run)), rounded(run.rate_rps), run.num_requests, run.input_tokens,
        run.output_tokens, text(_words(setting, mine)), _known(run.engine, text), _known(run.engine_version, text),
        _known(precision(run), text), run.weights_kind or "unknown", str(run.evidence or "unknown"), text(run.origin),
        _known(run.instrument, text), _joined(sorted({by for r in runs if (by := r.by)}), text),
        None if setting.tier is None else setting.tier.value, status, len(runs), len(boards_of(mine.runs)) or None,
        len({r.session or r.run_id for r in mine.runs}),
    ]  # fmt: skip


def _words(setting: Setting, cell: Cell) -> str:
    words = setting_words(cell)
    return f"{words}; {setting.apart}" if setting.apart else words


def _figures(setting: Setting, digits: int) -> list[float | None]:
    if setting.cell is None:
        return [None] * len(FIGURES)
    cell, estimate = setting.cell, setting.estimate
    values = [cell.middle(figure.key) for figure in FIGURES]
    if estimate is not None:
        values[0] = estimate.value
    return [rounded(value, digits) for value in values]


def _more(setting: Setting, digits: int) -> list[Any]:
    place = setting.place
    low, high, basis = _interval(setting)
    share = None if setting.cell is None else over_runs(setting.cell.runs, USUAL_SLO)
    return [
        rounded(low, digits),
        rounded(high, digits),
        basis,
        None if share is None else rounded(share.low, 4),
        None if share is None else rounded(share.high, 4),
        None if place is None else place.group,
        None if place is None else place.rank,
        None if place is None or place.ties is None else list(place.ties),
    ]


def _interval(setting: Setting) -> tuple[float | None, float | None, str | None]:
    """(its ends, what it rests on): of a measured setting 95 % of its mean, of a predicted one the prediction's own 90 %."""
    run, estimate = setting.first, setting.estimate
    if run.evidence is Evidence.PREDICTED:
        return *(run.interval(PER_TOKEN) or (None, None)), shown("; ".join(run.energy_basis)) or None
    if estimate is None:
        return None, None, None
    return estimate.low, estimate.high, estimate.basis.words


def load_words(run: Result) -> str:
    """`server 16 requests/s, 512/128 tokens`: of an imported result also what its source calls the load."""
    words = load_label(run.kind, run.num_requests, run.rate_rps)
    if run.input_tokens is not None and run.output_tokens is not None:
        words += f", {run.input_tokens}/{run.output_tokens} tokens"
    if run.origin != OWN and run.scenario:
        words += f", {run.scenario}"
    return words


def precision(run: Result) -> str | None:
    """Of the weights; None: the source does not tell."""
    model = run.setting.get("model", {})
    if run.origin != OWN and not (model.get("quantization") or model.get("dtype")):
        return None
    return precision_of(run)


def _known(value: object, text: Callable[[object], str]) -> str | None:
    return None if value is None or value == "" else text(value)


def _joined(values: Iterable[str], text: Callable[[object], str]) -> str | None:
    return ", ".join(map(text, values)) or None


# -- the table of results

RUN_FACTS = (
    "id", "setting", "run_id", "repeat", "seed", "started_utc", "board", "host", "session", "status", "reasons", "measured_by",
    "submission", "licence", "record",
)  # fmt: skip
"""Columns of a result beside its figures. `setting` is the setting's id; no `run_id`: it is the id; no `session`: the run has its own start of the
engine."""
U95 = "energy_gpu_j_per_output_token_u95"
"""95 % uncertainty of the energy of a token of this run, by method and sensor."""


def run_table(settings: Sequence[Setting], form: Form = RUN_PAGE) -> Table:
    rows = [
        [*_run_facts(setting, entry, form.text), *(rounded(entry.result.value(figure.key), form.digits) for figure in FIGURES), rounded(entry.result.u95(PER_TOKEN), 3)]
        for setting in settings
        for entry in setting.entries
    ]  # fmt: skip
    names = [*RUN_FACTS, *(figure.column for figure in FIGURES), U95]
    return Table(names, rows, {figure.column: _unit(figure.key) for figure in FIGURES} | {U95: "J"})


def _run_facts(setting: Setting, entry: Entry, text: Callable[[object], str]) -> list[Any]:
    run = entry.result
    run_id = None if run.run_id == entry.id else run.run_id
    session = None if run.session == run.run_id else run.session
    return [
        entry.id, setting.id, _known(run_id, text), run.repeat, run.seed, _known((run.started_utc or "")[:19], text),
        _joined(sorted(run.boards), text), _known(run.host, text), _known(session, text),
        run.status.value, _joined(run.codes, text), _known(run.by, text), entry.submission, entry.licence,
        _known(entry.place, text),
    ]  # fmt: skip
