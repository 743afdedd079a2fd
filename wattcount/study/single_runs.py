"""Markdown tables of single runs on real GPUs, of their sensors, and of what measuring costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from wattcount.metrics import load_metrics
from wattcount.metrics.sensors import ENERGY_SOURCES
from wattcount.records import Record
from wattcount.report.labels import board_label, board_of, name_of
from wattcount.report.units import markdown
from wattcount.result.host_part import PER_TOKEN, WATTS
from wattcount.result.result import Result
from wattcount.statistics import Difference, detrended, paired
from wattcount.study.selection import TOKENS, figure, is_of_many_shapes
from wattcount.study.tables import number


def few_shapes(runs: Sequence[Result]) -> list[Result]:
    """All runs but those of many shapes. These have tables of their own."""
    return [run for run in runs if not is_of_many_shapes(run)]


def _few(runs: Sequence[Result]) -> Iterator[tuple[str, Mapping[str, float | None]]]:
    yield from ((name_of(run), run.metrics) for run in few_shapes(runs))


def _record(run: Result) -> Record:
    """What the run observed. ValueError where there is no record."""
    if run.record is None:
        raise ValueError(f"{name_of(run)} has no record")
    return Record.open(run.record)


def main_job(runs: Sequence[Result]) -> str:
    head = ["run", "window s", "J per output token", "mean W", "bare / loaded idle W", "output tokens/s", "TTFT p50 / p95 ms", "TPOT p50 / p95 ms"]  # fmt: skip
    rows = [
        [
            name,
            number(m["window/duration_s"]),
            number(m["energy/gpu_j_per_output_token"]),
            number(m["power/gpu_mean_w"]),
            f"{number(m['power/idle_bare_w'])} / {number(m['power/idle_loaded_w'])}",
            number(m["throughput/output_tokens_per_s"]),
            f"{number(m['latency/ttft_p50_ms'])} / {number(m['latency/ttft_p95_ms'])}",
            f"{number(m['latency/tpot_p50_ms'])} / {number(m['latency/tpot_p95_ms'])}",
        ]
        for name, m in _few(runs)
    ]
    return markdown(head, rows)


def sources(runs: Sequence[Result]) -> str:
    rows = []
    for name, m in _few(runs):
        energy = m["energy/gpu_j"]
        assert energy is not None
        values = [m[f"energy_by_source/{source}_j"] for source in ENERGY_SOURCES]
        rows.append(
            [name, f"{energy:.0f} J", *(f"{100 * (v / energy - 1):+.2f} %" if v else "-" for v in values)]
        )
    return markdown(
        ["run", "energy of the window", *(f"`{source}` alone" for source in ENERGY_SOURCES)], rows
    )


def budget(runs: Sequence[Result]) -> str:
    rows = []
    for run in few_shapes(runs):
        ((uuid, energy),) = load_metrics(_record(run))["energy"].items()
        parts = {part: 100 * value / energy["value_j"] for part, value in energy["budget_j"].items()}
        rows.append(
            [
                f"{name_of(run)} ({board_label(uuid)})",
                f"{energy['value_j']:.0f} J",
                *(f"{parts[part]:.3f} %" for part in ("shape", "edges", "alignment", "timescale")),
                f"{100 * energy['u95_method_j'] / energy['value_j']:.3f} %",
                f"{100 * energy['u95_sensor_j'] / energy['value_j']:.2f} %",
            ]
        )
    return markdown(["run", "energy", "shape", "edges", "alignment", "timescale", "method", "sensor"], rows)


def phases(runs: Sequence[Result]) -> str:
    rows = []
    for name, m in _few(runs):

        def per(key: str, m: Mapping[str, float | None] = m) -> str:
            value, u95 = m[f"energy/{key}_j_per_token"], m[f"energy/{key}_j_per_token_u95"]
            return "-" if value is None or u95 is None else f"{1e3 * value:.3g} ± {1e3 * u95:.2g}"

        rows.append(
            [
                name,
                per("prefill"),
                per("decode"),
                f"{number(m['energy/request_p50_j'])} / {number(m['energy/request_p95_j'])}",
                number(m["energy/dynamic_j_per_output_token"]),
                number(m["attribution/condition_number"], 2),
            ]
        )
    return markdown(["run", "prefill, mJ per token", "decode, mJ per token", "J per request p50 / p95", "J per output token without idle", "condition number"], rows)  # fmt: skip


def reproducible(runs: Sequence[Result], stretches: pd.DataFrame) -> str:
    rows: list[list[str]] = []
    dummies = []
    batches = [
        run
        for run in few_shapes(runs)
        if name_of(run).startswith("llama3_8b, batch of 512") and "fp8" not in run.levers
    ]
    for run in sorted(batches, key=lambda run: run.started_utc or ""):
        started, initializer = str(run.started_utc), _record(run).info.resolved.model.initializer.value
        if initializer == "dummy":
            dummies.append(figure(run, PER_TOKEN))
        rows.append(
            [
                started[:16].replace("T", " "),
                board_of(run),
                initializer,
                f"{1e3 * (run.value(PER_TOKEN) or math.nan):.2f}",
                f"{1e3 * (run.value('energy_steady/gpu_j_per_output_token') or math.nan):.2f}",
                number(run.value(WATTS), 4),
                number(run.value(TOKENS), 4),
            ]
        )
    head = ["UTC", "board", "initialiser", "mJ per output token", "of the steady window", "mean W", "output tokens/s"]  # fmt: skip
    dummy = np.array(dummies)
    batch = stretches[stretches["kind"] == "batch"]
    within = (batch["energy_j"] / batch["tokens"]).to_numpy()
    spread = (
        f"Between {len(dummy)} boards, each on an occasion of its own (`dummy`): sd {100 * dummy.std(ddof=1) / dummy.mean():.2f} %, "
        f"{100 * (dummy.max() / dummy.min() - 1):.1f} % from lowest to highest. Within one occasion, {len(within)} batches of one "
        f"engine on board ebd2: sd {100 * within.std(ddof=1) / within.mean():.2f} %."
    )
    return markdown(head, rows) + "\n\n" + spread


def found_sensors(runs: Sequence[Result]) -> str:
    """What the short look before a first run found out about the sensors of each board, idle."""
    boards: dict[str, Any] = {}
    for run in runs:
        boards |= _record(run).info.characterisation
    rows = []
    for uuid, found in sorted(boards.items()):
        of = found["sources"]
        rows.append(
            [
                board_label(uuid),
                *(f"{of[name]['update_period_ms']:.1f}" for name in ("energy_counter", "power_average", "power_instant", "power_usage")),
                f"{of['power_samples']['update_period_ms']:.2f} x {found['ring']['depth']}",
                f"{100 * found['ring']['lost_share']:.1f} %",
                f"{of['energy_counter']['call_p50_ms']:.1f} / {of['energy_counter']['call_p99_ms']:.1f}",
                "-" if (apart := found["counter"]["power_against_counter"]) is None else f"{100 * apart:+.2f} %",
            ]
        )  # fmt: skip
    head = ["board", "counter, ms", "field 185, ms", "field 186, ms", "GetPowerUsage, ms", "ring, ms x samples", "samples lost", "counter read p50 / p99, ms", "ring against counter"]  # fmt: skip
    return markdown(head, rows)


def added_times(runs: Sequence[Result]) -> str:
    """Time of runs beside their phases [s]: least, median and most of each kind."""
    infos = [_record(run).info for run in runs]
    starts: dict[str, list[float]] = {"eager": [], "compiled": []}
    for info in infos:
        starts["eager" if info.resolved.engine.enforce_eager else "compiled"].append(
            info.timing["engine_start_s"]
        )
    kinds = {
        "what wattcount adds to a run (`run/overhead_s`)": [info.timing["overhead_s"] for info in infos],
        "start of the engine, eager": starts["eager"],
        "start of the engine, compiled": starts["compiled"],
        "pause for cooling down, 8 s at most": [i.cooldown["seconds"] for i in infos if i.cooldown],
    }
    rows = [
        [what, str(len(values)), *(f"{of(values):.1f}" for of in (np.min, np.median, np.max))]
        for what, values in kinds.items()
    ]
    return markdown(["what", "runs", "least, s", "median, s", "most, s"], rows)


def sampler(runs: Sequence[Result]) -> str:
    rows = []
    for run in few_shapes(runs):
        name, m, info = name_of(run), run.metrics, _record(run).info
        (health,) = info.sampler.values()
        counter, instant = health["sources"]["energy_counter"], health["sources"]["power_instant"]
        share = m["sampler/cpu_share"]
        assert share is not None
        rows.append(
            [
                name,
                f"{100 * share:.2f} %",
                f"{counter['rate_hz']:.2f} / {instant['rate_hz']:.1f}",
                f"{counter['call_p50_ns'] / 1e6:.1f} / {counter['call_p99_ns'] / 1e6:.1f}",
                f"{counter['cpu_ns'] / counter['calls'] / 1e6:.1f}",
                f"{instant['lateness_p50_ns'] / 1e6:.2f} / {instant['lateness_p99_ns'] / 1e6:.2f}",
                f"{health['missed_deadlines']} of {sum(s['calls'] for s in health['sources'].values())}",
            ]
        )
    head = ["run", "CPU, of a core", "counter / instant reads per s", "counter read p50 / p99 ms", "its CPU ms", "instant: lateness p50 / p99 ms", "deadlines missed"]  # fmt: skip
    return markdown(head, rows)


def overhead(stretches: pd.DataFrame) -> str:
    idle = stretches[stretches["kind"] == "idle"]
    lines: list[list[str]] = []

    def line(what: str, off: float, found: Difference) -> None:
        mean, half = found.mean_percent, found.half_width_percent
        lines.append([what, f"{off:.4g}", str(found.pairs), f"{mean:+.2f} %", f"{mean - half:+.2f} to {mean + half:+.2f} %"])  # fmt: skip

    def pairwise(chosen: pd.DataFrame, value: pd.Series, what: str) -> None:
        wide = chosen.assign(value=value).pivot_table(
            index=["engine", "pair"], columns="sampler", values="value"
        )
        wide = wide.dropna()
        line(what, wide[False].mean(), paired((wide[True] / wide[False] - 1).to_numpy()))

    for occasion, name in ((1, "first board"), (2, "second board")):
        chosen = idle[idle["occasion"] == occasion]
        pairwise(chosen, chosen["energy_j"] / chosen["span_s"], f"loaded idle, W, {name}")
    compiled = idle[idle["engine"] == "compiled"]
    idle_w = (compiled["energy_j"] / compiled["span_s"]).mean()
    batch = stretches[stretches["kind"] == "batch"]
    net_j = batch["energy_j"] - (batch["span_s"] - batch["seconds"]) * idle_w
    pairwise(batch, batch["tokens"] / batch["seconds"], "batches: output tokens/s")
    pairwise(batch, net_j / batch["tokens"], "batches: J per output token")
    decode = stretches[stretches["kind"] == "decode"]
    # The first stretch of each batch still met the end of its prefill.
    decode = decode[decode["start_s"].diff().fillna(9) < 3 * decode["start_s"].diff().median()]
    on, start_s = decode["sampler"].to_numpy(), decode["start_s"].to_numpy()
    for what, values in (
        ("steady decode: output tokens/s", decode["tokens"] / decode["span_s"]),
        ("steady decode: J per output token", decode["energy_j"] / decode["tokens"]),
        ("steady decode: W", decode["energy_j"] / decode["span_s"]),
    ):
        line(what, values[~on].mean(), detrended(values.to_numpy(), on, start_s))
    return markdown(["figure", "sampler off", "pairs", "on against off", "95 % interval"], lines)


def period(loads: pd.DataFrame) -> str:
    loads = loads.copy()
    gap_w = float(np.polyfit(loads["products_per_s"], loads["counter_w"], 1)[1])
    loads["work_j"] = (loads["counter_w"] - gap_w) / loads["products_per_s"]
    rows = []
    for value, chosen in loads.groupby("period_ms"):
        beside = chosen[chosen["detuned"] != 1.0]["work_j"]
        locked = 100 * (chosen[chosen["detuned"] == 1.0]["work_j"] / beside.mean() - 1)
        rows.append(
            [
                f"{value:g}",
                f"{chosen['counter_w'].mean():.0f}",
                f"{1e3 * beside.mean():.1f}",
                f"{100 * beside.std() / beside.mean():.1f} %",
                ", ".join(f"{change:+.1f} %" for change in locked),
            ]
        )
    return markdown(
        ["period ms", "mean W", "mJ per product, detuned", "their spread", "at the period itself, each load"],
        rows,
    )
