"""InferenceX (InferenceMAX before) rows, as its API, its exports and its aggregates write them.

    JSON   rows of the API: facts of the run, and figures below `metrics`; in a list, or below `rows` with metadata
    JSON   `agg_*.json` of a run: facts (`hw`, `tp`, `conc`, ...) and figures side by side
    CSV    PowerX's export: facts and figures side by side

`avg_power_w` is per GPU. With `power_metric_schema_version` 2 the `joules_per_*` are energy of the whole deployment; before
that they could be those of one role, and are left out. `power_valid` 0 means that the source withdrew its power. Latencies are in seconds.
`num_prefill_gpu` and `num_decode_gpu` count tensor times expert parallelism, more than there are: the number of GPUs is
total power / power of one, or tensor x pipeline x context parallelism of a deployment that is not split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import MAX_GPUS, Row
from wattcount.result import Result

SOURCE = Source(
    name="inferencex",
    title="SemiAnalysis: InferenceX",
    url="https://github.com/SemiAnalysisAI/InferenceX",
    licence=None,
    gives="J per output, input and total token and W of all GPUs, tokens/s, TTFT, TPOT, ITL and end-to-end latency",
)
POWER_SCHEMA = 2
"""Version of its power figures whose energies are those of the whole deployment."""
CSV_COLUMNS = (
    "hardware",
    "framework",
    "precision",
    "isl",
    "osl",
    "conc",
    "avg_power_w",
    "joules_per_output_token",
)
MODELS = {
    "gptoss120b": "openai/gpt-oss-120b",
    "gptoss20b": "openai/gpt-oss-20b",
    "llama70b": "meta-llama/Llama-3.3-70B-Instruct",
}
"""Its short names of models that are in our catalogue."""
GPUS = {"h100": "h100", "h200": "h200", "b200": "b200", "b300": "b300", "gb200": "gb200", "gb300": "gb300"}
"""Its names of NVIDIA's GPUs, all SXM or superchips, and our options."""
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
"""Its precisions that are no quantisation."""
WHOLE = 0.02
"""Most that total power / power of one GPU lies from a whole number: both are rounded to milliwatts."""
LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2el": "e2e"}
"""Its names of latencies, and ours."""
PERCENTILES = {"median": "p50", "p95": "p95", "p99": "p99"}
"""Its names of percentiles, and ours."""


def recognises(path: Path) -> bool:
    return (
        table.has_columns(path, *CSV_COLUMNS)
        or table.begins_with_keys(path, "hw", "conc", "precision")
        or table.begins_with_keys(path, "hardware", "framework", "precision")
        or table.begins_with_keys(path, "metric_coverage", "selected_rows")
    )


def results(path: Path) -> list[Result]:
    if table.has_columns(path, *CSV_COLUMNS):
        rows = table.read_rows(path, "export of InferenceX", CSV_COLUMNS)
        return numbered(table.each(rows, _result))
    content = table.read_json(path, "file of InferenceX")
    return numbered(
        table.each([_flat(path, at, row) for at, row in enumerate(_rows(path, content))], _result)
    )


def _rows(path: Path, content: Any) -> list[Any]:
    if isinstance(content, dict):
        content = content.get("rows", [content])
    if not isinstance(content, list) or not content:
        raise table.group(path, "content", {}).wrong("no rows; export them again")
    return content


def _flat(path: Path, at: int, row: Any) -> Row:
    facts = table.group(path, f"row {at + 1}", row)
    figures = table.group(path, f"row {at + 1}, metrics", facts.cells.get("metrics") or {})
    return Row(path, facts.where, {**facts.cells, **figures.cells})


def _result(row: Row) -> Result:
    hardware = row.maybe_text("hardware") or row.text("hw")
    valid = row.maybe_number("power_valid", 1)
    schema = row.maybe_number("power_metric_schema_version", 1000)
    split = _true(row, "disagg")
    notes = ["a fixed number of requests in flight; window is the source's benchmark run"]
    each_w = total_w = energy_j = None
    per_token: dict[str, float | None] = {}
    if valid == 0:
        notes.append("the source withdrew its power: not valid")
    else:
        each_w = row.measured("avg_power_w")
        total_w, energy_j = row.measured("avg_total_gpu_power_w"), row.measured("total_gpu_energy_j", 1e15)
        if each_w is not None:
            row.check_power(each_w, 1, "avg_power_w")
        if schema == POWER_SCHEMA:
            per_token = {
                name: row.measured(f"joules_per_{name}_token", 1e6) for name in ("output", "input", "total")
            }
        elif row.given("joules_per_output_token"):
            notes.append("joules per token left out: before version 2 they may be those of one role")
    gpus = _gpus(row, each_w, total_w, split)
    if total_w is None and each_w is not None and gpus is not None:
        total_w = each_w * gpus
    if total_w is not None and gpus is not None:
        row.check_power(total_w, gpus, "avg_total_gpu_power_w")
    output_j = per_token.get("output")
    rate = _rate(row, gpus, split)
    if rate is None and total_w is not None and output_j is not None:
        rate = total_w / output_j
        notes.append("tokens/s is power / J per output token")
    metrics: dict[str, float | None] = {
        "window/duration_s": energy_j / total_w if energy_j and total_w else None,
        "energy/gpu_j": energy_j,
        "energy/gpu_j_per_output_token": output_j,
        "energy/gpu_j_per_input_token": per_token.get("input"),
        "energy/gpu_j_per_total_token": per_token.get("total"),
        "energy/gpu_j_per_request": row.measured("joules_per_successful_query")
        if schema == POWER_SCHEMA and valid != 0
        else None,
        "power/gpu_mean_w": total_w,
        "power/gpu_each_mean_w": each_w if gpus is None else None,
        "throughput/output_tokens_per_s": rate,
    }
    for theirs, ours in LATENCIES.items():
        for name, key in PERCENTILES.items():
            seconds = row.measured(f"{name}_{theirs}", 1e5)
            metrics[f"latency/{ours}_{key}_ms"] = None if seconds is None else seconds * 1e3
    for theirs, key in (("ttft", "ttft"), ("tpot", "tpot"), ("e2el", "e2e")):
        seconds = row.measured(f"mean_{theirs}", 1e5)
        metrics[f"latency/{key}_mean_ms"] = None if seconds is None else seconds * 1e3
    precision = row.maybe_text("precision")
    model, tp = row.text("model"), row.maybe_whole("tp", MAX_GPUS) or row.maybe_whole("decode_tp", MAX_GPUS)
    return result(
        SOURCE,
        row,
        Setting(
            model=MODELS.get(model.lower(), model),
            gpu=hardware,
            gpu_option=GPUS.get(hardware.lower().partition("-")[0]),
            num_gpus=gpus,
            kind="concurrency",
            engine=row.maybe_text("framework"),
            dtype=DTYPES.get(precision or ""),
            quantization=None if precision in DTYPES else precision,
            tensor_parallel=None if split else tp,
            expert_parallel=None
            if split
            else row.maybe_whole("ep", MAX_GPUS) or row.maybe_whole("decode_ep", MAX_GPUS),
            in_flight=row.maybe_whole("conc", 10**7),
            input_tokens=row.maybe_whole("isl", 10**8),
            output_tokens=row.maybe_whole("osl", 10**8),
            more={"disaggregated": split or None, "speculative": row.maybe_text("spec_method")},
        ),
        metrics,
        notes,
    )


def _true(row: Row, name: str) -> bool:
    return row.cells.get(name) in (True, "true", "True", "1", 1)


def _gpus(row: Row, each_w: float | None, total_w: float | None, split: bool) -> int | None:
    if each_w and total_w:
        count = total_w / each_w
        if abs(count - round(count)) > WHOLE or not 1 <= round(count) <= MAX_GPUS:
            raise row.wrong(
                f"avg_total_gpu_power_w / avg_power_w is {count:.4g}, no number of GPUs; check the units (W, of one GPU)"
            )
        return round(count)
    if split or _true(row, "is_multinode"):
        return None
    gpus = 1
    for names in (("tp", "decode_tp"), ("pp",), ("pcp_size",)):
        given = [size for name in names if (size := row.maybe_whole(name, MAX_GPUS))]
        gpus *= given[0] if given else 1
    return gpus if row.given("tp") or row.given("decode_tp") else None


def _rate(row: Row, gpus: int | None, split: bool) -> float | None:
    """Output tokens per second of the deployment; None where `per GPU` may be per GPU of one role."""
    each = row.measured("output_tput_per_gpu", 1e9)
    return None if each is None or gpus is None or split else each * gpus
