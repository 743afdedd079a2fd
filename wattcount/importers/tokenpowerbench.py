"""TokenPowerBench: batches on a host with two or four H100 NVL, from its results as one CSV.

What the file hides:
    - `gpu_energy` and `gpu_avg_power` add up **all** GPUs of the host; those without work idle at some 60 W. The engine ran on
      those that draw more, and the energy of these is what is compared
    - CPU and DRAM of 0 were not measured, and `total_energy` then repeats the GPUs; where they were measured, it holds
      more than their sum
    - results whose tokens are requests x the limit of an answer did not count them
The name of a result holds engine, model, batch, limit of an answer and local time.
"""

from __future__ import annotations

import re
from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="tokenpowerbench",
    title="TokenPowerBench: Llama 3 on a host with H100 NVL",
    url="https://github.com/chenxuniu/TokenPowerBench",
    licence="MIT",
    gives="J and W of each GPU of the host, of CPUs and DRAM where measured, tokens, batch",
)
COLUMNS = (
    "file",
    "model",
    "duration",
    "total_output_tokens",
    "responses",
    "gpu_avg_power",
    "gpu_energy",
    "cpu_energy",
    "dram_energy",
    "gpu0_power_watts",
    "batch_size",
    "engine",
)
GPU = "NVIDIA H100 NVL"
"""The GPU, by the source's README; the files that tell its memory give 95,830 MiB, which only this H100 has."""
IDLE_MOST_W = 75.0
"""Power of a GPU without work is below this [W]: they draw 60 to 64 W, and the least that one at work draws is 91 W."""
MOST_GPUS = 16
SAME = 0.01
"""Most that sums and products of a row's own figures differ [relative]: they agree to nine digits."""
_LIMIT = re.compile(r"_(\d+)_\d{8}_\d{6}\.")
"""The limit of an answer in a result's name, before date and time."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    return numbered(table.each(table.read_rows(path, "file of TokenPowerBench", COLUMNS), _result))


def _result(row: Row) -> Result:
    duration_s, tokens = row.number("duration", 1e7), row.whole("total_output_tokens")
    each_w = [watts for at in range(MOST_GPUS) if (watts := row.measured(f"gpu{at}_power_watts")) is not None]
    all_w, host_j = row.number("gpu_avg_power"), row.number("gpu_energy")
    row.check_power(all_w, max(len(each_w), 1), "gpu_avg_power")
    if abs(sum(each_w) / all_w - 1) > SAME or abs(host_j / duration_s / all_w - 1) > SAME:
        raise row.wrong(
            "gpu_avg_power is neither the sum of the GPUs' powers nor gpu_energy / duration, as this source has it; "
            "check the units, or leave the row out"
        )
    at_work_w = [watts for watts in each_w if watts >= IDLE_MOST_W]
    if not at_work_w:
        raise row.wrong(f"no GPU draws {IDLE_MOST_W:g} W or more: none was at work; leave the row out")
    energy_j = sum(at_work_w) * duration_s
    responses, batch = row.whole("responses"), row.whole("batch_size", 10**6)
    name = row.text("file")
    limit = int(found[1]) if (found := _LIMIT.search(name)) and len(found[1]) < 8 else None
    counted = limit is None or tokens != responses * limit
    model = re.sub(r"^models--", "", row.text("model")).replace("--", "/")
    model = model if "/" in model else f"meta-llama/{model}" if model.startswith("Llama-3") else model
    cpu_j, dram_j = row.measured("cpu_energy"), row.measured("dram_energy")
    notes = [
        "window is the source's duration of the whole batch run",
        f"the source adds up {len(each_w)} GPUs of the host; these figures are those of the {len(at_work_w)} that drew "
        f"{IDLE_MOST_W:g} W or more",
    ]
    if not counted:
        notes.append(f"tokens are requests x {limit}: the source did not count them")
    return result(
        SOURCE,
        row,
        Setting(
            model=model,
            gpu=GPU,
            num_gpus=len(at_work_w),
            engine=row.text("engine"),
            batch=batch,
            more={"max_output_tokens": limit},
        ),
        {
            "window/duration_s": duration_s,
            "energy/gpu_j": energy_j,
            "energy/host_gpus_j": host_j,
            "energy/gpu_j_per_output_token": energy_j / tokens if counted else None,
            "energy/gpu_j_per_request": energy_j / responses,
            "energy/cpu_package_j": cpu_j,
            "energy/dram_j": dram_j,
            "power/gpu_mean_w": sum(at_work_w),
            "power/cpu_package_mean_w": cpu_j / duration_s if cpu_j else None,
            "throughput/output_tokens_per_s": tokens / duration_s if counted else None,
            "throughput/requests_per_s": responses / duration_s,
            "tokens/output": tokens if counted else None,
            "tokens/output_per_request": tokens / responses if counted else None,
            "requests/completed_in_window": responses,
        },
        notes,
        num_requests=responses,
    )
