"""ML.ENERGY's leaderboard, versions 1 to 3, as flat CSV files: one row a model, GPU and batch size.

    v1 (2023)   one response at a time: mean energy, latency and length of a response
    v2 (2024)   vLLM with a full batch, in steady state: until no request waits any more
    v3 (2025)   the same, with percentiles of the gaps between tokens

Of v2 and v3 the energy of a request is that of a token times the mean length of an answer, and power is that of a
token times the tokens per second: both follow from energy, tokens and length of the steady state. So joules per
output token and mean power mean what ours do.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import MAX_GPUS, Row
from wattcount.result import Result

SOURCE = Source(
    name="mlenergy",
    title="ML.ENERGY: leaderboard versions 1, 2 and 3",
    url="https://github.com/ml-energy/benchmark",
    licence="Apache-2.0",
    gives="J and W of all GPUs, tokens/s, batch size, tensor parallelism, lengths, ITL or TPOT",
)

V1 = ("gpu", "task", "model", "throughput", "response_length", "latency", "energy")
V2 = (
    "Model",
    "GPU",
    "TP",
    "PP",
    "Energy/req (J)",
    "Avg TPOT (s)",
    "Token tput (tok/s)",
    "Avg Output Tokens",
    "Avg BS (reqs)",
    "Max BS (reqs)",
)
V3 = (
    "model_id",
    "task",
    "prec",
    "gpu",
    "num_gpus",
    "tp",
    "max_num_seqs",
    "avg_batch_size",
    "avg_output_len",
    "energy_per_request_joules",
    "energy_per_token_joules",
    "output_throughput_tokens_per_sec",
)
"""Columns by which a version is recognised, and which must be there."""

GPUS_V3 = {"H100": "h100"}
"""Options of the names in v3. Its H100 are SXM: alone they draw up to 694 W, and those on PCIe and NVL are limited to 350 and 400 W."""
SAME = 0.01
"""Most that two figures of a row may differ which follow from each other [relative]: they are given in full, and 1 % is a wrong column."""


def recognises(path: Path) -> bool:
    return any(table.has_columns(path, *columns) for columns in (V1, V2, V3))


def results(path: Path) -> list[Result]:
    for columns, read in ((V3, _v3), (V2, _v2), (V1, _v1)):
        if table.has_columns(path, *columns):
            rows = table.read_rows(path, "file of ML.ENERGY", columns)
            return numbered(table.each(rows, read))
    table.read_rows(path, "file of ML.ENERGY", V3)
    raise AssertionError("a table without these columns was read")


def _v1(row: Row) -> Result:
    energy_j, latency_s = row.number("energy"), row.number("latency", 1e6)
    tokens = row.number("response_length", 1e7)
    watts = row.check_power(energy_j / latency_s, 1, "energy / latency")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu=row.text("gpu"),
            num_gpus=1,
            batch=1,
            more={"task": row.text("task"), "edition": "v1"},
        ),
        {
            "energy/gpu_j_per_output_token": energy_j / tokens,
            "energy/gpu_j_per_request": energy_j,
            "power/gpu_mean_w": watts,
            "throughput/output_tokens_per_s": tokens / latency_s,
            "latency/e2e_mean_ms": latency_s * 1e3,
            "tokens/output_per_request": tokens,
        },
        [
            "ML.ENERGY v1: one response at a time; means over responses, prefill included",
            "tokens/s is mean length / mean latency; the source's own mean of each response's rate is "
            f"{row.number('throughput', 1e9):g}",
        ],
        scenario=row.text("task"),
    )


def _v2(row: Row) -> Result:
    j_per_request, tokens = row.number("Energy/req (J)"), row.number("Avg Output Tokens", 1e7)
    rate, tp, pp = row.number("Token tput (tok/s)", 1e9), row.whole("TP", MAX_GPUS), row.whole("PP", MAX_GPUS)
    watts = row.check_power(j_per_request / tokens * rate, tp * pp, "energy x tokens/s")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("Model"),
            gpu=row.text("GPU"),
            num_gpus=tp * pp,
            engine="vllm",
            tensor_parallel=tp,
            pipeline_parallel=pp,
            batch=row.whole("Max BS (reqs)", 10**6),
            more={"task": row.maybe_text("task"), "edition": "v2"},
        ),
        {
            "energy/gpu_j_per_output_token": j_per_request / tokens,
            "energy/gpu_j_per_mean_request": j_per_request,
            "power/gpu_mean_w": watts,
            "throughput/output_tokens_per_s": rate,
            "latency/tpot_mean_ms": row.number("Avg TPOT (s)", 1e4) * 1e3,
            "engine/running_mean": row.number("Avg BS (reqs)", 1e6),
            "tokens/output_per_request": tokens,
        },
        [
            "ML.ENERGY v2: window is the steady state, until no request waits any more",
            "J per output token is the source's energy of a request / mean length, power that x tokens/s: both as it defines them",
        ],
        scenario=row.maybe_text("task"),
    )


def _v3(row: Row) -> Result:
    j_per_token, rate = (
        row.number("energy_per_token_joules", 1e6),
        row.number("output_throughput_tokens_per_sec", 1e9),
    )
    gpus, tokens = row.whole("num_gpus", MAX_GPUS), row.number("avg_output_len", 1e7)
    watts = row.check_power(j_per_token * rate, gpus, "energy_per_token_joules x tokens/s")
    j_per_request = row.number("energy_per_request_joules")
    if abs(j_per_token * tokens / j_per_request - 1) > SAME:
        raise row.wrong(
            "energy_per_request_joules is not energy_per_token_joules x avg_output_len, as this source has it; "
            "is a column shifted, or a unit another?"
        )
    gpu = row.text("gpu")
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model_id"),
            gpu=gpu,
            gpu_option=GPUS_V3.get(gpu),
            num_gpus=gpus,
            engine="vllm",
            dtype=row.text("prec") if row.text("prec") == "bfloat16" else None,
            quantization=row.text("prec") if row.text("prec") != "bfloat16" else None,
            tensor_parallel=row.whole("tp", MAX_GPUS),
            expert_parallel=row.maybe_whole("ep", MAX_GPUS),
            data_parallel=row.maybe_whole("dp", MAX_GPUS),
            batch=row.whole("max_num_seqs", 10**6),
            more={"task": row.text("task"), "edition": "v3"},
        ),
        {
            "energy/gpu_j_per_output_token": j_per_token,
            "energy/gpu_j_per_mean_request": j_per_request,
            "power/gpu_mean_w": watts,
            "throughput/output_tokens_per_s": rate,
            "latency/itl_p50_ms": row.maybe_number("median_itl_ms", 1e7),
            "latency/itl_p95_ms": row.maybe_number("p95_itl_ms", 1e7),
            "latency/itl_p99_ms": row.maybe_number("p99_itl_ms", 1e7),
            "engine/running_mean": row.number("avg_batch_size", 1e6),
            "tokens/output_per_request": tokens,
        },
        [
            "ML.ENERGY v3: window is the steady state, with the batch full",
            "power is J per output token x tokens/s: the source measures energy",
        ],
        scenario=row.text("task"),
    )
