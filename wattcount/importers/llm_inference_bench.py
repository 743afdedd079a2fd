"""LLM-Inference-Bench of Argonne: static batches of Llama-2-7B and Llama-3-8B, with the mean power of one GPU.

`avg_power` is in **milliwatts**. `Throughput` counts input and output tokens: it is batch x 2 x length / latency, which
is checked, for each prompt and each answer has `Input Output Length` tokens. `All_results.csv` has no power.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import MAX_GPUS, Row
from wattcount.result import Result

SOURCE = Source(
    name="llm-inference-bench",
    title="Argonne Leadership Computing Facility: LLM-Inference-Bench",
    url="https://github.com/argonne-lcf/LLM-Inference-Bench",
    licence="BSD-3-Clause",
    gives="W of one GPU, latency of a batch, input and output tokens/s",
)
COLUMNS = (
    "Hardware",
    "Num of Hardware",
    "Framework",
    "Model",
    "Input Output Length",
    "Batch Size",
    "Latency",
    "Throughput",
)
MW_PER_W = 1e3
SAME = 0.02
"""Most that Throughput and batch x 2 x length / latency differ [relative]: some frameworks stop a few tokens early."""
GPUS = {
    "Nvidia A100 GPU": ("A100", None),
    "Nvidia H100 GPU": ("H100", "h100"),
    "Nvidia GH200 GPU": ("GH200", "gh200"),
}
"""Names of GPUs, and our options. Its H100 are SXM: they draw more than the 400 W that others are limited to. Its A100 draw more
than one on PCIe, and whether they have 40 or 80 GB the file does not tell."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    return numbered(table.each(table.read_rows(path, "file of LLM-Inference-Bench", COLUMNS), _result))


def _result(row: Row) -> Result:
    batch, length = row.whole("Batch Size", 10**6), row.whole("Input Output Length", 10**7)
    latency_s, total_rate = row.number("Latency", 1e6), row.number("Throughput", 1e9)
    both = abs(total_rate * latency_s / (batch * 2 * length) - 1) <= SAME
    gpus = row.whole("Num of Hardware", MAX_GPUS)
    watts = row.measured("avg_power")
    if watts is not None:
        if not both:
            raise row.wrong(
                f"Throughput is {total_rate:g}, not batch x 2 x length / latency = {batch * 2 * length / latency_s:.4g}, as this "
                "source has it: which tokens it counts cannot be told; correct it or leave the row out"
            )
        watts = row.check_power(watts / MW_PER_W, 1, "avg_power in milliwatts") * gpus
    tokens = batch * length
    hardware = row.text("Hardware")
    gpu, option = GPUS.get(hardware, (hardware, None))
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("Model"),
            gpu=gpu,
            gpu_option=option,
            num_gpus=gpus,
            engine=row.text("Framework"),
            tensor_parallel=gpus,
            batch=batch,
            input_tokens=length,
            output_tokens=length,
        ),
        {
            "window/duration_s": latency_s,
            "energy/gpu_j_per_output_token": watts * latency_s / tokens
            if watts is not None and both
            else None,
            "power/gpu_readings_mean_w": watts,
            "throughput/output_tokens_per_s": tokens / latency_s if both else None,
            "throughput/total_tokens_per_s": total_rate,
            "latency/e2e_mean_ms": latency_s * 1e3,
        },
        [
            "a static batch, from its start to its last token",
            "J per output token is the mean of power readings x latency / output tokens; the source does not tell when it read power"
            if watts is not None
            else "no power was measured",
        ],
        num_requests=batch,
        instrument="nvml" if watts is not None else None,
    )
