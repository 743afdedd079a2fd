"""JouleBench: Hugging Face models in static batches on one A100 80GB PCIe, in two files.

combined_results.csv                one row a model, prompt and batch: means of ten runs with an interval. Its J per token
                                    is **above idle**: (mean power - baseline) / tokens per second
energy_bench_pythia_combined.csv    one row a run; its energy is that of the readings, which in runs of less than
                                    a second miss up to an eighth of the run
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.metrics.metrics_json import Status
from wattcount.result import Result

SOURCE = Source(
    name="joulebench",
    title="JouleBench: 21 models on one A100 80GB PCIe",
    url=None,
    licence="MIT",
    gives="J per output token above idle with its interval, W, idle W, tokens/s, batch, lengths",
)
GPU = "NVIDIA A100 80GB PCIe"
"""The GPU of all its runs, as the file of single runs names it."""
MEANS = (
    "model",
    "precision",
    "prompt_id",
    "batch_size",
    "j_per_tok_mean",
    "j_per_tok_ci_lo",
    "j_per_tok_ci_hi",
    "tok_per_s_mean",
    "mean_watts",
    "baseline_watts",
    "output_tokens_mean",
    "input_tokens_mean",
)
RUNS = (
    "model_id",
    "dtype",
    "quantization_mode",
    "batch_size",
    "input_tokens",
    "output_tokens",
    "elapsed_s",
    "tokens_per_s",
    "avg_watts",
    "joules_total",
    "gpu_name",
)
NET_SAME = 0.15
"""Most that J per token and (power - baseline) / tokens per second differ [relative]: 8 % in short answers, where ratios of means are
not means of ratios. Gross figures lie 30 to 70 % off."""
SUM_SAME = 0.25
"""Most that the energy of a run and mean power x time differ [relative]: the source's is 13 % low in its shortest runs."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *MEANS) or table.has_columns(path, *RUNS)


def results(path: Path) -> list[Result]:
    runs = table.has_columns(path, *RUNS)
    rows = table.read_rows(path, "file of JouleBench", RUNS if runs else MEANS)
    return numbered(table.each(rows, _run if runs else _means))


def _means(row: Row) -> Result:
    net_j, rate = row.number("j_per_tok_mean", 1e6), row.number("tok_per_s_mean", 1e9)
    watts, idle_w = row.number("mean_watts"), row.number("baseline_watts")
    row.check_power(watts, 1, "mean_watts")
    if abs((watts - idle_w) / rate / net_j - 1) > NET_SAME:
        raise row.wrong(
            f"j_per_tok_mean is {net_j:g}, but (mean_watts - baseline_watts) / tok_per_s_mean is {(watts - idle_w) / rate:.4g}: whether "
            "idle is in it cannot be told; check the units, or leave the row out"
        )
    low, high = row.number("j_per_tok_ci_lo", 1e6), row.number("j_per_tok_ci_hi", 1e6)
    batch = row.whole("batch_size", 10**6)
    precision = row.text("precision")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu=GPU,
            num_gpus=1,
            engine="transformers",
            dtype={"fp16": "float16", "bf16": "bfloat16"}.get(precision),
            quantization=None if precision in ("fp16", "bf16") else precision,
            batch=batch,
            more={"task": row.text("prompt_id")},
        ),
        {
            "energy/gpu_j_per_output_token": watts / rate,
            "energy/gpu_j_above_idle_per_output_token": net_j,
            "power/gpu_readings_mean_w": watts,
            "power/idle_reported_w": idle_w,
            "throughput/output_tokens_per_s": rate,
            "tokens/output_per_request": row.number("output_tokens_mean", 1e7),
            "tokens/input_per_request": row.number("input_tokens_mean", 1e7),
        },
        [
            f"means of {row.maybe_whole('n_runs') or 'several'} runs; 95 % interval of J per token above idle: {low:g} to {high:g}",
            "J per output token is mean power / mean tokens per second; the source publishes the one above idle",
        ],
        scenario=row.text("prompt_id"),
        num_requests=batch,
    )


def _run(row: Row) -> Result:
    if error := row.maybe_text("error"):
        return result(
            SOURCE,
            row,
            Setting(model=row.text("model_id"), gpu=row.text("gpu_name"), num_gpus=1, engine="transformers"),
            {},
            [],
            status=Status.failed,
            reasons=("failed_at_its_source",),
            messages=(error,),
        )
    energy_j, elapsed_s = row.number("joules_total"), row.number("elapsed_s", 1e6)
    tokens, watts = row.whole("output_tokens"), row.number("avg_watts")
    row.check_power(watts, 1, "avg_watts")
    if abs(energy_j / (watts * elapsed_s) - 1) > SUM_SAME:
        raise row.wrong(
            f"joules_total is {energy_j:g}, but avg_watts x elapsed_s is {watts * elapsed_s:.4g}; check the units, or leave the row out"
        )
    batch, mode = row.whole("batch_size", 10**6), row.text("quantization_mode")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model_id"),
            gpu=row.text("gpu_name"),
            num_gpus=1,
            engine="transformers",
            engine_version=row.maybe_text("transformers_version"),
            dtype=row.text("dtype"),
            quantization=None if mode == "none" else mode,
            batch=batch,
            more={"context_tokens": row.maybe_whole("context_len")},
        ),
        {
            "window/duration_s": elapsed_s,
            "energy/gpu_j": energy_j,
            "energy/gpu_j_per_output_token": energy_j / tokens,
            "power/gpu_readings_mean_w": watts,
            "throughput/output_tokens_per_s": tokens / elapsed_s,
            "tokens/output": tokens,
            "tokens/input": row.maybe_whole("input_tokens"),
        },
        [
            f"the energy is that between power readings: {energy_j / (watts * elapsed_s):.1%} of mean power x time"
        ],
        num_requests=batch,
        driver=row.maybe_text("driver_version"),
    )
