"""chuyishang/inference-energy: printed reports of ten-minute runs of `vllm serve`, one behind the other in a Markdown file.

    # D4 (NVIDIA RTX 6000 Ada - 48GB)       the machine, for all runs below it
    ### Qwen2.5-3B-Instruct                 the model of the next report
    M1  Total energy:  183155.23 J (...)    figures, each with its unit

`Total tokens` are taken for output tokens, as the source does: it divides the time of decoding by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from wattcount.errors import NotStartedError
from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="chuyishang",
    title="chuyishang/inference-energy: four models on A100, RTX 6000 Ada and RTX 3090",
    url="https://github.com/chuyishang/inference-energy",
    licence=None,
    gives="J, W and idle W of one GPU, tokens/s, requests, latency",
)
BEGIN = "PRIMARY MEASUREMENTS (M1-M10)"
"""The line with which the figures of a run begin."""
FIGURES = {
    "Total energy": "J",
    "Total tokens": "",
    "Total time": "s",
    "Average power": "W",
    "Peak power": "W",
    "Idle power": "W",
    "Successful requests": "",
    "Average latency": "s",
}
"""What is read of a report, and its unit."""
SAME = 0.02
"""Most that energy and mean power x time differ [relative]: they agree to five digits."""
_LINE = re.compile(r"(?:[MD]\d+\s+)?([A-Z][A-Za-z ]+):\s+([\d.,]+)\s*([A-Za-z/]*)", re.ASCII)
_MACHINE = re.compile(r"# .*\((?:NVIDIA )?(.+?)\)\s*$")
_MODEL = re.compile(r"### (\S+)\s*$")


def recognises(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return BEGIN.encode() in file.read(table.HEAD_BYTES)
    except OSError:
        return False


def results(path: Path) -> list[Result]:
    rows = list(_rows(path))
    if not rows:
        raise NotStartedError(f"{path}, line 1: no line {BEGIN!r}; give results_paste.md of the source")
    return numbered(table.each(rows, _result))


def _rows(path: Path) -> Iterator[Row]:
    machine = model = ""
    cells: dict[str, str] = {}
    begun = 0
    for number, line in enumerate(table.read_lines(path, "report"), start=1):
        if found := _MODEL.match(line):
            if cells:
                yield Row(path, f"line {begun}", cells)
                cells = {}
            model = found[1]
        elif found := _MACHINE.match(line):
            if cells:
                yield Row(path, f"line {begun}", cells)
                cells = {}
            machine = found[1]
        elif line.strip() == BEGIN:
            begun = number
            cells = {"machine": machine, "model": model}
        elif cells and (found := _LINE.match(line)) and (name := found[1].strip()) in FIGURES:
            if found[3] != FIGURES[name]:
                raise Row(path, f"line {number}", {}).wrong(
                    f"{name} is in {found[3] or 'no unit'!r}, not in {FIGURES[name] or 'no unit'!r}; correct it"
                )
            cells[name] = found[2].replace(",", "")
    if cells:
        yield Row(path, f"line {begun}", cells)


def _result(row: Row) -> Result:
    energy_j, time_s = row.number("Total energy"), row.number("Total time", 1e7)
    tokens, watts = row.whole("Total tokens"), row.number("Average power")
    row.check_power(watts, 1, "Average power")
    if abs(energy_j / (watts * time_s) - 1) > SAME:
        raise row.wrong(
            f"Total energy is {energy_j:g}, but average power x time is {watts * time_s:.4g}; check the units, or leave the run out"
        )
    requests, latency_s = row.maybe_whole("Successful requests"), row.measured("Average latency", 1e6)
    machine = row.text("machine")
    gpu = re.sub(r"\s*-\s*\d+GB$", "", machine)
    return result(
        SOURCE,
        row,
        Setting(
            model=MODELS.get(row.text("model"), row.text("model")),
            gpu=gpu,
            num_gpus=1,
            kind="server",
            engine="vllm",
        ),
        {
            "window/duration_s": time_s,
            "energy/gpu_j": energy_j,
            "energy/gpu_j_per_output_token": energy_j / tokens,
            "energy/gpu_j_per_request": energy_j / requests if requests else None,
            "power/gpu_mean_w": energy_j / time_s,
            "power/gpu_readings_max_w": row.measured("Peak power"),
            "power/idle_reported_w": row.measured("Idle power"),
            "throughput/output_tokens_per_s": tokens / time_s,
            "tokens/output": tokens,
            "requests/completed_in_window": requests or None,
            "latency/e2e_mean_ms": latency_s * 1e3 if latency_s else None,
        },
        ["window is the source's total time; its tokens are taken for output tokens, as it does itself"],
    )


MODELS = {
    "Qwen2.5-3B-Instruct": "Qwen/Qwen2.5-3B-Instruct",
    "Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-7B-Instruct",
    "Meta-Llama-3-8B-Instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "gpt-oss-20b": "openai/gpt-oss-20b",
}
"""Its names of models by their ids on the hub, which it leaves the organisation out of."""
