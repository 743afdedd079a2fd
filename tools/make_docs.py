"""Writes the tables of docs/ that come from data and options in this repository: `make docs`.

A table stands between two marker lines, `<!-- NAME -->` and `<!-- /NAME -->`; the text around it is written
by hand.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from wattcount.config import fit
from wattcount.config.catalogue import gpu_catalogue, model_catalogue
from wattcount.metrics import compute

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from bench_sampler_overhead import detrended, interval
from estimator_constants import estimator_constants
from study_tables import lever_savings, load_curve, scatter_words, shape_ratios, shapes
from tables import ROOT, Entry, entries, number, records, table

H200 = ROOT / "data" / "h200"


def main_job(gpu: str = "h200") -> str:
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
        for name, _, m in records(gpu)
    ]
    return table(head, rows)


def sources(gpu: str = "h200") -> str:
    names = ["energy_counter", "power_samples", "power_average", "power_instant", "power_usage"]
    rows = []
    for name, _, m in records(gpu):
        energy = m["energy/gpu_j"]
        assert energy is not None
        values = [m[f"energy_by_source/{source}_j"] for source in names]
        rows.append(
            [name, f"{energy:.0f} J", *(f"{100 * (v / energy - 1):+.2f} %" if v else "-" for v in values)]
        )
    return table(["run", "energy of the window", *(f"`{source}` alone" for source in names)], rows)


def sampler() -> str:
    rows = []
    for name, record, m in records("h200"):
        (health,) = record.info.sampler.values()
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
    return table(head, rows)


def overhead() -> str:
    stretches = pq.read_table(H200 / "sampler_overhead.parquet").to_pandas()
    idle = stretches[stretches["kind"] == "idle"]
    lines = []

    def line(what: str, off: float, found: dict[str, float]) -> None:
        mean, half = found["mean_percent"], found["half_width_percent"]
        lines.append([what, f"{off:.4g}", str(found["pairs"]), f"{mean:+.2f} %", f"{mean - half:+.2f} to {mean + half:+.2f} %"])  # fmt: skip

    def pairwise(chosen: pd.DataFrame, value: pd.Series, what: str) -> None:
        wide = chosen.assign(value=value).pivot_table(
            index=["engine", "pair"], columns="sampler", values="value"
        )
        wide = wide.dropna()
        line(what, wide[False].mean(), interval((wide[True] / wide[False] - 1).to_numpy()))

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
    return table(["figure", "sampler off", "pairs", "on against off", "95 % interval"], lines)


def budget() -> str:
    rows = []
    for name, record, _ in records("h200"):
        ((uuid, energy),) = compute(record)["energy"].items()
        parts = {part: 100 * value / energy["value_j"] for part, value in energy["budget_j"].items()}
        rows.append(
            [
                f"{name} ({uuid[4:8]})",
                f"{energy['value_j']:.0f} J",
                *(f"{parts[part]:.3f} %" for part in ("shape", "edges", "alignment", "timescale")),
                f"{100 * energy['u95_method_j'] / energy['value_j']:.3f} %",
                f"{100 * energy['u95_sensor_j'] / energy['value_j']:.2f} %",
            ]
        )
    return table(["run", "energy", "shape", "edges", "alignment", "timescale", "method", "sensor"], rows)


def period() -> str:
    loads = pq.read_table(H200 / "load_period.parquet").to_pandas()
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
    return table(
        ["period ms", "mean W", "mJ per product, detuned", "their spread", "at the period itself, each load"],
        rows,
    )


def phases() -> str:
    rows = []
    for name, _, m in records("h200"):

        def per(key: str, m: dict[str, float | None] = m) -> str:
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
    return table(["run", "prefill, mJ per token", "decode, mJ per token", "J per request p50 / p95", "J per output token without idle", "condition number"], rows)  # fmt: skip


def reproducible() -> str:
    rows: list[list[str]] = []
    dummies = []
    batches = [
        (record.info.started_utc, record, m)
        for name, record, m in records("h200")
        if name.startswith("llama3_8b, batch of 512") and "fp8" not in name
    ]
    for started, record, m in sorted(batches, key=lambda item: item[0]):
        (gpu,) = record.info.gpus
        # Records of before there was a choice have none.
        initializer = record.info.config["model"].get("initializer", "dummy")
        if initializer == "dummy":
            dummies.append(m["energy/gpu_j_per_output_token"])
        rows.append(
            [
                started[:16].replace("T", " "),
                gpu["uuid"][4:8],
                initializer,
                f"{1e3 * (m['energy/gpu_j_per_output_token'] or math.nan):.2f}",
                f"{1e3 * (m['energy_steady/gpu_j_per_output_token'] or math.nan):.2f}",
                number(m["power/gpu_mean_w"], 4),
                number(m["throughput/output_tokens_per_s"], 4),
            ]
        )
    head = ["UTC", "board", "initialiser", "mJ per output token", "of the steady window", "mean W", "output tokens/s"]  # fmt: skip
    dummy = np.array(dummies)
    stretches = pq.read_table(H200 / "sampler_overhead.parquet").to_pandas()
    batch = stretches[stretches["kind"] == "batch"]
    within = (batch["energy_j"] / batch["tokens"]).to_numpy()
    spread = (
        f"Between {len(dummy)} boards, each on an occasion of its own (`dummy`): sd {100 * dummy.std(ddof=1) / dummy.mean():.2f} %, "
        f"{100 * (dummy.max() / dummy.min() - 1):.1f} % from lowest to highest. Within one occasion, {len(within)} batches of one "
        f"engine on board ebd2: sd {100 * within.std(ddof=1) / within.mean():.2f} %."
    )
    return table(head, rows) + "\n\n" + spread


def trials() -> dict[str, dict[str, Any]]:
    """What came of each model of the catalogue with vLLM on a CPU; `benchmarks/bench_catalogue.py` finds it out."""
    return json.loads((ROOT / "data" / "catalogue" / "vllm_cpu.json").read_text())


def catalogue_models() -> str:
    rows = []
    for name, model in sorted(model_catalogue().items()):
        counted = fit.count_parameters(model.hf_config)
        assert counted is not None
        found = trials().get(name)
        reduced = ", ".join(f"{what} {to} of {of}" for what, (of, to) in sorted(found["reduced"].items(), key=lambda item: item[0] != "layers")) if found else ""  # fmt: skip
        rows.append(
            [
                f"`{name}`",
                model.hf_id or "-",
                str(fit.text_config(model.hf_config)["model_type"]),
                fit.model_kind(model.hf_config),
                number(counted.total / 1e9),
                number(counted.active / 1e9),
                f"{fit.weight_bits(model):.3g}",
                "not tried" if not found else "runs" if found["outcome"] == "ok" else "**does not run**",
                reduced,
            ]
        )
    head = ["option", "hub id", "`model_type`", "kind", "10^9 parameters", "for one token", "bits", "vLLM on a CPU", "reduced to"]  # fmt: skip
    return table(head, rows)


def catalogue_failures() -> str:
    rows = []
    for name, found in sorted(trials().items()):
        if found["outcome"] != "ok":
            message = re.sub(r"^vLLM [a-z ]+: ", "", found["message"])
            message = re.split(r"(?<=[a-z])\. |, activation_key| Reasons:", message)[0].replace("|", "\\|")
            rows.append([f"`{name}`", found["outcome"].replace("_", " "), message])
    return table(["option", "outcome", "what vLLM says"], rows)


def catalogue_summary() -> str:
    found = trials()
    versions = sorted({trial["vllm"] for trial in found.values()})
    ran = sum(trial["outcome"] == "ok" for trial in found.values())
    return f"vLLM {', '.join(versions)}: {ran} of {len(found)} models ran."


def catalogue_gpus() -> str:
    rows = [
        [
            f"`{name}`",
            gpu.architecture or "-",
            gpu.compute_capability or "-",
            *(
                "-" if value is None else f"{value:g}"
                for value in (
                    gpu.memory_gib,
                    gpu.memory_bandwidth_gb_s,
                    gpu.fp16_dense_tflops,
                    gpu.fp8_dense_tflops,
                    gpu.tdp_w,
                )
            ),
            gpu.emulator_profile or "-",
            gpu.source or "-",
        ]
        for name, gpu in sorted(gpu_catalogue().items())
    ]
    head = ["option", "architecture", "compute capability", "GiB", "GB/s", "FP16 TFLOPS", "FP8 TFLOPS", "TDP W", "emulated with the sensors of", "source"]  # fmt: skip
    return table(head, rows)


def found_sensors(gpu: str) -> str:
    """What the short look before a first run found of each board, idle."""
    boards = {}
    for entry in entries(gpu):
        boards |= entry.record.info.characterisation
    rows = []
    for uuid, found in sorted(boards.items()):
        of = found["sources"]
        rows.append(
            [
                uuid[4:8],
                *(f"{of[name]['update_period_ms']:.1f}" for name in ("energy_counter", "power_average", "power_instant", "power_usage")),
                f"{of['power_samples']['update_period_ms']:.2f} x {found['ring']['depth']}",
                f"{100 * found['ring']['lost_share']:.1f} %",
                f"{of['energy_counter']['call_p50_ms']:.1f} / {of['energy_counter']['call_p99_ms']:.1f}",
                "-" if (apart := found["counter"]["power_against_counter"]) is None else f"{100 * apart:+.2f} %",
            ]
        )  # fmt: skip
    head = ["board", "counter, ms", "field 185, ms", "field 186, ms", "GetPowerUsage, ms", "ring, ms x samples", "samples lost", "counter read p50 / p99, ms", "ring against counter"]  # fmt: skip
    return table(head, rows)


def added_times(gpu: str) -> str:
    """Seconds that runs took beside their phases: least, median and most of each kind."""
    runs = [entry.record.info for entry in entries(gpu)]
    starts: dict[str, list[float]] = {"eager": [], "compiled": []}
    for info in runs:
        starts["eager" if info.config["engine"]["enforce_eager"] else "compiled"].append(
            info.timing["engine_start_s"]
        )
    kinds = {
        "what wattcount adds to a run (`run/overhead_s`)": [info.timing["overhead_s"] for info in runs],
        "start of the engine, eager": starts["eager"],
        "start of the engine, compiled": starts["compiled"],
        "pause for cooling down, 8 s at most": [i.cooldown["seconds"] for i in runs if i.cooldown],
    }
    rows = [
        [what, str(len(values)), *(f"{of(values):.1f}" for of in (np.min, np.median, np.max))]
        for what, values in kinds.items()
    ]
    return table(["what", "runs", "least, s", "median, s", "most, s"], rows)


STUDIED = ("h100", "h200")
"""The GPUs of levers.md, by their folders below data/."""


def of(make: Callable[..., str], *gpus: str) -> Callable[[], str]:
    """`make` of the entries of these GPUs, which are read when the table is made."""

    def made() -> str:
        runs: list[tuple[Entry, ...]] = [entries(gpu) for gpu in gpus]
        return make(*runs)

    return made


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "uncertainty.md": {"estimator-constants": estimator_constants},
    "h200.md": {
        "reproducible": reproducible,
        "main-job": main_job,
        "sources": sources,
        "budget": budget,
        "phases": phases,
        "period": period,
        "sampler": sampler,
        "overhead": overhead,
    },
    "h100.md": {
        "main-job": partial(main_job, "h100"),
        "sources": partial(sources, "h100"),
        "sensors": partial(found_sensors, "h100"),
        "times": partial(added_times, "h100"),
    },
    "levers.md": {
        "scatter": of(scatter_words, *STUDIED),
        **{
            f"levers-{gpu}": of(lever_savings, gpu, *(other for other in STUDIED if other != gpu))
            for gpu in STUDIED
        },
        **{f"load-curve-{gpu}": of(load_curve, gpu) for gpu in STUDIED},
        **{f"shapes-{gpu}": of(shapes, gpu) for gpu in STUDIED},
        "gpus": of(shape_ratios, *STUDIED),
    },
    "catalogue.md": {
        "models": catalogue_models,
        "summary": catalogue_summary,
        "failures": catalogue_failures,
        "gpus": catalogue_gpus,
    },
}


def main() -> None:
    for file, tables in TABLES.items():
        path = ROOT / "docs" / file
        text = path.read_text()
        for name, make in tables.items():
            pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.S)
            made = make()
            text, count = pattern.subn(lambda m, made=made: f"{m[1]}{made}\n<!-- /{m[2].split('/')[1]}", text)
            if count != 1:
                raise SystemExit(f"{path}: the markers of the table {name} are missing")
        path.write_text(text)


if __name__ == "__main__":
    main()
