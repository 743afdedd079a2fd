"""Run records made of real raw files with exactly known content: constant power, known tokens.

::

    0        10             20            30       40       100      110                 120 s
    bare idle | engine start | loaded idle | warm-up | window | drain | loaded idle after
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.config.loader import to_json
from wattcount.config.schema import (
    BatchConfig,
    Device,
    EngineConfig,
    GpuConfig,
    ModelConfig,
    RunConfig,
    ServerConfig,
    SloConfig,
    Weights,
)
from wattcount.metrics import compute, load_metrics, to_bytes
from wattcount.records import Record, schema
from wattcount.records.schema import Evidence, Phase, PhaseSpan, RunInfo, Validity
from wattcount.records.writer import write_tables

T0_NS = 1_000_000_000_000
UTC_NS = 1_790_000_000_000_000_000
"""CLOCK_REALTIME at T0_NS."""
BOUNDS_S = {
    Phase.BARE_IDLE: (0, 10),
    Phase.ENGINE_START: (10, 20),
    Phase.LOADED_IDLE: (20, 30),
    Phase.WARMUP: (30, 40),
    Phase.WINDOW: (40, 100),
    Phase.DRAIN: (100, 110),
    Phase.IDLE_AFTER: (110, 120),
}


def at(seconds: float) -> int:
    """Monotonic nanoseconds of a time on the run's own axis."""
    return T0_NS + round(seconds * 1e9)


def request(
    index: int,
    send_s: float,
    *,
    lag_ms: float = 0.0,
    ttft_ms: float = 50.0,
    itl_ms: float = 10.0,
    tokens: int = 11,
    chunk: int = 1,
    input_tokens: int = 512,
    status: str = "completed",
    phase: str = "window",
    **other: Any,
) -> dict[str, Any]:
    """A row of `requests.parquet`: `tokens` in chunks of `chunk`, `itl_ms` between chunks."""
    sent = None if status == "not_sent" else at(send_s) + round(lag_ms * 1e6)
    sizes = [chunk] * (tokens // chunk) + ([tokens % chunk] if tokens % chunk else [])
    stamps = [] if sent is None else [sent + round((ttft_ms + i * itl_ms) * 1e6) for i in range(len(sizes))]
    return {
        "request_id": f"w{index}",
        "index": index,
        "phase": phase,
        "planned_send_ns": at(send_s),
        "actual_send_ns": sent,
        "first_token_ns": stamps[0] if stamps else None,
        "last_token_ns": stamps[-1] if stamps else None,
        "token_ts_ns": stamps,
        "token_count": sizes if stamps else [],
        "input_tokens": input_tokens,
        "cached_tokens": None,
        "output_tokens": sum(sizes) if stamps else 0,
        "preemptions": None,
        "engine_queued_ns": None,
        "engine_scheduled_ns": None,
        "engine_first_token_ns": None,
        "engine_last_token_ns": None,
        "status": status,
        "error": "it broke" if status == "failed" else None,
    } | other


def steady_requests(
    rate_rps: float = 4.0, start_s: float = 30.0, end_s: float = 100.0, **each: Any
) -> list[Any]:
    """Requests at a constant rate; those before the window's start are warm-up."""
    count = round((end_s - start_s) * rate_rps)
    times = [start_s + (i + 0.5) / rate_rps for i in range(count)]
    return [
        request(i, t, phase="warmup" if at(t) < at(BOUNDS_S[Phase.WINDOW][0]) else "window", **each)
        for i, t in enumerate(times)
    ]


@dataclass
class SyntheticRun:
    """What is written. `power_w` is a constant or a function of the run's seconds."""

    power_w: float | Callable[[float], float] = 300.0
    gpus: int = 1
    gpu_name: str = "NVIDIA H200"
    requests: list[dict[str, Any]] = field(default_factory=steady_requests)
    steps: list[dict[str, Any]] = field(default_factory=list)
    phases: list[PhaseSpan] = field(
        default_factory=lambda: [PhaseSpan(p, at(a), at(b)) for p, (a, b) in BOUNDS_S.items()]
    )
    evidence: Evidence = Evidence.MEASURED
    validity: Validity = field(default_factory=lambda: Validity(True))
    complete: bool = True
    model: str = "llama3_8b"
    weights: Weights = Weights.hub
    scenario: str = "server"
    rate_rps: float = 4.0
    slo: SloConfig = field(default_factory=SloConfig)
    seed: int = 0
    repeat: int = 0
    run_id: str = "20260901-120000-abcdef"
    observations: list[dict[str, Any]] = field(default_factory=list)
    """More rows of `power.parquet`, see `observation`."""
    last_read_s: float = 121.0
    sampler: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    gpu_facts: dict[str, Any] = field(default_factory=dict)
    """More keys of each GPU in `run.json`."""
    warmup: dict[str, Any] = field(default_factory=dict)
    length_changes: dict[str, int] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)
    rapl: dict[str, Any] | None = None
    """`run.json`'s `host.rapl`."""
    host_power: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `host_power.parquet`; without one there is no file."""
    host: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `host.parquet`; without one there is no file."""

    def uuid(self, gpu: int = 0) -> str:
        return f"GPU-00000000-0000-0000-0000-{gpu:012d}"

    def config(self) -> dict[str, Any]:
        scenario = (
            BatchConfig(name="batch", slo=self.slo, num_requests=len(self.requests))
            if self.scenario == "batch"
            else ServerConfig(name="server", slo=self.slo, rate_rps=self.rate_rps)
        )
        cfg = RunConfig(
            model=ModelConfig(name=self.model, weights=self.weights),
            gpu=GpuConfig(name="h200", found_name=self.gpu_name, count=self.gpus),
            scenario=scenario,
            engine=EngineConfig(device=Device.cuda),
            evidence=str(self.evidence),
            records_dir="/records",
            seed=self.seed,
            repeat=self.repeat,
        )
        return to_json(cfg)

    def info(self) -> RunInfo:
        return RunInfo(
            schema_version=schema.RECORD_SCHEMA_VERSION,
            run_id=self.run_id,
            point_id=hashlib.sha256(f"{self.model} {self.rate_rps}".encode()).hexdigest(),
            evidence=self.evidence,
            origin="wattcount",
            instrument="nvml",
            seed=self.seed,
            repeat=self.repeat,
            config=self.config(),
            started_utc="2026-09-01T12:00:00+00:00",
            clock_pairs=[
                {"monotonic_ns": T0_NS, "utc_ns": UTC_NS, "bracket_ns": 100},
                {"monotonic_ns": at(120), "utc_ns": UTC_NS + 120_000_000_000, "bracket_ns": 100},
            ],
            host={"hostname": "node1"} | ({} if self.rapl is None else {"rapl": self.rapl}),
            gpus=[
                {"uuid": self.uuid(i), "index": i, "name": self.gpu_name} | self.gpu_facts
                for i in range(self.gpus)
            ],
            nvml={"path": "/usr/lib/libnvidia-ml.so.1", "sha256": "ab" * 32, "driver_version": "580.159"},
            versions={"wattcount": "0.1.0", "vllm": "0.32.0"},
            engine=self.engine,
            sensors={},
            sampler=self.sampler,
            phases=self.phases,
            validity=self.validity,
            complete=self.complete,
            warmup=self.warmup,
            length_changes=self.length_changes,
            session=self.session or {"id": self.run_id, "number": 1},
        )

    def power_rows(self) -> list[dict[str, Any]]:
        """A counter that is read every half second, 1 ms after its tick; in whole millijoules."""
        rows = []
        for gpu in range(self.gpus):
            previous, total_mj = -1, 5_000_000.0
            for tick in range(int(self.last_read_s * 2) + 1):
                now = tick / 2
                if tick:
                    total_mj += 500.0 * (self.power_w(now - 0.25) if callable(self.power_w) else self.power_w)
                t0 = at(now) + 1_000_000
                row = observation(
                    "energy_counter", now + 0.001, round(total_mj), gpu=gpu, prev_t0_ns=previous
                )
                rows.append(row | {"t1_ns": t0 + 2_000_000})
                previous = t0
        return [row | {"gpu": self.uuid(row["gpu"])} for row in [*rows, *self.observations]]

    def write(self, folder: Path, shuffle: int | None = None) -> Path:
        """Writes the record into `folder`; `shuffle`: seed of a permutation of all rows."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / schema.RUN_JSON).write_text(json.dumps(asdict(self.info())))

        def table(rows: list[dict[str, Any]], columns: pa.Schema) -> pa.Table:
            order = (
                range(len(rows)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(rows))
            )
            columns_only = pa.schema([f.with_type(_plain(f.type)) for f in columns])
            return pa.Table.from_pylist([rows[i] for i in order], schema=columns_only).cast(columns)

        others = {
            schema.STEPS_PARQUET: table(self.steps, schema.STEPS_SCHEMA),
            schema.HOST_POWER_PARQUET: table(self.host_power, schema.HOST_POWER_SCHEMA),
            schema.HOST_PARQUET: table(self.host, schema.HOST_SCHEMA),
        }
        power, requests = (
            table(self.power_rows(), schema.POWER_SCHEMA),
            table(self.requests, schema.REQUESTS_SCHEMA),
        )
        write_tables(folder, [power], requests, others)
        return folder


def as_version_1(path: Path) -> Path:
    """Makes a record of `path` as wattcount wrote it at first: tables as they are, arrivals of tokens as lists in the requests."""
    record = Record.open(path)
    tables = {
        schema.POWER_PARQUET: record.power_table,
        schema.REQUESTS_PARQUET: record.requests,
        schema.STEPS_PARQUET: record.steps,
    }
    for name, table in tables.items():
        pq.write_table(table, path / name)
    (path / schema.TOKENS_PARQUET).unlink()
    content = json.loads((path / schema.RUN_JSON).read_text())
    content |= {"schema_version": 1, "files": {}}
    (path / schema.RUN_JSON).write_text(json.dumps(content))
    return path


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def observation(
    source: str, seconds: float, value: int, *, gpu: int = 0, nvml_return: int = 0, prev_t0_ns: int = -1
) -> dict[str, Any]:
    """A row of `power.parquet`; the read took 0 ns."""
    return {
        "gpu": gpu,
        "source": source,
        "prev_t0_ns": prev_t0_ns,
        "t0_ns": at(seconds),
        "t1_ns": at(seconds),
        "source_ts_us": -1,
        "value": value,
        "nvml_return": nvml_return,
    }


def step(t: float, running: int = 1, **other: Any) -> dict[str, Any]:
    """A row of `steps.parquet`, reported `t` seconds after the run began."""
    return {
        "logged_ns": at(t), "engine_ts_ns": None, "duration_ns": None, "prefill_tokens": None,
        "decode_tokens": None, "running": running, "waiting": 0, "kv_cache_usage": None,
    } | other  # fmt: skip


def metrics_of(run: SyntheticRun, folder: Path, **options: Any) -> dict[str, Any]:
    """The content of `metrics.json` of the run, written to `folder`."""
    return compute(Record.open(run.write(folder, **options)))


def rewrite_metrics(folder: Path, **changes: Any) -> None:
    """Changes keys of a record's `metrics.json` as if they had been computed from its raw files."""
    record = Record.open(folder)
    (folder / schema.METRICS_JSON).write_bytes(to_bytes(load_metrics(record) | changes, record.digests))


def hash_files(record: Path) -> None:
    """Puts into `run.json` what the writer does: size, rows and SHA-256 of each raw file."""
    facts = {
        file.name: {
            "bytes": file.stat().st_size,
            "rows": pq.read_metadata(file).num_rows,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in record.glob("*.parquet")
    }
    file = record / schema.RUN_JSON
    file.write_text(json.dumps(json.loads(file.read_text()) | {"files": facts}))


def values_of(run: SyntheticRun, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = metrics_of(run, folder)["metrics"]
    return values


def findings_of(run: SyntheticRun, folder: Path) -> dict[str, dict[str, Any]]:
    """What speaks against the record of `run`, by code; each finding is checked for what all have in common."""
    content = metrics_of(run, folder)
    found = {finding["code"]: finding for finding in content["validity"]["findings"]}
    assert content["validity"]["valid"] == (not any(f["invalidates"] for f in found.values()))
    for finding in found.values():
        assert finding["figure"] > finding["limit"]
        assert finding["message"]
        assert "\n" not in finding["message"]
    return found
