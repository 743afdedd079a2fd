"""What a run record holds, file by file. The one place that knows its columns and keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import pyarrow as pa

from wattcount.config.schema import RunConfig
from wattcount.records.shape import check_run, typed_config

RECORD_SCHEMA_VERSION = 1

RUN_JSON = "run.json"
POWER_PARQUET = "power.parquet"
REQUESTS_PARQUET = "requests.parquet"
STEPS_PARQUET = "steps.parquet"
HOST_POWER_PARQUET = "host_power.parquet"
"""Only where the host's RAPL counters could be read, see `RunInfo.host`."""
METRICS_JSON = "metrics.json"
ENGINE_LOG = "engine.log"
TRUTH_CSV = "truth.csv"
"""Emulated runs only: the power curve that was in effect, `t_ns,power_mw`."""


class Evidence(StrEnum):
    """How a number came about. Never mixed silently."""

    MEASURED = "measured"
    EMULATED = "emulated"
    PREDICTED = "predicted"


class Phase(StrEnum):
    """The phases of a run, in order; `IDLE_AFTER` is loaded idle after the drain, `BARE_IDLE_AFTER` bare idle
    after the engine has ended."""

    BARE_IDLE = "bare_idle"
    ENGINE_START = "engine_start"
    LOADED_IDLE = "loaded_idle"
    REHEARSAL = "rehearsal"
    WARMUP = "warmup"
    WINDOW = "window"
    DRAIN = "drain"
    IDLE_AFTER = "loaded_idle_after"
    BARE_IDLE_AFTER = "bare_idle_after"


class RequestStatus(StrEnum):
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    """Still running when the run was interrupted or the drain's limit was reached."""
    NOT_SENT = "not_sent"


POWER_SCHEMA = pa.schema(
    [
        ("gpu", pa.dictionary(pa.int16(), pa.string())),
        ("source", pa.dictionary(pa.int16(), pa.string())),
        ("prev_t0_ns", pa.int64()),
        ("t0_ns", pa.int64()),
        ("t1_ns", pa.int64()),
        ("source_ts_us", pa.int64()),
        ("value", pa.int64()),
        ("nvml_return", pa.int32()),
    ]
)
"""`power.parquet`, one row an observation (`energy.events.EVENT_DTYPE`).

gpu           UUID
source        lower-case name of `energy.events.Source`; `value` is in that source's unit
prev_t0_ns    null where there was no earlier call
source_ts_us  null where the source has no stamp of its own
"""

REQUESTS_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("index", pa.int32()),
        ("phase", pa.string()),  # what it was sent for: `rehearsal`, `warmup` or `window`
        ("planned_send_ns", pa.int64()),
        ("actual_send_ns", pa.int64()),  # null: not sent
        ("first_token_ns", pa.int64()),
        ("last_token_ns", pa.int64()),
        ("token_ts_ns", pa.list_(pa.int64())),  # when each chunk of tokens arrived
        ("token_count", pa.list_(pa.int32())),  # and how many tokens it held
        ("input_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("preemptions", pa.int32()),
        ("engine_queued_ns", pa.int64()),
        ("engine_scheduled_ns", pa.int64()),
        ("engine_first_token_ns", pa.int64()),
        ("engine_last_token_ns", pa.int64()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)
"""`requests.parquet`, one row a request, in the order of their planned send; null: not known, or never happened."""

STEPS_SCHEMA = pa.schema(
    [
        ("logged_ns", pa.int64()),
        ("engine_ts_ns", pa.int64()),
        ("duration_ns", pa.int64()),
        ("prefill_tokens", pa.int32()),
        ("decode_tokens", pa.int32()),
        ("running", pa.int32()),
        ("waiting", pa.int32()),
        ("kv_cache_usage", pa.float64()),
        ("draft_tokens", pa.int32()),
        ("accepted_tokens", pa.int32()),
    ]
)
"""`steps.parquet`, one row an engine step (`engines.base.EngineStep`), in the order in which they were logged. Of several
replicas each has steps of its own."""

ADDED_LATER = frozenset({"draft_tokens", "accepted_tokens"})
"""Columns that older records of this schema do not have: null in all their rows."""

HOST_POWER_SCHEMA = pa.schema(
    [
        ("domain", pa.dictionary(pa.int16(), pa.string())),
        ("t0_ns", pa.int64()),
        ("t1_ns", pa.int64()),
        ("value_uj", pa.int64()),
    ]
)
"""`host_power.parquet`, one row a read of a RAPL counter (`energy.rapl.HostReading`), in the order of time.

domain     its name in `run.json`'s `host.rapl.domains`
value_uj   as read: it starts over at the domain's `max_energy_range_uj`; null: the read failed
"""


@dataclass
class PhaseSpan:
    """One phase as it happened; CLOCK_MONOTONIC nanoseconds. `end_ns` is None where the run broke off."""

    phase: Phase
    start_ns: int
    end_ns: int | None


@dataclass
class Validity:
    valid: bool
    reasons: list[str] = field(default_factory=list)
    """Stable codes, e.g. `engine_start_failed`, `interrupted`, `gpu_lost`, `generator_lagging`."""
    messages: list[str] = field(default_factory=list)
    """One line a person can act on for each reason, same order."""


@dataclass
class FileFacts:
    """A file of the record as it was written."""

    bytes: int
    rows: int
    sha256: str


@dataclass
class RunInfo:
    """`run.json`. Everything a reader needs to judge the raw files beside it."""

    schema_version: int
    run_id: str
    point_id: str
    evidence: Evidence
    origin: str
    """`wattcount` or `imported`."""
    instrument: str
    """`nvml`, `wall` or `rapl`."""
    seed: int
    repeat: int
    config: dict[str, Any]
    """The resolved config, plain JSON types."""
    started_utc: str
    """ISO 8601, for people; times are in the monotonic clock."""
    clock_pairs: list[dict[str, int]]
    """`ClockPair`s as dicts, at least one at the start and one at the end."""
    host: dict[str, Any]
    """hostname, kernel, cpu model, cores, memory_bytes, python; `rapl`: what could be read of CPU and DRAM energy
    (`energy.rapl.RaplHost`), or why it could not, and what reading cost."""
    gpus: list[dict[str, Any]]
    """One a GPU of the run, as found: uuid, index, name, vbios, memory_bytes, power limits (mW), clocks, mig, ecc, ..."""
    nvml: dict[str, Any]
    """library path, sha256, driver version, nvml version, cuda driver version."""
    versions: dict[str, str]
    """wattcount, python, numpy, ..., and what the engine is made of."""
    engine: dict[str, Any]
    """`EngineInfo` as a dict; empty where the engine never came up."""
    sensors: dict[str, Any]
    """By GPU UUID: how each source was characterised and read (period, call cost, error counts, ...)."""
    sampler: dict[str, Any]
    """Sampler health: cpu seconds, missed deadlines, dropped events, per GPU."""
    phases: list[PhaseSpan]
    validity: Validity
    notes: list[str] = field(default_factory=list)
    """Lines a reader should know of that spoil nothing."""
    complete: bool = False
    """Every phase was run to its end."""
    characterisation: dict[str, Any] = field(default_factory=dict)
    """By GPU UUID: what its power sensors are like (`gpu.characterise`), found before this run or an earlier one."""
    timing: dict[str, float] = field(default_factory=dict)
    """Where the run's process spent its time, seconds: see `run.worker`."""
    warmup: dict[str, Any] = field(default_factory=dict)
    """How an adaptive warm-up ended: `settled`, `seconds`, `limit_s`, `unsettled` (percent of drift, by what still
    drifted) and `needed_s` (twice as long as a request lived; None: none had ended). Empty where its length was fixed."""
    rehearsal: dict[str, Any] = field(default_factory=dict)
    """How the rehearsal ended: `rounds` (of each `requests` and how many `completed` before it was cut off, `seconds`, the kernels `compiled`, `stalls`, `stall_s`; null: the engine
    does not tell), `settled` (the last round showed nothing new), `seconds`, `limit_s`, `compiled_later` (kernels from then to the
    end of the load). Empty where there was none. Earlier versions: `stalled_prefills` of each round of sizes drawn at random."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What was asked for where `config` says what became of it, by dotted key: `model.name: auto`, `gpu.devices: []`,
    `power.power_period_ms: null`. A key that is not in it was asked for as it is in `config`."""
    length_changes: dict[str, int] = field(default_factory=dict)
    """How many requests have another length than their trace or prompt file gives (`load.lengths.LengthChanges`). Empty
    where there are none, or no file."""
    gpu_settings: dict[str, Any] = field(default_factory=dict)
    """By GPU UUID, what the run has set: `power_limit_mw` (`before`, `asked`, `read_back`, `enforced`, `restored`) and
    `sm_clock_mhz` (`before` null: NVML does not tell, `asked`, `restored`). `restored` null: not by the run's own process,
    which died; its parent, or whoever came next, has done it. Empty where nothing was asked for."""
    cooldown: dict[str, Any] = field(default_factory=dict)
    """How long a sweep waited for the GPU to cool down before this run: `seconds`, `limit_s`, `ended` (`back` to what it
    was before the first run, `steady`, or at the `limit`), and by GPU UUID `power_w`, `temperature_c` and
    `memory_used_bytes` `before` the first run and `after` the wait. Empty for a single run."""
    attempt: int = 1
    """How many times this repeat of the point was tried with this seed, with this one: one more than there were
    records of it."""
    log_tail: list[str] = field(default_factory=list)
    """The last lines of `engine.log`, of a run that failed."""
    files: dict[str, FileFacts] = field(default_factory=dict)
    """The raw files as they were written, by name; a file that differs is damaged."""

    @cached_property
    def resolved(self) -> RunConfig:
        """`config` with its types. For readers: it does not follow when `config` is changed."""
        return typed_config(self.config)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunInfo:
        """The inverse of `to_json`. Keys of later versions of the same schema are passed over.

        Raises KeyError for a key that is missing, ValueError for what is no `run.json`.
        """
        resolved = check_run(data)
        names = {item.name for item in dataclasses.fields(cls)}
        values = {key: value for key, value in data.items() if key in names}
        values["evidence"] = Evidence(values["evidence"])
        values["phases"] = [
            PhaseSpan(Phase(span["phase"]), span["start_ns"], span["end_ns"]) for span in values["phases"]
        ]
        said = values["validity"]
        values["validity"] = Validity(said["valid"], said.get("reasons", []), said.get("messages", []))
        values["files"] = {
            name: FileFacts(facts["bytes"], facts["rows"], facts["sha256"])
            for name, facts in values.get("files", {}).items()
        }
        info = cls(**values)
        info.__dict__["resolved"] = resolved
        return info
