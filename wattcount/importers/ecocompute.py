"""ecocompute: what quantisation costs on RTX 4090 and 5090, T4 and A800, with Hugging Face and bitsandbytes.

runs of one batch size     `rtx4090_*.csv`: one row a run of one model, with its energy per 1,000 tokens
A800 by batch size         `a800_mistral7b_batch_size_raw.csv`: Mistral-7B in 4 bit, as the name of the file says; repeats
`measured.csv`             two energies a row, of FP16 and quantised: two results
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="ecocompute",
    title="ecocompute: energy of quantised models on single GPUs",
    url="https://github.com/hongping-zh/ecocompute-ai",
    licence=None,
    gives="J per output token, W, tokens/s of one GPU in FP16, INT8 and NF4",
)
RUNS = (
    "gpu",
    "model",
    "precision",
    "batch_size",
    "generated_tokens_per_iter",
    "energy_j_per_1k_tok",
    "throughput_tok_s",
    "avg_power_w",
    "total_energy_j",
)
BATCHES = (
    "batch_size",
    "total_time_s",
    "throughput_tok_s",
    "avg_power_w",
    "total_energy_j",
    "energy_per_1k_tokens_j",
    "tokens_generated",
)
PAIRS = ("gpu", "model", "precision", "energy_fp16_j1k", "energy_quant_j1k", "n_runs", "n_trials")
SAME = 0.05
"""Most that J per token and power / tokens per second differ [relative]: means of readings and of runs."""


def recognises(path: Path) -> bool:
    return any(table.has_columns(path, *columns) for columns in (RUNS, BATCHES, PAIRS))


def results(path: Path) -> list[Result]:
    for columns, read in ((RUNS, _run), (BATCHES, _batch)):
        if table.has_columns(path, *columns):
            return numbered(table.each(table.read_rows(path, "file of ecocompute", columns), read))
    rows = table.read_rows(path, "file of ecocompute", PAIRS)
    return numbered(item for pair in table.each(rows, lambda row: list(_pair(row))) for item in pair)


def _checked(row: Row, j_per_token: float, watts: float, rate: float) -> None:
    row.check_power(watts, 1, "avg_power_w")
    if abs(watts / rate / j_per_token - 1) > SAME:
        raise row.wrong(
            f"J per token is {j_per_token:.4g}, but power / tokens per second is {watts / rate:.4g}; check the units, or leave the row out"
        )


def _run(row: Row) -> Result:
    j_per_token, watts, rate = (
        row.number("energy_j_per_1k_tok") / 1000,
        row.number("avg_power_w"),
        row.number("throughput_tok_s", 1e9),
    )
    _checked(row, j_per_token, watts, rate)
    precision = row.text("precision")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu=row.text("gpu"),
            num_gpus=1,
            engine="transformers",
            engine_version=row.maybe_text("transformers"),
            dtype="float16" if precision == "FP16" else None,
            quantization=None if precision == "FP16" else precision.lower(),
            batch=row.whole("batch_size", 10**6),
            output_tokens=row.whole("generated_tokens_per_iter", 10**7),
        ),
        {
            "energy/gpu_j": row.number("total_energy_j"),
            "energy/gpu_j_per_output_token": j_per_token,
            "power/gpu_readings_mean_w": watts,
            "throughput/output_tokens_per_s": rate,
        },
        ["window: the source's measured iterations of one prompt, after a warm-up"],
        num_requests=row.whole("batch_size", 10**6),
        driver=row.maybe_text("nvidia_driver"),
    )


def _batch(row: Row) -> Result:
    time_s, tokens = row.number("total_time_s", 1e7), row.whole("tokens_generated")
    energy_j, watts = row.number("total_energy_j"), row.number("avg_power_w")
    _checked(row, energy_j / tokens, watts, tokens / time_s)
    batch = row.whole("batch_size", 10**6)
    return result(
        SOURCE,
        row,
        Setting(batch=batch, engine="transformers"),
        {
            "window/duration_s": time_s,
            "energy/gpu_j": energy_j,
            "energy/gpu_j_per_output_token": energy_j / tokens,
            "power/gpu_mean_w": energy_j / time_s,
            "power/gpu_readings_mean_w": watts,
            "throughput/output_tokens_per_s": tokens / time_s,
            "tokens/output": tokens,
        },
        ["one static batch; neither model nor GPU is in the file, only in its name"],
        num_requests=batch,
    )


def _pair(row: Row) -> Iterator[Result]:
    for column, precision in (("energy_fp16_j1k", None), ("energy_quant_j1k", row.text("precision"))):
        if not row.given(column):
            continue
        yield result(
            SOURCE,
            Row(row.path, row.where, {**row.cells, "which": column}),
            Setting(
                model=row.text("model"),
                gpu=row.text("gpu"),
                num_gpus=1,
                engine="transformers",
                dtype=None if precision else "float16",
                quantization=precision.lower() if precision else None,
            ),
            {"energy/gpu_j_per_output_token": row.number(column, 1e9) / 1000},
            [
                f"mean of {row.maybe_whole('n_trials') or 1} trials; batch size, lengths and window are not in the file"
            ],
        )
