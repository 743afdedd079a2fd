"""What a page on one run is made of: its pictures' numbers, findings with what to do, every figure, the budget of its energy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wattcount.figures import budget, latency, power
from wattcount.figures.figure import Row
from wattcount.figures.labels import sentence, shown
from wattcount.figures.trace import rounded, run_trace
from wattcount.metrics import load_metrics
from wattcount.metrics.metrics_json import FINDINGS, IMPORTED, METRICS, NULL_REASONS, spec
from wattcount.metrics.sheet import Finding
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.report.labels import board_of, caveats, describe, evidence_label, load_label
from wattcount.report.units import quantity
from wattcount.result import Result

Json = dict[str, Any]


def run_page(record: Record) -> Json:
    """All that the page shows. Raises `WattcountError` where a raw file is not as it was measured."""
    content, seen = load_metrics(record), Observed(record)
    result = Result.of(record, content)
    trace = run_trace(record, seen)
    spans = power.rows(trace)["phases"]
    latencies = latency.rows(record, seen)
    return {
        "name": shown(describe(result)),
        "run_id": shown(result.run_id),
        "verdict": _verdict(result),
        "evidence": evidence_label(result.evidence, result.origin, result.weights),
        "caveats": caveats(result.evidence, result.weights),
        "findings": [_finding(finding) for finding in result.findings],
        "notes": [sentence(note) for note in result.notes],
        "facts": _facts(result),
        "basis": [shown(source) for source in result.energy_basis],
        "figures": [_figure(result, key) for key in result.metrics],
        "edges_s": np.round(trace.edges_s, 4).tolist(),
        "series": {
            name: [[series.name, rounded(series.values)] for series in panel]
            for name, panel in trace.panels.items()
        },
        "phases": [dict(row) for row in spans],
        "latencies": _by_what(latencies["latencies"], ("ms", "share")),
        "bounds": [dict(row) for row in latencies["bounds"]],
        **{name: [dict(row) for row in rows] for name, rows in budget.rows(content).items()},
    }


def definitions() -> Json:
    """What each figure and each reason for null means, and the words of uncertainty's causes: the same for all runs."""
    return {
        "figures": {key: [one.unit, one.description] for key, one in (METRICS | IMPORTED).items()},
        "null_reasons": dict(NULL_REASONS),
        "findings": {
            code: {"why": one.why, "to_do": one.to_do, "figure": one.figure, "limit": one.limit}
            for code, one in FINDINGS.items()
        },
    }


def _verdict(result: Result) -> Json:
    return {
        "status": result.status.value,
        "reasons": [shown(reason) for reason in dict.fromkeys(result.reasons)],
        "messages": [sentence(message) for message in result.messages],
    }


def _finding(finding: Finding) -> Json:
    return {
        "code": shown(finding.code),
        "message": sentence(finding.message),
        "invalidates": finding.invalidates,
        "figure": quantity(finding.figure, finding.unit),
        "limit": quantity(finding.limit, finding.unit),
    }


def _facts(result: Result) -> list[list[str]]:
    """Pairs of a name and a text, without those that nothing is known of."""
    load = load_label(result.kind, result.num_requests, result.rate_rps)
    if result.input_tokens is not None and result.output_tokens is not None:
        load += f", {result.input_tokens} tokens in, {result.output_tokens} out"
    pairs: list[tuple[str, object]] = [
        ("model", result.model),
        ("GPUs", ", ".join(result.gpus)),
        ("board", board_of(result)),
        ("load", load),
        ("window", None if result.window_s is None else quantity(result.window_s, "s")),
        ("levers", ", ".join(result.levers) or "none"),
        ("engine", " ".join(filter(None, (result.engine, result.engine_version)))),
        ("driver", result.driver),
        ("energy read from", ", ".join(result.energy_basis)),
        ("began", result.started_utc),
        ("seed and repeat", f"{result.seed}, {result.repeat}"),
        ("session", result.session),
        ("point", (result.point_id or "")[:12]),
        ("setting", (result.setting_key or "")[:12]),
        ("wattcount", result.wattcount_version),
    ]
    return [[name, shown(value)] for name, value in pairs if value not in (None, "")]


def _figure(result: Result, key: str) -> list[Any]:
    """[key, value, text, 95 % uncertainty, code of why it is null]."""
    value, unit = result.value(key), spec(key).unit
    u95 = None if key.endswith("_u95") else result.u95(key)
    return [
        key,
        value,
        quantity(value, unit),
        None if u95 is None else float(f"{u95:.3g}"),
        None if value is not None else shown(result.null_reasons.get(key, "")),
    ]


def _by_what(rows: Iterable[Row], columns: Sequence[str]) -> list[list[Any]]:
    """[what, a list a column] for rows that come in groups: a third of their size as rows."""
    found = []
    for what, group in itertools.groupby(rows, key=lambda row: row["what"]):
        mine: list[Mapping[str, Any]] = list(group)
        found.append([what, *([row[column] for row in mine] for column in columns)])
    return found
