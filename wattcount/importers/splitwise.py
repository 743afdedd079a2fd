"""Splitwise's performance model: Llama-2-70B and BLOOM-176B on DGX A100 and H100, prompt and token times, power.

Power is a share of the board's 400 W, measured on the A100 only: 0 means not measured. A row of power stands beside 15
rows of times, and when power was read is not told, so there is no energy.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import MAX_GPUS, Row
from wattcount.result import Result

SOURCE = Source(
    name="splitwise",
    title="Splitwise: performance model of Llama-2-70B and BLOOM-176B",
    url="https://github.com/Mutinifni/splitwise-sim",
    licence="MIT",
    gives="W as a share of the A100's limit, prompt and token times, batch, tensor parallelism",
)
COLUMNS = (
    "model",
    "hardware",
    "prompt_size",
    "batch_size",
    "token_size",
    "peak_power",
    "average_power",
    "prompt_time",
    "token_time",
    "e2e_time",
    "tensor_parallel",
)
LIMIT_W = {"a100-80gb": 400.0}
"""Power limit of the boards whose power was measured [W]: DGX A100 has A100-SXM4-80GB."""
GPUS = {
    "a100-80gb": ("NVIDIA A100-SXM4-80GB", None),
    "h100-80gb": ("NVIDIA H100 80GB HBM3", None),
    "h100-80gb-pcap": ("NVIDIA H100 80GB HBM3", "power capped"),
}
"""NVML's names of what `hardware` stands for, and what was set: machines are DGX A100 and DGX H100."""
MOST_SHARE = 1.2
"""Largest share of its limit that a board draws: short peaks pass the limit by some per cent."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    return numbered(table.each(table.read_rows(path, "file of Splitwise", COLUMNS), _result))


def _result(row: Row) -> Result:
    hardware, gpus = row.text("hardware"), row.whole("tensor_parallel", MAX_GPUS)
    mean, peak = row.measured("average_power", MOST_SHARE), row.measured("peak_power", MOST_SHARE)
    limit_w = LIMIT_W.get(hardware)
    if mean is not None and limit_w is None:
        raise row.wrong(
            f"average_power is a share of the power limit of {hardware}, which is not known; leave it 0"
        )
    gpu, lever = GPUS.get(hardware, (hardware, None))
    batch, tokens = row.whole("batch_size", 10**6), row.whole("token_size", 10**7)
    e2e_ms = row.number("e2e_time", 1e9)
    prompt_ms = row.number("prompt_time", 1e9)
    if prompt_ms > e2e_ms:
        raise row.wrong("prompt_time is longer than e2e_time; check the units (ms), or leave the row out")
    notes = [
        "times are those of one static batch",
        "power is the source's share x 400 W x GPUs; when it was read is not told"
        if mean is not None
        else "power was not measured: the source has 0",
    ]
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("model"),
            gpu=gpu,
            num_gpus=gpus,
            tensor_parallel=gpus,
            batch=batch,
            input_tokens=row.whole("prompt_size", 10**7),
            output_tokens=tokens,
            more={"lever": lever},
        ),
        {
            "power/gpu_readings_mean_w": None if mean is None or limit_w is None else mean * limit_w * gpus,
            "power/gpu_readings_max_w": None if peak is None or limit_w is None else peak * limit_w * gpus,
            "throughput/output_tokens_per_s": batch * tokens / (e2e_ms / 1e3),
            "latency/ttft_mean_ms": prompt_ms,
            "latency/tpot_mean_ms": row.number("token_time", 1e9),
            "latency/e2e_mean_ms": e2e_ms,
        },
        notes,
        num_requests=batch,
        instrument="nvml" if mean is not None else None,
    )
