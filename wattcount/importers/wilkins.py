"""grantwilkins/energy-inference: single inferences of 7B models on V100 and A100, one row a phase of a program.

Rows of loading the model and the tokenizer are left out. `Batch Size` is 32 in all, and neither of its columns of tokens says whether the tokens
of all 32 are in it, so there are no joules per token. The energy of the CPU is that of RAPL's packages on Intel and of a tool of
its own on AMD: which one the row does not tell.
"""

from __future__ import annotations

from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="wilkins",
    title="Wilkins: energy of single inferences of 7B models on heterogeneous systems",
    url="https://github.com/grantwilkins/energy-inference",
    licence=None,
    gives="J of one GPU and of the CPUs by inference, its time, lengths; no J per token",
)
COLUMNS = (
    "Phase",
    "Runtime (s)",
    "CPU Energy (J)",
    "GPU Energy (J)",
    "Number of Input Tokens",
    "Iteration",
    "Model",
    "Number of GPUs",
    "Batch Size",
    "System",
)
LIMITS = ("Output Token Limit", "Number of Output Tokens")
"""Columns of the limit of an answer, of which a file has one."""
INFERENCE = ("start-inference", "inference")
"""Begins of the phases that are inferences: on NVIDIA's GPUs, and on the M1."""
PART_OF_A_CHIP = "M1-Pro"
"""System whose GPU is no board: it draws some watts."""
MOST_GPUS = 64
"""Most GPUs that one run can have had: more is a misread column."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    rows = table.read_rows(path, "file of Wilkins", COLUMNS)
    runs = [row for row in rows if row.text("Phase").startswith(INFERENCE)]
    if not runs:
        raise rows[0].wrong(f"no phase begins with {INFERENCE[0]!r}; give a file with inferences")
    return numbered(table.each(runs, _result))


def _result(row: Row) -> Result:
    time_s, gpus = row.number("Runtime (s)", 1e6), row.whole("Number of GPUs", MOST_GPUS)
    system = row.text("System")
    gpu_j = row.measured("GPU Energy (J)")
    ran_over = row.text("CPU Energy (J)").startswith("-")
    cpu_j = None if ran_over else row.measured("CPU Energy (J)")
    gpu = system.rpartition("+")[2]
    if gpu_j is not None and gpu != PART_OF_A_CHIP:
        row.check_power(gpu_j / time_s, gpus, "GPU Energy / Runtime")
    limit = next((limit for name in LIMITS if (limit := row.maybe_whole(name, 10**7))), None)
    return result(
        SOURCE,
        row,
        Setting(
            model=row.text("Model"),
            gpu=gpu,
            num_gpus=gpus,
            engine="transformers",
            batch=row.whole("Batch Size", 10**6),
            input_tokens=row.maybe_whole("Number of Input Tokens", 10**7),
            more={"max_output_tokens": limit, "system": system},
        ),
        {
            "window/duration_s": time_s,
            "energy/gpu_j": gpu_j,
            "energy/cpu_reckoned_j": cpu_j,
            "power/gpu_mean_w": gpu_j / time_s if gpu_j is not None else None,
            "latency/e2e_mean_ms": time_s * 1e3,
        },
        [
            "window is one inference; whether the tokens of all sequences of the batch are counted is not told",
            *(["its CPU energy is below 0: a counter ran over"] if ran_over else []),
            *(
                ["the first of its kind: kernels may have been made ready in it"]
                if row.maybe_whole("Iteration") == 0
                else []
            ),
        ],
        instrument="nvml" if gpu_j is not None and gpu != PART_OF_A_CHIP else None,
    )
