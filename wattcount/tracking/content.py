"""What MLflow gets of a record: params, metrics, tags, curve, workload, texts. This module does not import MLflow."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.config.validation import TAG_LIMIT
from wattcount.figures.trace import run_trace
from wattcount.metrics.metrics_json import spec
from wattcount.metrics.observations import MISSING, gpu_uuids, int_column
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase, RunInfo
from wattcount.report.labels import MAIN_FIGURES, caveats, describe, gpu_label, short_name
from wattcount.report.summary import summary
from wattcount.report.units import quantity
from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.terminal import PlainConsole

PARAM_LIMIT = 6000
"""Most characters of a param's value: MLflow keeps no more."""
CURVE_POINTS = 1000
"""The most points of all power curves of a run: as many metrics as MLflow takes in one batch."""

PER_TOKEN_MJ = "energy/gpu_mj_per_output_token"
"""Energy of an output token in mJ [mJ]: MLflow's charts show two decimals, in which small models have 0.00 J."""
PICTURES = "plots"
"""Folder of the pictures among the artifacts of runs and of sweeps."""
PICTURE_SCALE = 1.5
"""Pixels of a picture to one of its spec: sharp enough for MLflow's viewer, and some 250 kB."""
PAGE_WIDTH = 100
"""Width of the summary page [characters]: no line of it is wrapped in MLflow's artifact viewer."""

_NOT_PARAMS = (
    "tracking", "display", "records_dir", "evidence", "sweep", "dry_run", "resume", "cooldown_limit_s", "gpu_busy_timeout_s",
    "gpu_lock_timeout_s",
)  # fmt: skip
_NOT_LEAVES = ("source", "gated", "buffer_mib_per_gpu", "heartbeat_ms", "start_timeout_s", "client_processes")
"""Groups, and keys of any group, that say nothing that runs are compared by."""
_FIRST = (
    "model.name", "gpu.name", "gpu.count", "scenario.name", "scenario.rate_rps", "scenario.num_requests", "scenario.lengths.input_tokens",
    "scenario.lengths.output_tokens", "scenario.window_s", "scenario.max_in_flight", "engine.name", "engine.version_minor",
    "engine.max_num_seqs", "engine.max_num_batched_tokens", "engine.tensor_parallel_size", "engine.enforce_eager", "model.dtype",
    "model.quantization", "model.weights",
)  # fmt: skip
"""Params that runs are compared by most, in the order in which they are logged and MLflow shows them: before all others."""
_GPU_PARAMS = ("gpu.name", "gpu.count", "gpu.found_name")
"""Params of the group `gpu`. Its other keys are facts of the data sheet and how GPUs are matched: runs are not compared by them."""
_WHOLE = ("model.hf_config",)
"""Groups that are one param each, as JSON, after all others: a model's constants would hide what people compare."""


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """The resolved config as flat `group.key` params; values too long for MLflow are cut and hashed."""
    flat: dict[str, str] = {}
    for key, value in sorted(_leaves(config, ""), key=_place):
        if key.split(".")[0] in _NOT_PARAMS or key.split(".")[-1] in _NOT_LEAVES:
            continue
        if key.startswith("gpu.") and key not in _GPU_PARAMS:
            continue
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        flat[re.sub(r"[^\w./ :-]", "_", key)] = cut(text, PARAM_LIMIT)  # what MLflow allows in a key
    return flat


def _place(leaf: tuple[str, Any]) -> int:
    """Place of a param among the others."""
    key = leaf[0]
    return len(_FIRST) + (key in _WHOLE) if key not in _FIRST else _FIRST.index(key)


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in _WHOLE:
            yield from _leaves(value, f"{key}.")
        elif value not in (None, {}, []):
            yield key, value


def cut(text: str, limit: int) -> str:
    """`text`. With more than `limit` characters: its begin, its length and its hash."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = f"... ({len(text)} characters, sha256 {digest})"
    return text[: limit - len(mark)] + mark


def tags(record: Record | None, result: Result) -> dict[str, str]:
    """Tags to filter and group runs by. All runs of one kind have the same keys. `record`: None, of what was predicted.

    All keys are `config.validation.is_own`, so that no tag of the user takes their place.
    """
    found = {
        "evidence": result.evidence,
        "origin": result.origin,
        "instrument": result.instrument,
        "model": result.model,
        "weights": result.weights,
        "scenario": result.scenario or result.kind,
        "engine": result.engine,
        "levers": ", ".join(result.levers) or "none",
        "particulars": "; ".join(result.particulars) or "none",
        "gpu": gpu_label(result.gpus),
        "gpu_count": len(result.gpus) if record is None else len(record.info.gpus),
        "gpu_uuids": "" if record is None else ",".join(gpu_uuids(record)),
        "driver": result.driver,
        "host": result.host,
        "point_id": result.point_id,
        "setting_key": result.setting_key,
        "seed": result.seed,
        "repeat": result.repeat,
        "valid": str(result.valid).lower(),
        "reasons": ",".join(result.codes) or "none",
        "session": result.session,
        "wattcount.run_id": result.run_id,
        "wattcount.record": None if record is None else record.path,
        "basis": None if record is not None else "; ".join(result.energy_basis),
    }
    versions = {"wattcount": result.wattcount_version} if record is None else record.info.versions
    found |= {f"version.{name}": version for name, version in versions.items()}
    return {key: cut(str(value), TAG_LIMIT) for key, value in found.items() if value not in (None, "")}


def metrics(result: Result) -> dict[str, float]:
    """Figures by their keys, the host's part of the uncertainty of those that have one, and PER_TOKEN_MJ; the main ones first, as
    MLflow shows them in the order in which they were logged."""
    more = {f"{key}_u95_host": result.u95_host(key) for key in (PER_TOKEN, WATTS)}
    per_token_j = result.value(PER_TOKEN)
    more[PER_TOKEN_MJ] = None if per_token_j is None else 1000 * per_token_j
    found = {key: float(value) for key, value in {**result.metrics, **more}.items() if value is not None}
    main = (PER_TOKEN_MJ, *(key for _, keys in MAIN_FIGURES for key in keys))
    return {key: found[key] for key in (*main, *found) if key in found}


def run_name(result: Result, given: str | None) -> str:
    """The run's name in MLflow: what was given, else `short_name`. An invalid one cannot be taken for another."""
    return ("" if result.valid else "INVALID ") + (given or short_name(result))


def page(result: Result) -> str:
    """The result as `wattcount show` prints it, HTML."""
    screen = PlainConsole(file=io.StringIO(), record=True, width=PAGE_WIDTH, force_terminal=True)
    screen.print(summary(result))
    return screen.export_html(inline_styles=True)


def pictures(record: Record) -> dict[str, bytes]:
    """PNGs by name, of what there is to draw."""
    from wattcount.figures import latency_distribution, power_trace

    seen = Observed(record)
    figures = (power_trace(record, seen), latency_distribution(record, seen))
    return {
        f"{figure.name}.png": figure.to_png(scale=PICTURE_SCALE) for figure in figures if not figure.is_empty
    }


def note(result: Result) -> str:
    """The run's description, Markdown. Its first line says whether the numbers may be used: MLflow shows little more of it."""
    lines = []
    if not result.valid:
        lines += [f"**INVALID: do not use these numbers** ({', '.join(dict.fromkeys(result.reasons))})", ""]
    lines += [f"**{describe(result)}**", ""]
    for text in caveats(result.evidence, result.weights):
        lines += [f"**{text}**", ""]
    lines += ["| figure | value |", "| --- | --- |"] if result.metrics else []
    for label, keys in MAIN_FIGURES:
        if len(keys) == 1 and (value := result.value(keys[0])) is not None:
            unit, interval = spec(keys[0]).unit, result.interval(keys[0])
            within = (
                ""
                if interval is None
                else f" ({' to '.join(quantity(bound, unit, 3) for bound in interval)})"
            )
            lines.append(f"| {label.strip()} | {quantity(value, unit)}{within} |")
    lines += ["", *(f"- {text}" for text in (*result.messages, *result.mild_messages, *result.notes))]
    if result.evidence is Evidence.PREDICTED:
        lines += ["", f"Basis: {'; '.join(result.energy_basis)}."]
    else:
        lines += [
            "",
            "Energy, power and throughput speak of the window; `power_w` has time 0 at its start.",
            f"Record: `{result.record}`",
        ]
    return "\n".join(lines)


VIEW_KEY = "mlflow.sharedViewState.wattcount-energy"
"""Experiment tag in which MLflow's UI keeps a saved view of the list of runs."""


_VIEW_METRICS = (
    (PER_TOKEN_MJ, 225),
    ("power/gpu_mean_w", 145),
    ("throughput/output_tokens_per_s", 225),
    ("latency/ttft_p50_ms", 150),
    ("latency/tpot_p50_ms", 150),
)
"""Metrics of the saved view, with the widths of their columns [pixels]."""


def view() -> str:
    """A saved view `Energy` for MLflow's UI, whose own columns show no energy. A UI without views ignores it."""
    widths = {"attributes.`Run Name`": 290}
    widths |= {f"tags.`{name}`": 90 for name in ("evidence", "weights", "valid")}
    widths |= {f"metrics.`{key}`": pixels for key, pixels in _VIEW_METRICS}
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": list(widths)[1:],
        "columnOrder": list(widths),
        "columnWidths": widths,
    }
    return json.dumps({"name": "Energy", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


@dataclass(frozen=True)
class Curve:
    """One line of a picture: means of stretches, of power in watts; `t_ns` is the middle of each, CLOCK_MONOTONIC."""

    key: str
    t_ns: NDArray[np.int64]
    values: NDArray[np.float64]


def curves(record: Record) -> list[Curve]:
    """The power curve of each GPU, at most `CURVE_POINTS` points in all."""
    uuids = [uuid for uuid in gpu_uuids(record) if uuid in record.power.gpu_uuids]
    made = []
    for index, uuid in enumerate(uuids):
        t_ns, power_w = record.power.curve(uuid, max(CURVE_POINTS // len(uuids), 1))
        if len(t_ns):
            made.append(Curve("power_w" if len(uuids) == 1 else f"power_w/gpu{index}", t_ns, power_w))
    return made


SYSTEM_POINTS = 1000
"""The most points of all system metrics of a run: as many as MLflow takes in one batch."""


def system_metrics(record: Record) -> list[Curve]:
    """Power, temperature and SM clock of each GPU over the whole run, for MLflow's page of system metrics: means of equal numbers of
    the stretches that the picture of the run has (`figures.trace`)."""
    trace = run_trace(record)
    named = [
        (f"system/gpu_{index}_{what}", series.values)
        for what, panel in (
            ("power_usage_watts", trace.power_w),
            ("temperature_celsius", trace.celsius),
            ("clock_sm_mhz", trace.mhz),
        )
        for index, series in enumerate(panel)
    ]
    if not named:
        return []
    length = len(trace.edges_s) - 1
    width = -(-length * len(named) // SYSTEM_POINTS)
    starts = np.arange(0, length, width)
    middle_s = (trace.edges_s[starts] + trace.edges_s[np.minimum(starts + width, length)]) / 2
    t_ns = zero_ns(record.info) + np.round(middle_s * 1e9).astype(np.int64)
    seconds = np.diff(trace.edges_s)
    curves = []
    for key, values in named:
        seen_s = np.add.reduceat(np.where(np.isnan(values), 0.0, seconds), starts)
        summed = np.add.reduceat(np.nan_to_num(values) * seconds, starts)
        known = seen_s > 0
        curves.append(Curve(key, t_ns[known], summed[known] / seen_s[known]))
    return curves


def zero_ns(info: RunInfo) -> int:
    """Time 0 of the curve: the start of the window, so that curves of runs can be compared; else the start of the run."""
    for span in info.phases:
        if span.phase == Phase.WINDOW:
            return span.start_ns
    return info.phases[0].start_ns if info.phases else int(info.clock_pairs[0]["monotonic_ns"])


def utc_ms(info: RunInfo, t_ns: int) -> int:
    """UTC milliseconds of a monotonic stamp, by the nearest of the record's clock pairs."""
    pair = min(info.clock_pairs, key=lambda pair: abs(pair["monotonic_ns"] - t_ns))
    return (pair["utc_ns"] + t_ns - pair["monotonic_ns"]) // 1_000_000


def bounds_ns(info: RunInfo) -> tuple[int, int]:
    """Start and end of the run itself, CLOCK_MONOTONIC."""
    stamps = [pair["monotonic_ns"] for pair in info.clock_pairs]
    stamps += [span.start_ns for span in info.phases]
    stamps += [span.end_ns for span in info.phases if span.end_ns is not None]
    return min(stamps), max(stamps)


@dataclass(frozen=True)
class Workload:
    """The requests as planned. `digest` is the same wherever arrivals and lengths are the same."""

    name: str
    digest: str
    num_rows: int


WORKLOAD_COLUMNS = ("planned_offset_ns", "input_tokens", "output_tokens")
"""Columns of the workload as a data set; lengths in tokens."""


def workload(record: Record) -> Workload | None:
    """The request trace as a data set; None where the run has no requests."""
    table = record.requests.sort_by([("phase", "ascending"), ("index", "ascending")])
    if not len(table):
        return None
    planned = int_column(table, "planned_send_ns")
    known = planned[planned != MISSING]
    first = int(known.min()) if len(known) else 0
    columns = {
        "planned_offset_ns": [None if t == MISSING else t - first for t in planned.tolist()],
        "input_tokens": int_column(table, "input_tokens").tolist(),
        "output_tokens": int_column(table, "output_tokens").tolist(),
    }
    content = json.dumps(columns, separators=(",", ":")).encode()
    scenario = record.info.resolved.scenario
    return Workload(
        name=f"{scenario.name or scenario.kind.value} seed {record.info.seed} r{record.info.repeat}",
        digest=hashlib.sha256(content).hexdigest()[:12],
        num_rows=len(table),
    )
