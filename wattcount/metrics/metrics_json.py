"""`metrics.json` of a record: all metrics, reasons for null and findings, as the modules of `PARTS` declare them; what a run is worth.

The keys are the same in `metrics.json`, in MLflow and in tables; the tables of docs/metrics.md are made from here.

The same raw files give the same bytes on one machine, and nearly so on any: integers are summed as integers, many floating-point
sums are exact (`math.fsum`), and values are kept to 12 significant digits, far beyond what any sensor means. Fits differ between
processors in the 11th or 12th digit now and then, so figures of two machines are the same where they agree to 1e-9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from wattcount.errors import WattcountError, one_line
from wattcount.files import write_atomically
from wattcount.metrics import (
    attribution,
    client,
    drift,
    energy,
    gpu,
    host,
    observations,
    sensors,
    server,
    service,
    sheet,
    window,
)
from wattcount.metrics.energy import energy_estimates
from wattcount.metrics.sheet import NO_WINDOW, Checks, Finding, FindingSpec, MetricSpec, Sheet
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.records.intake import DamagedError
from wattcount.records.schema import METRICS_JSON, RunInfo, check_metrics

METRICS_VERSION = 13
"""Version of `metrics.json`. Raised whenever a key comes, goes or changes its meaning, and whenever a check does: what was stored
before is then computed anew, unless it means the same (`is_of_today`)."""


class Part(Protocol):
    """A module that computes metrics. A new one needs a line in `PARTS`; a new metric or finding only its own module."""

    @property
    def METRICS(self) -> Mapping[str, MetricSpec]: ...  # noqa: N802

    @property
    def NULL_REASONS(self) -> Mapping[str, str]: ...  # noqa: N802

    @property
    def CHECKS(self) -> Checks: ...  # noqa: N802

    def put(self, sheet: Sheet, seen: window.Observed, /) -> None: ...


PARTS: tuple[Part, ...] = (energy, attribution, service, client, server, drift, gpu, host, sensors)
"""The modules that compute metrics, in their order: some read from the sheet what those before have put on it."""


def _by_group(keys: Iterable[str]) -> list[str]:
    """Keys with the same first word beside each other, in the order in which the words first appear."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition("/")[0], []).append(key)
    return [key for group in groups.values() for key in group]


_SPECS = {key: spec for part in PARTS for key, spec in part.METRICS.items()}
"""All parts' metrics by key, in the order of PARTS."""

METRICS: dict[str, MetricSpec] = {key: _SPECS[key] for key in _by_group(_SPECS)}
"""Every metric of every record, but for those of single GPUs, by its key."""
NULL_REASONS: dict[str, str] = {
    **sheet.NULL_REASONS,
    **observations.NULL_REASONS,
    **window.NULL_REASONS,
    **{code: text for part in PARTS for code, text in part.NULL_REASONS.items()},
}
"""Codes of `null_reasons` and what they say. Energies may also carry the reasons of the estimate itself."""
FINDINGS: dict[str, FindingSpec] = {spec.code: spec for part in PARTS for spec in part.CHECKS.specs}
"""Every kind of finding, by its code."""
IMPORTED: dict[str, MetricSpec] = {
    "energy/wall_j": MetricSpec("J", "energy of the whole machine over the window, at the wall", "lower"),
    "energy/wall_j_u95_method": MetricSpec("J", "95 % uncertainty of it, without the meter's gain", "lower"),
    "energy/wall_j_per_output_token": MetricSpec("J", "energy/wall_j / output tokens", "lower"),
    "power/wall_mean_w": MetricSpec("W", "energy/wall_j / length of the window", "lower"),
    "energy/gpu_j_per_mean_request": MetricSpec(
        "J",
        "`energy/gpu_j_per_output_token` x mean output tokens of a request: not that of the requests that ended in the window",
        "lower",
    ),
    "energy/gpu_j_per_total_token": MetricSpec(
        "J", "energy of the window, all GPUs / (input + output tokens)", "lower"
    ),
    "energy/gpu_j_per_input_token": MetricSpec(
        "J", "energy of the window, all GPUs / input tokens; decode is in it", "lower"
    ),
    "energy/gpu_j_above_idle_per_output_token": MetricSpec(
        "J",
        "(energy of the window - idle power that the source measured x its length) / output tokens",
        "lower",
    ),
    "energy/host_gpus_j": MetricSpec(
        "J", "energy of the window, all GPUs of the machine, those without work included", "lower"
    ),
    "energy/cpu_reckoned_j": MetricSpec(
        "J",
        "energy of the CPUs as the source reckons it: by RAPL or as a constant power x time, it does not tell",
        "lower",
    ),
    "energy/ram_reckoned_j": MetricSpec(
        "J", "energy of the memory as the source reckons it, by its size", "lower"
    ),
    "power/gpu_readings_mean_w": MetricSpec(
        "W",
        "mean of power readings, summed over the GPUs, as the source gives it; its window need not be that of the energy",
        "lower",
    ),
    "power/gpu_readings_max_w": MetricSpec(
        "W", "largest power that the source gives, summed over the GPUs", "lower"
    ),
    "power/gpu_each_mean_w": MetricSpec(
        "W", "mean power of one GPU, where the source does not tell how many there are", "lower"
    ),
    "power/idle_reported_w": MetricSpec(
        "W", "idle power of all GPUs as the source gives it, with or without an engine", "lower"
    ),
    "throughput/total_tokens_per_s": MetricSpec(
        "tokens/s", "input and output tokens / length of the window", "higher"
    ),
    "latency/tpot_mean_ms": MetricSpec(
        "ms", "mean time per output token, over requests or steps as the source reckons it", "lower"
    ),
    "latency/ttft_mean_ms": MetricSpec("ms", "mean time to first token", "lower"),
    "latency/e2e_mean_ms": MetricSpec("ms", "mean end-to-end latency of a request", "lower"),
    "tokens/input_per_request": MetricSpec("1", "mean input tokens of a request", None),
    "tokens/output_per_request": MetricSpec("1", "mean output tokens of a request", None),
}
"""What only imported results have: other instruments, or another definition than that of the key of ours."""


def spec(key: str) -> MetricSpec:
    """The spec of any key that a result can have, per-GPU keys included. KeyError for others."""
    if key.startswith("energy_by_gpu/gpu") and key.endswith("_j"):
        return energy.GPU_METRIC
    return IMPORTED[key] if key in IMPORTED else METRICS[key]


def compute(record: Record, seen: Observed | None = None) -> dict[str, Any]:
    """The content of `metrics.json`. Works on invalid records too, as far as they go.

    seen   the record, where somebody else looks at it too
    """
    seen, sheet = seen or Observed(record), Sheet()
    for part in PARTS:
        part.put(sheet, seen)
    for key in METRICS:
        if key not in sheet.metrics:
            sheet.put(key, None, NO_WINDOW)
    found = findings(seen)
    per_gpu = [key for key in sheet.metrics if key not in METRICS]
    return {
        "metrics_version": METRICS_VERSION,
        "evidence": str(record.info.evidence),
        "window": seen.window.to_json() if seen.window is not None else None,
        "window_steady": seen.steady.window.to_json() if seen.steady.window is not None else None,
        "energy": energy_estimates(record, seen.window),
        "validity": {
            "valid": record.info.validity.valid and not any(finding.invalidates for finding in found),
            "reasons": list(record.info.validity.reasons),
            "findings": [finding.to_json() for finding in found],
        },
        "metrics": {key: sheet.metrics[key] for key in (*METRICS, *per_gpu)},
        "null_reasons": {k: sheet.null_reasons[k] for k in (*METRICS, *per_gpu) if k in sheet.null_reasons},
    }


def findings(seen: Observed) -> list[Finding]:
    """What a record says against being believed, most serious first."""
    found = [finding for part in PARTS for finding in part.CHECKS.findings(seen)]
    return sorted(found, key=lambda finding: not finding.invalidates)


INPUTS = "inputs"
"""Key of `metrics.json`: SHA-256 of the files that it was computed from, by name (`Record.digests`)."""
CHECKSUM = "checksum"
"""Key of `metrics.json`: SHA-256 of everything else in it, see `_checksum`."""
KEYS = frozenset(
    {
        "metrics_version", "evidence", "window", "window_steady", "energy", "validity", "metrics", "null_reasons", INPUTS, CHECKSUM,
    }
)  # fmt: skip
"""All keys of `metrics.json`."""


def is_of_today(stored: Mapping[str, Any]) -> bool:
    """Whether every figure of a `metrics.json` has today's meaning: those of version 12 have, where the run has no SLO."""
    version = stored.get("metrics_version")
    if version == METRICS_VERSION - 1:
        figures = stored.get("metrics")
        return isinstance(figures, Mapping) and figures.get("requests/good") is None
    return bool(version == METRICS_VERSION)


def load_metrics(record: Record) -> dict[str, Any]:
    """Content of `metrics.json`; computed afresh, and not written, where it is missing or cannot be believed.

    It is believed where it is of this version, was computed from the raw files as they are now, and was not changed
    since. Raises `WattcountError` where a raw file is not what was measured.
    """
    record.check_files()
    stored = stored_metrics(record)
    return stored if stored is not None else computed(record)


def stored_metrics(record: Record) -> dict[str, Any] | None:
    """Content of `metrics.json` where it can be believed; None where it is to be computed. Reads no table."""
    try:
        stored = record.metrics
    except DamagedError:
        return None
    if stored is None or not is_of_today(stored):
        return None
    checksum = stored.pop(CHECKSUM, None)
    if stored.pop(INPUTS, None) != record.digests or checksum != _checksum(stored, record.digests):
        return None
    try:
        check_metrics(stored)
        known = all(spec(key) for key in stored["metrics"])
    except (KeyError, ValueError):
        return None
    return stored if known else None


def computed(record: Record, seen: Observed | None = None) -> dict[str, Any]:
    """The same as `compute`. Raises `DamagedError` in one line for raw files from which nothing can be computed."""
    try:
        return compute(record, seen)
    except WattcountError:
        raise
    except MemoryError as error:
        raise DamagedError(f"{record.path} is damaged: its figures need more memory than there is") from error
    # A stranger's numbers can meet any line of the arithmetic; what went wrong is the record, and it is said which.
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {one_line(error)}"
        raise DamagedError(f"{record.path} is damaged: nothing can be computed from it ({what})") from error


def to_bytes(metrics: Mapping[str, Any], inputs: Mapping[str, str] | None = None) -> bytes:
    """The bytes of `metrics.json`. `inputs`: what it was computed from, `Record.digests`; without, it is believed by none."""
    content = dict(metrics)
    if inputs is not None:
        content |= {INPUTS: dict(inputs), CHECKSUM: _checksum(metrics, inputs)}
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def write(record_path: str | Path) -> Path:
    """Computes `metrics.json` of a record afresh and puts it in place in one step; returns its path.

    Raises `WattcountError` for what is no record, or is damaged; OSError where it cannot be written.
    """
    record = Record.open(record_path)
    record.check_files()
    target = record.path / METRICS_JSON
    write_atomically(target, to_bytes(computed(record), record.digests))
    return target


def _checksum(metrics: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 of the canonical JSON of both: a value that was edited by hand, or by a bad disk, is found."""
    text = json.dumps([metrics, inputs], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


INCOMPLETE = "incomplete"
"""Reason of a run that is not valid: it broke off, and nothing says why."""
DAMAGED = "damaged"
"""Reason of a record that cannot be read, or whose raw files are not as they were measured."""
NO_REASON = "no reason was recorded"
"""What is said of a run that is not valid and gives no reason, as records of early versions may."""


class Status(Enum):
    """What a record is worth, from the best to the worst."""

    valid = "valid"
    invalid = "invalid"
    """Every phase was run, but its checks of validity say that it cannot be believed."""
    failed = "failed"
    """The run broke off, or said itself that it went wrong."""
    damaged = "damaged"
    """It cannot be read, or is not what was measured: it stands for nothing."""


@dataclass(frozen=True)
class Verdict:
    """What a record is worth and, if it is not valid, why.

    reasons    stable codes, the most serious first; empty only for a valid one
    messages   one line for people for each reason that has one
    """

    status: Status
    reasons: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return self.status is Status.valid

    @property
    def reason(self) -> str | None:
        return next(iter(self.reasons), None)

    @property
    def message(self) -> str | None:
        return next(iter(self.messages), None)


def ran_to_end(info: RunInfo) -> bool:
    """Whether the run went through all of its phases, and says itself that nothing went wrong."""
    return info.complete and info.validity.valid


def verdict(info: RunInfo, metrics: Mapping[str, Any]) -> Verdict:
    """`metrics`: the content of the record's `metrics.json`, from `load_metrics`."""
    found = metrics["validity"]
    wrong = [finding for finding in found["findings"] if finding["invalidates"]]
    codes = (*info.validity.reasons, *(finding["code"] for finding in wrong))
    messages = (*info.validity.messages, *(finding["message"] for finding in wrong))
    if not ran_to_end(info):
        broke_off = () if info.validity.reasons else (INCOMPLETE,)
        return Verdict(Status.failed, (*broke_off, *codes), messages or codes or ("it broke off",))
    if not found["valid"]:
        return Verdict(Status.invalid, codes or (NO_REASON,), messages)
    return Verdict(Status.valid)
