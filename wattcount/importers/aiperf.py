"""AIPerf's summary of a run, `profile_export_aiperf.json`.

Each figure is a group with `unit` and statistics. `inter_token_latency` is (end to end - TTFT) / (output tokens - 1) of a
request: our TPOT. Power is `telemetry_data`: by endpoint and GPU, `nvidia_power_usage` (`gpu_power_usage` before),
the mean of the readings during the run. All GPUs that were seen are counted, whether or not they served.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, result
from wattcount.importers.table import Row
from wattcount.result import Result

SOURCE = Source(
    name="aiperf",
    title="AIPerf: profile_export_aiperf.json",
    url="https://github.com/ai-dynamo/aiperf",
    licence=None,
    gives="W and J of all GPUs seen, tokens/s, requests/s, TTFT, TPOT and end-to-end latency, lengths, errors",
)
POWER = ("nvidia_power_usage", "gpu_power_usage", "amd_power")
"""Names of a GPU's power, the newest first."""
MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}
SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "ns": 1e-9}
WATTS = {"W": 1.0, "mW": 1e-3, "kW": 1e3}
PER_S = {"tokens/sec": 1.0, "tokens/s": 1.0, "requests/sec": 1.0, "requests/s": 1.0}
COUNTS = {"requests": 1.0, "tokens": 1.0, "count": 1.0}
"""Our unit in each of theirs."""
LATENCIES = {"time_to_first_token": "ttft", "inter_token_latency": "tpot", "request_latency": "e2e"}
"""Its names of latencies, and ours. Its inter-token latency is (E2E - TTFT) / (output tokens - 1): our TPOT."""


def recognises(path: Path) -> bool:
    return table.begins_with_keys(path, "aiperf_version") or table.begins_with_keys(
        path, "request_throughput", "unit"
    )


def results(path: Path) -> list[Result]:
    row = table.group(path, "content", table.read_json(path, "summary of AIPerf"))
    return table.each([row], _result)


def _result(row: Row) -> Result:
    window_s = _value(row, "benchmark_duration", "avg", SECONDS)
    tokens = _value(row, "total_output_tokens", "avg", COUNTS) or _value(row, "total_osl", "avg", COUNTS)
    gpus = list(_gpus(row))
    watts = sum(power for _, _, power in gpus) if gpus else None
    if watts is not None:
        row.check_power(watts, len(gpus), "telemetry_data")
    energy_j = watts * window_s if watts is not None and window_s else None
    metrics: dict[str, float | None] = {
        "window/duration_s": window_s,
        "energy/gpu_j": energy_j,
        "energy/gpu_j_per_output_token": energy_j / tokens if energy_j is not None and tokens else None,
        "power/gpu_readings_mean_w": watts,
        "throughput/output_tokens_per_s": _value(row, "output_token_throughput", "avg", PER_S),
        "throughput/requests_per_s": _value(row, "request_throughput", "avg", PER_S),
        "tokens/output": tokens,
        "tokens/output_per_request": _value(row, "output_sequence_length", "avg", COUNTS),
        "tokens/input_per_request": _value(row, "input_sequence_length", "avg", COUNTS),
        "requests/completed": _value(row, "request_count", "avg", COUNTS),
        "requests/failed": _value(row, "error_request_count", "avg", COUNTS),
    }
    for theirs, ours in LATENCIES.items():
        for p in ("p50", "p95", "p99"):
            metrics[f"latency/{ours}_{p}_ms"] = _value(row, theirs, p, MS)
    if not any(
        value for key, value in metrics.items() if key.startswith(("throughput/", "latency/", "power/"))
    ):
        raise row.wrong("no figure of AIPerf is in it; give its profile_export_aiperf.json")
    notes = ["window is the source's benchmark_duration, ramp-up and end included"]
    if gpus:
        notes.append(
            f"energy is the mean of power readings x that, of all {len(gpus)} GPUs that were seen, at work or not"
        )
    cancelled = row.cells.get("was_cancelled") is True
    config = _at(row.cells, "input_config")
    names = _at(config, "endpoint", "model_names") or _at(config, "models")
    model = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
    rate = _at(config, "loadgen", "request_rate")
    in_flight = _at(config, "loadgen", "concurrency")
    return result(
        SOURCE,
        row,
        Setting(
            model=Row(row.path, row.where, {"model": model}).maybe_text("model"),
            gpu=gpus[0][0] if len({name for name, _, _ in gpus}) == 1 else None,
            num_gpus=len(gpus) or None,
            kind="server" if _whole_or_float(rate) else "concurrency" if _whole_or_float(in_flight) else None,
            rate_rps=_whole_or_float(rate),
            in_flight=int(in_flight) if isinstance(in_flight, int) and in_flight > 0 else None,
        ),
        metrics,
        [*notes, *(["the run was cancelled"] if cancelled else [])],
        boards=tuple(uuid for _, uuid, _ in gpus if uuid),
        started_utc=None,
    )


def _value(row: Row, name: str, statistic: str, units: dict[str, float]) -> float | None:
    """A statistic of a figure in our unit; None where it is not there."""
    found = row.cells.get(name)
    if found is None:
        return None
    figure = table.group(row.path, f"{row.where}, {name}", found)
    value = figure.maybe_number(statistic, 1e18)
    unit = figure.maybe_text("unit")
    if value is None:
        return None
    if unit not in units:
        raise figure.wrong(f"unit is {unit!r}, not one of {', '.join(units)}; correct it or leave {name} out")
    return value * units[unit]


def _gpus(row: Row) -> Iterator[tuple[str, str | None, float]]:
    """(name, UUID, mean power [W]) of each GPU that was seen, each once."""
    seen: set[str] = set()
    endpoints = _at(row.cells, "telemetry_data", "endpoints")
    for endpoint, content in (endpoints or {}).items() if isinstance(endpoints, dict) else ():
        inside = table.group(row.path, f"telemetry_data, {endpoint}", content).cells.get("gpus") or {}
        for key, found in table.group(row.path, f"telemetry_data, {endpoint}, gpus", inside).cells.items():
            gpu = table.group(row.path, f"telemetry_data, {endpoint}, {key}", found)
            figures = table.group(row.path, f"{gpu.where}, metrics", gpu.cells.get("metrics") or {})
            uuid = gpu.maybe_text("gpu_uuid")
            watts = next((w for name in POWER if (w := _value(figures, name, "avg", WATTS))), None)
            if watts is None or (uuid or f"{endpoint} {key}") in seen:
                continue
            seen.add(uuid or f"{endpoint} {key}")
            yield gpu.text("gpu_name"), uuid, watts


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _whole_or_float(value: Any) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
    )
