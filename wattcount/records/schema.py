"""What a run record holds, file by file: the one place that knows its columns and keys, what they must look like, and which of them
may be published (`Public`).

Keys of `run.json` that are not named here are passed over: they are a later version's, or only shown.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa

from wattcount.config.fields import Form, Public, Tree
from wattcount.config.loader import from_json
from wattcount.config.schema import ARGUMENT_TEXTS, RunConfig
from wattcount.errors import WattcountError
from wattcount.masking import masked

RECORD_SCHEMA_VERSION = 3
"""Version of the records that are written. 2 has `session`; 3 holds its tables as `records.packing` says, and the arrivals of tokens in a file of
their own."""
OLDEST_SCHEMA_VERSION = 1
"""The oldest that can be read (`records.reader.upgraded`)."""
PACKED_SCHEMA_VERSION = 3
"""The first whose tables are packed; before, they lie in their files as they are, arrivals of tokens as lists in `requests.parquet`."""

RUN_JSON = "run.json"
"""The file that says what was run, where and when. A folder without it is no record."""
POWER_PARQUET = "power.parquet"
"""The events of NVML's sources, one row each."""
REQUESTS_PARQUET = "requests.parquet"
"""The requests, one row each, without the arrivals of their tokens."""
TOKENS_PARQUET = "tokens.parquet"
"""The arrivals of the requests' tokens, one row each."""
STEPS_PARQUET = "steps.parquet"
"""The engine's steps, one row each."""
HOST_POWER_PARQUET = "host_power.parquet"
"""Only where the host's RAPL counters could be read, see `RunInfo.host`."""
HOST_PARQUET = "host.parquet"
"""What the host did meanwhile; not in records from before it was recorded."""
OPTIONAL_FILES = (HOST_POWER_PARQUET, HOST_PARQUET)
"""Raw files that a record may lack."""
METRICS_JSON = "metrics.json"
"""What is computed of the other files, and can be computed again."""
ENGINE_LOG = "engine.log"
"""What the engine printed; of a failed run it says why."""
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
"""The requests, one row each, in the order of their planned send; null: not known, or never happened. `requests.parquet` has all
but `TOKEN_COLUMNS`, which are made of `tokens.parquet`."""

TOKEN_COLUMNS = ("token_ts_ns", "token_count")
"""Columns of the requests that are lists, one value an arrival: `tokens.parquet` has them."""
REQUEST_ROWS_SCHEMA = pa.schema([item for item in REQUESTS_SCHEMA if item.name not in TOKEN_COLUMNS])
"""Columns of `requests.parquet`."""

TOKENS_SCHEMA = pa.schema(
    [
        ("arrival_ns", pa.int64()),
        ("request", pa.int32()),  # the number of its row in `requests.parquet`
        ("tokens", pa.int32()),
    ]
)
"""`tokens.parquet`, one row an arrival of tokens, of all requests in the order of time."""

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


HOST_SCHEMA = pa.schema(
    [
        ("t_ns", pa.int64()),
        ("pid", pa.int32()),
        ("process", pa.dictionary(pa.int16(), pa.string())),
        ("spin_ns", pa.int64()),
        ("spin_cpu_ns", pa.int64()),
        ("cpu", pa.int32()),
        ("frequency_khz", pa.int64()),
        *((f"{name}_ms", pa.int64()) for name in ("user", "system", "idle", "iowait", "steal")),
        *((f"pressure_{name}_us", pa.int64()) for name in ("cpu", "memory", "io")),
        ("throttled_us", pa.int64()),
        *((name, pa.int64()) for name in ("cpu_ns", "wait_ns", "voluntary", "involuntary")),
    ]
)
"""`host.parquet` (`run.host_recorder.HostSample`), in the order of time: of each sample a row for the host and one for each process
of the run. What a kind of row does not have is null, and so is what the host does not show. All but the spin, the CPU and its
frequency are counters since some earlier moment.

t_ns           when the sample began, CLOCK_MONOTONIC
pid, process   null: the host's row; else the process and its name
spin_ns, spin_cpu_ns   length of a fixed piece of work by the clock and by the CPU time of its thread
cpu, frequency_khz     the CPU that it ran on, and its clock then
user_ms ... steal_ms   time of all CPUs (`/proc/stat`); niced time is user's, interrupts are the system's
pressure_..._us        time in which a task waited for the resource (`/proc/pressure`, "some")
throttled_us           time in which the run's cgroup was held back by its CPU limit
cpu_ns                 CPU time of a process, all its threads
wait_ns                time in which its main thread could have run and waited for a CPU (`/proc/PID/schedstat`)
voluntary, involuntary   context switches of its main thread
"""

TABLES = {
    POWER_PARQUET: POWER_SCHEMA,
    REQUESTS_PARQUET: REQUEST_ROWS_SCHEMA,
    TOKENS_PARQUET: TOKENS_SCHEMA,
    STEPS_PARQUET: STEPS_SCHEMA,
    HOST_POWER_PARQUET: HOST_POWER_SCHEMA,
    HOST_PARQUET: HOST_SCHEMA,
}
"""The raw files, and the columns of the table in each. How they lie there: `records.packing`."""

PUBLIC_TEXTS = {
    "gpu": Form.board,
    "source": Form.code,
    "request_id": Form.code,
    "phase": Form.code,
    "status": Form.code,
    "domain": Form.code,
}
"""Columns of text that may be published, and the form of what is in them. Of others, `error` and `process`, only where there is
something: an error tells paths, and processes have the names of people's programs. All columns of numbers may be published."""


# -- what of `run.json` may be published

_NUMBER = Form.number
_TREE = Tree()
_SENSOR_TEXTS = Tree({"unit": Form.word, "state": Form.code, "agrees_with": Form.code})
_VERSIONS = Tree(other=Form.version)
_PUBLIC_HOST = {
    "hostname": Form.host,
    "kernel": Form.release,
    "os": Form.title,
    "machine": Form.code,
    "cpu": Form.cpu,
    **dict.fromkeys(("cpu_count", "cpu_usable", "memory_bytes"), _NUMBER),
    "python": Form.version,
    "rapl": {
        "state": Form.code,
        "domains": {"name": Form.code, "kind": Form.code, "error": Form.code, "max_energy_range_uj": _NUMBER},
        "sampler": _TREE,
    },
    "recorder": _TREE,
    "engine": _TREE,
}
_PUBLIC_GPU = {
    "uuid": Form.board,
    **dict.fromkeys(("name", "architecture"), Form.title),
    **dict.fromkeys(("vbios", "board_part_number", "inforom_version"), Form.word),
    "compute_capability": Form.version,
    **dict.fromkeys(
        (
            "index", "pci_device_id", "pci_subsystem_id", "memory_total_bytes", "memory_free_bytes", "power_limit_enforced_mw",
            "power_limit_mw", "power_limit_default_mw", "power_limit_min_mw", "power_limit_max_mw", "max_sm_clock_mhz",
            "max_memory_clock_mhz", "applications_graphics_clock_mhz", "applications_memory_clock_mhz", "mig_mode",
            "mig_mode_pending", "ecc_mode", "ecc_mode_pending", "persistence_mode", "compute_mode", "virtualization_mode",
        ),
        _NUMBER,
    ),
}  # fmt: skip
_PUBLIC_NVML = {
    "sha256": Form.digest,
    "driver_version": Form.version,
    "nvml_version": Form.version,
    "cuda_driver_version": _NUMBER,
    "remote": {"hostname": Form.host, "wattcount": Form.version, "clock": _TREE},
}
_PUBLIC_DETAILS = {
    **dict.fromkeys(("distribution", "cuda_graphs", "usage_context", "quantization", "kv_cache_dtype", "dtype"), Form.word),
    "architecture": Form.word,
    **dict.fromkeys(("torch", "cuda"), Form.version),
    "devices": {
        "uuid": Form.board,
        "name": Form.title,
        "type": Form.code,
        **dict.fromkeys(("torch", "cuda", "compute_capability"), Form.version),
        **dict.fromkeys(("total_memory_bytes", "allocated_bytes", "reserved_bytes"), _NUMBER),
    },
    "weight_initializer": Tree({"initializer": Form.code, "distribution": Form.title}),
    "unexpected_defaults": Tree(dict.fromkeys(("expected", "chosen"), Form.word)),
    "arguments": ARGUMENT_TEXTS,
    "speculative": ARGUMENT_TEXTS,
    "server": {
        "engine": Form.code,
        "version": Form.version,
        "gpu_uuids": Form.board,
        **dict.fromkeys(("local", "max_model_len", "vocab_size"), _NUMBER),
        **dict.fromkeys(("computing", "parallel"), _TREE),
    },
    "server_counters": Tree({"family": Form.code}),
    "client": _TREE,
    **dict.fromkeys(
        (
            "device_verified", "kv_cache_blocks", "kv_cache_block_size", "gpu_memory_utilization", "enable_prefix_caching",
            "max_num_seqs", "max_num_batched_tokens", "enable_chunked_prefill", "async_scheduling", "enforce_eager",
            "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "cuda_graph_sizes", "stream_interval",
            "steps_lost", "vocab_size", "parameters", "threads", "kv_cache_bytes", "weights_bytes",
        ),
        _NUMBER,
    ),
}  # fmt: skip
_PUBLIC_ENGINE = {
    "name": Form.word,
    "version": Form.version,
    "device": Form.code,
    "gpu_uuids": Form.board,
    **dict.fromkeys(("vocab_size", "max_model_len"), _NUMBER),
    "details": _PUBLIC_DETAILS,
}


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
    """`run.json`. Everything a reader needs to judge the raw files beside it.

    A field without `Public` is never published: what was asked for, notes, messages and logs tell paths and names.
    `config` has its own marks, and `files` are those of the record they lie in.
    """

    schema_version: Annotated[int, Public(Form.number)]
    """Version of the record's format (`RECORD_SCHEMA_VERSION`)."""
    run_id: Annotated[str, Public(Form.run)]
    """When the run began, and some digits by chance."""
    point_id: Annotated[str, Public(Form.digest)]
    """SHA-256 of what was measured: the identity of the point (docs/configuration.md)."""
    evidence: Annotated[Evidence, Public(Form.code)]
    """`measured` or `emulated`, by the NVML library that was loaded."""
    origin: Annotated[str, Public(Form.code)]
    """`wattcount`: what was imported is a result without a record."""
    instrument: Annotated[str, Public(Form.code)]
    """What the energy was read from: `nvml`."""
    seed: Annotated[int, Public(Form.number)]
    """Seed of the load."""
    repeat: Annotated[int, Public(Form.number)]
    """Number of this repeat."""
    config: dict[str, Any]
    """The resolved config, plain JSON types."""
    started_utc: Annotated[str, Public(Form.time)]
    """ISO 8601, for people; times are in the monotonic clock."""
    clock_pairs: Annotated[list[dict[str, int]], Public(_TREE)]
    """`ClockPair`s as dicts, at least one at the start and one at the end."""
    host: Annotated[dict[str, Any], Public(_PUBLIC_HOST)]
    """hostname, kernel, cpu model, cores, memory_bytes, python; `rapl`: what could be read of CPU and DRAM energy
    (`energy.rapl.RaplHost`), or why it could not, and what reading cost; `recorder`: what `host.parquet` cost
    (`run.host_recorder.HostRecorder.health`); `engine`: on which `cpus` and with which `nice` so many `processes` of it were put."""
    gpus: Annotated[list[dict[str, Any]], Public(_PUBLIC_GPU)]
    """One a GPU of the run, as found: uuid, index, name, vbios, memory_bytes, power limits (mW), clocks, mig, ecc, ..."""
    nvml: Annotated[dict[str, Any], Public(_PUBLIC_NVML)]
    """library path, sha256, driver version, nvml version, cuda driver version. Of GPUs of another machine also `remote`: address,
    hostname, kernel, wattcount, and `clock`: how its time was made this one's (`gpu.remote.clock.ClockOffset.to_json`)."""
    versions: Annotated[dict[str, str], Public(_VERSIONS)]
    """wattcount, python, numpy, ..., and what the engine is made of."""
    engine: Annotated[dict[str, Any], Public(_PUBLIC_ENGINE)]
    """`EngineInfo` as a dict; empty where the engine never came up."""
    sensors: Annotated[dict[str, Any], Public(_SENSOR_TEXTS)]
    """How each source of each GPU, by its UUID, was characterised and read (period, call cost, error counts, ...)."""
    sampler: Annotated[dict[str, Any], Public(_SENSOR_TEXTS)]
    """Sampler health: cpu seconds, missed deadlines, dropped events, per GPU."""
    phases: Annotated[list[PhaseSpan], Public({"phase": Form.code, "start_ns": _NUMBER, "end_ns": _NUMBER})]
    """The phases as they happened, in order; CLOCK_MONOTONIC nanoseconds."""
    validity: Annotated[Validity, Public({"valid": _NUMBER, "reasons": Form.code})]
    """Whether the run went as it should, with codes and lines of what went wrong. The verdict is wider: docs/metrics.md."""
    notes: list[str] = field(default_factory=list)
    """Lines a reader should know of that spoil nothing."""
    complete: Annotated[bool, Public(Form.number)] = False
    """Every phase was run to its end."""
    characterisation: Annotated[dict[str, Any], Public(_SENSOR_TEXTS)] = field(default_factory=dict)
    """What each GPU's power sensors are like, by UUID (`gpu.characterise`): found before this run or an earlier one."""
    timing: Annotated[dict[str, float], Public(_TREE)] = field(default_factory=dict)
    """Where the run's process spent its time, seconds: see `run.worker`."""
    warmup: Annotated[dict[str, Any], Public(_TREE)] = field(default_factory=dict)
    """How an adaptive warm-up ended: `settled`, `seconds`, `limit_s`, `unsettled` (percent of drift, by what still
    drifted) and `needed_s` (twice as long as a request lived; None: none had ended). Empty where its length was fixed."""
    rehearsal: Annotated[
        dict[str, Any],
        Public(Tree({"kind": Form.code, "compiled": Form.kernel, "compiled_later": Form.kernel})),
    ] = field(default_factory=dict)
    """How the rehearsal ended: `rounds` (of each `requests` and how many `completed` before it was cut off, `seconds`, the kernels `compiled`, `stalls`, `stall_s`; null: the engine
    does not tell), `settled` (the last round showed nothing new), `seconds`, `limit_s`, `compiled_later` (kernels from then to the
    end of the load). Empty where there was none. Earlier versions: `stalled_prefills` of each round of sizes drawn at random."""
    asked: dict[str, Any] = field(default_factory=dict)
    """What was asked for where `config` says what became of it, by dotted key: `model.name: auto`, `gpu.devices: []`,
    `power.power_period_ms: null`. A key that is not in it was asked for as it is in `config`."""
    length_changes: Annotated[dict[str, int], Public(_TREE)] = field(default_factory=dict)
    """How many requests have another length than their trace or prompt file gives (`load.lengths.LengthChanges`). Empty
    where there are none, or no file."""
    gpu_settings: Annotated[dict[str, Any], Public(_TREE)] = field(default_factory=dict)
    """What the run has set, by GPU UUID: `power_limit_mw` (`before`, `asked`, `read_back`, `enforced`, `restored`) and
    `sm_clock_mhz` (`before` null: NVML does not tell, `asked`, `restored`). `restored` null: not at the end of this run;
    a later run on the same engine has done it or, where the process died, its parent or whoever came next. Empty where nothing was asked for."""
    cooldown: Annotated[dict[str, Any], Public(Tree({"ended": Form.code}))] = field(default_factory=dict)
    """How long a sweep waited for the GPU to cool down before this run: `seconds`, `limit_s`, `ended` (`back` to what it
    was before the first run, `steady`, or at the `limit`), and by GPU UUID `power_w`, `temperature_c` and
    `memory_used_bytes` `before` the first run and `after` the wait. Empty for a single run."""
    session: Annotated[
        dict[str, Any], Public(Tree({"id": Form.run, "run_id": Form.run, "started_utc": Form.time}))
    ] = field(default_factory=dict)
    """The start of an engine that this run had a part in: `id` (run id of its first run) and `number` of this run in it, from 1.
    What an earlier run of it has measured, and this one has not, is copied here (`metrics.session`): `bare_idle` and
    `engine_start`."""
    attempt: Annotated[int, Public(Form.number)] = 1
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

    @property
    def clock_bound_ns(self) -> int:
        """Most by which the times of all power readings may be early or late alike [ns]; 0: they are of this machine's clock."""
        remote = self.nvml.get("remote")
        return 0 if remote is None else abs(int(remote["clock"]["bound_ns"]))

    @property
    def engine_details(self) -> dict[str, Any]:
        """What the engine told of itself (`EngineInfo.details`); empty where it told nothing."""
        details = self.engine.get("details")
        return details if isinstance(details, dict) else {}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {item.name: _copied(getattr(self, item.name)) for item in dataclasses.fields(self)}

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


def _copied(value: Any) -> Any:
    """What `dataclasses.asdict` makes of it; that takes five times as long for what is plain JSON already."""
    if isinstance(value, dict):
        return {name: _copied(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    if isinstance(value, str | int | float) or value is None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return copy.deepcopy(value)


# -- what the JSON files must look like

MOST_PHASES, MOST_GPUS, MOST_LINES = 1000, 1024, 10_000
"""Most phases, GPUs and lines of notes in a `run.json`: far more than any run has."""
LONGEST_PHASE_NS = 31 * 86_400 * 10**9
"""Longest phase [ns]: one of more than a month is an error of its stamps."""
TEXT_LIMIT = 100_000
"""Longest text [characters]."""

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
"""What a `Word` looks like. No `/` and no leading dot: it cannot lead out of a folder, nor hide a file."""


class Word(str):
    """Stands for a text that may be part of a file's name: letters, digits and `. _ -`, at most 128 of them."""

    __slots__ = ()


@dataclass(frozen=True)
class Group:
    """A JSON object with some keys that must be there and some that may be."""

    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)


_FIGURE = (float, None)
"""A number, or null where it was not measured."""
_COUNT = (int, None)
"""A whole number, or null where it was not counted."""
_TEXT = (str, None)
"""A text, or null where nobody told it."""
_BOOK = Group(optional={"calls": int, "errors": int, "rate_hz": _FIGURE, "lateness_p99_ns": _FIGURE})
"""What the sampler notes of one source: calls, errors, how often and how late it was read."""
_SAMPLER = Group(
    optional={
        **dict.fromkeys(
            ("cpu_ns", "wall_ns", "missed_deadlines", "dropped_events", "ring_overflows"), _COUNT
        ),
        "sources": {str: _BOOK},
    }
)
"""What the sampler notes of one GPU."""
_DOMAIN = Group({"name": str, "kind": str, "error": _TEXT, "max_energy_range_uj": int})
"""One RAPL counter of the host."""
_HOST = Group(
    optional={
        "hostname": _TEXT,
        "rapl": (Group(optional={"state": str, "domains": [_DOMAIN]}), None),
        "recorder": Group(optional={"samples": int, "cpu_ns": int, "wall_ns": int}),
    }
)
"""What figures use of the host; `run.json` holds more of it."""
_GPU = Group(
    optional={
        **dict.fromkeys(("uuid", "name", "architecture", "compute_capability"), _TEXT),
        **dict.fromkeys(("index", "mig_mode", "virtualization_mode"), _COUNT),
        **dict.fromkeys(("power_limit_enforced_mw", "power_limit_mw", "max_sm_clock_mhz"), _COUNT),
    }
)
"""What figures use of a GPU; `run.json` holds more of it."""
_REMOTE = Group({"clock": Group({"bound_ns": int})})
"""What a session with a sampler elsewhere tells: how well both clocks are known to agree."""
_WARMUP = Group(
    optional={
        "settled": bool,
        "seconds": float,
        "limit_s": float,
        "unsettled": {str: _FIGURE},
        "needed_s": _FIGURE,
    }
)
"""How a warm-up ended."""
_ONCE = {"run_id": Word, "started_utc": str, "seconds": float}
"""Keys of what only the first run on an engine's start measures: which run it was, when, and how long it took."""
_SESSION = Group(
    {"id": Word, "number": int},
    {
        "bare_idle": Group(
            {
                **_ONCE,
                "gpus": {
                    str: Group(
                        {
                            "mean_w": _FIGURE,
                            "u95_w": _FIGURE,
                            "temperature_c": _FIGURE,
                            "sm_clock_mhz": _FIGURE,
                        }
                    )
                },
            }
        ),
        "engine_start": Group({**_ONCE, "gpus": {str: Group({"energy_j": _FIGURE, "u95_j": _FIGURE})}}),
    },
)
"""The start of the engine that a run shares, and what was measured on it for all its runs."""
_CONFIG = Group(
    {
        "model": Group({"name": str, "weights": str}),
        "scenario": Group({"kind": str}),
        "engine": Group({"name": str}),
        "gpu": Group({"name": str}),
    }
)
"""What a configuration must have before its loader reads it."""
_RUN = Group(
    {
        "evidence": str,
        "schema_version": int,
        "run_id": Word,
        "point_id": Word,
        "origin": str,
        "instrument": str,
        "seed": int,
        "repeat": int,
        "config": _CONFIG,
        "started_utc": str,
        "clock_pairs": [Group({"monotonic_ns": int, "utc_ns": int})],
        "host": _HOST,
        "gpus": [_GPU],
        "nvml": Group(optional={"path": _TEXT, "driver_version": _TEXT, "remote": _REMOTE}),
        "versions": {str: _TEXT},
        "engine": Group(optional={"details": (Group(), None)}),
        "sensors": {str: Group()},
        "sampler": {str: (_SAMPLER, None)},
        "phases": [Group({"phase": str, "start_ns": int, "end_ns": _COUNT})],
        "validity": Group({"valid": bool}, {"reasons": [str], "messages": [str]}),
    },
    {
        "session": _SESSION,
        "notes": [str],
        "log_tail": [str],
        "complete": bool,
        "attempt": int,
        "timing": {str: _FIGURE},
        "length_changes": {str: int},
        "asked": Group(),
        "warmup": _WARMUP,
        **dict.fromkeys(("characterisation", "rehearsal", "gpu_settings", "cooldown"), Group()),
        "files": {Word: Group({"bytes": int, "rows": int, "sha256": str})},
    },
)
"""All of `run.json` that anything relies on. Keys that are not here are kept and not checked."""


_METRICS = Group(
    {
        "metrics_version": int,
        "evidence": str,
        "energy": {str: Group({"basis": _TEXT, "value_j": _FIGURE, "reasons": [str]})},
        "validity": Group(
            {
                "valid": bool,
                "reasons": [str],
                "findings": [
                    Group(
                        {"code": str, "figure": float, "limit": float, "unit": str}
                        | {"message": str, "invalidates": bool}
                    )
                ],
            }
        ),
        "metrics": {str: _FIGURE},
        "null_reasons": {str: str},
    }
)
"""All of `metrics.json` that anything relies on."""


def check_metrics(data: Any) -> None:
    """Raises KeyError or ValueError for what is no content of `metrics.json`."""
    _check(data, _METRICS, "")


def check_run(data: Any) -> RunConfig:
    """The configuration in a `run.json`. Raises KeyError for a key that is missing, ValueError for one that is not what it
    must be."""
    _check(data, _RUN, "")
    for name, most in (("phases", MOST_PHASES), ("gpus", MOST_GPUS), ("notes", MOST_LINES)):
        if len(data.get(name, ())) > most:
            raise ValueError(f"{name} has more than {most} entries")
    if data["repeat"] < 0:
        raise ValueError("repeat must not be negative")
    for number, span in enumerate(data["phases"]):
        start_ns, end_ns = span["start_ns"], span["end_ns"]
        if start_ns < 0 or (end_ns is not None and not 0 <= end_ns - start_ns <= LONGEST_PHASE_NS):
            raise ValueError(f"phases[{number}] ends before it begins, or lasts for more than a month")
    return typed_config(data["config"])


def typed_config(config: Mapping[str, Any]) -> RunConfig:
    """A record's configuration with its types; keys of later versions are passed over. Raises ValueError."""
    try:
        return from_json(_without_password(config), later_keys=True)
    except WattcountError as error:
        raise ValueError(f"config: {error}") from error


def _without_password(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` with a masked `tracking.uri`: this process would take a password in it for the one to connect with."""
    tracking = config.get("tracking")
    if not isinstance(tracking, Mapping) or not isinstance(uri := tracking.get("uri"), str):
        return config
    return {**config, "tracking": {**tracking, "uri": masked(uri)}}


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, tuple):
        if value is not None:
            _check(value, shape[0], where)
    elif isinstance(shape, Group):
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'} must be a group of keys")
        for name in shape.required:
            if name not in value:
                raise KeyError(f"{where}.{name}" if where else name)
        for name, inner in (*shape.required.items(), *shape.optional.items()):
            if name in value:
                _check(value[name], inner, f"{where}.{name}" if where else name)
    elif isinstance(shape, dict):
        ((key_shape, inner),) = shape.items()
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a group of keys")
        for name, item in value.items():
            _check(name, key_shape, f"a key of {where}")
            _check(item, inner, f"{where}.{name[:100]}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    else:
        _check_scalar(value, shape, where)


def _check_scalar(value: Any, kind: type, where: str) -> None:
    if kind in (str, Word):
        if not isinstance(value, str):
            raise ValueError(f"{where} must be text")
        if len(value) > TEXT_LIMIT:
            raise ValueError(f"{where} has more than {TEXT_LIMIT:,} characters")
        if kind is Word and not _WORD.fullmatch(value):
            raise ValueError(f"{where} must be letters, digits and . _ - only")
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false")
    elif isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ValueError(f"{where} must be {'a whole number' if kind is int else 'a number'}")
