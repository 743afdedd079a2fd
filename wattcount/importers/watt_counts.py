"""Watt Counts' CSV: one row a run of vLLM, of a batch of 1,000 prompts or a server with Poisson arrivals.

Fifteen columns: an unnamed index, and those of COLUMNS. The last four hold lists written as text, one number a
request. `lambda_qps` is empty for a batch, which has no time to first token and one end-to-end latency, that of all.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.metrics.observations import percentile
from wattcount.result import Result

SOURCE = Source(
    name="watt-counts",
    title="Watt Counts: 49 models on 8 GPUs (arXiv 2604.09048)",
    url="https://arxiv.org/abs/2604.09048",
    licence=None,
    gives="J and W of one GPU, tokens, rate, TTFT and end-to-end latency by request, lengths",
)

COLUMNS = (
    "model",
    "gpu_type",
    "lambda_qps",
    "generation_tokens_total",
    "measurement_duration",
    "gpu_energy",
    "gpu_0_power_draw_watts_mean",
    "gpu_0_power_draw_watts_min",
    "gpu_0_power_draw_watts_max",
    "gpu_0_power_draw_watts_std",
    "time_to_first_token_seconds_events",
    "e2e_request_latency_seconds_events",
    "request_generation_tokens",
    "request_prompt_tokens",
)
"""Columns of the file, after an index without a name. `gpu_energy` is in J or mJ, power in W, times in s; the last four hold lists, written as text."""
AGREE = 2.0
"""Most that the energy and mean power x duration differ by [ratio]: more is another unit. The energy of a short run misses some readings."""
MJ_PER_J = 1e3
"""Millijoules in a joule: NVML's counter is in millijoules, and some files keep them."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    return numbered(table.each(table.read_rows(path, "file of Watt Counts", COLUMNS), _result))


def _result(row: Row) -> Result:
    duration_s, readings_w = (
        row.number("measurement_duration", 1e7),
        row.number("gpu_0_power_draw_watts_mean"),
    )
    row.check_power(readings_w, 1, "gpu_0_power_draw_watts_mean")
    energy_j, note = _energy_j(row, readings_w * duration_s)
    tokens = row.measured("generation_tokens_total")
    rate = row.maybe_number("lambda_qps", 1e6)
    ttft_s = row.numbers("time_to_first_token_seconds_events")
    e2e_s = row.numbers("e2e_request_latency_seconds_events")
    lengths, prompts = row.numbers("request_generation_tokens"), row.numbers("request_prompt_tokens")
    server = rate is not None
    metrics = {
        "window/duration_s": duration_s,
        "energy/gpu_j": energy_j,
        "energy/gpu_j_per_output_token": energy_j / tokens if tokens else None,
        "power/gpu_mean_w": energy_j / duration_s,
        "power/gpu_readings_mean_w": readings_w,
        "power/gpu_readings_max_w": row.measured("gpu_0_power_draw_watts_max"),
        "throughput/output_tokens_per_s": tokens / duration_s if tokens else None,
        "tokens/output": tokens,
        "tokens/output_per_request": _mean(lengths),
        "tokens/input_per_request": _mean(prompts),
    }
    if server:
        for key, values in (("ttft", ttft_s), ("e2e", e2e_s)):
            for p in (50, 95, 99):
                found, _ = percentile(values, p)
                metrics[f"latency/{key}_p{p}_ms"] = None if found is None else found * 1e3
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu=row.text("gpu_type"),
            num_gpus=1,
            kind="server" if server else "batch",
            engine="vllm",
            rate_rps=rate,
        ),
        metrics,
        ["window is the source's measurement_duration, in which all requests ended", *note],
        num_requests=len(lengths) or (len(e2e_s) if server else None) or None,
    )


def _energy_j(row: Row, about_j: float) -> tuple[float, list[str]]:
    """Energy [J], with a note where it was in another unit: power and duration tell which."""
    given = row.number("gpu_energy", 1e15)
    for factor, note in ((1.0, []), (MJ_PER_J, ["gpu_energy was in millijoules, as power x duration shows"])):
        if 1 / AGREE <= given / factor / about_j <= AGREE:
            return given / factor, note
    raise row.wrong(
        f"gpu_energy is {given:g}, but mean power x duration makes {about_j:.4g} J: neither joules nor millijoules; check the units"
    )


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
