"""Reads a record. Needs NumPy and PyArrow only; raises `WattcountError` where a file is not what it should be."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import pyarrow as pa

from wattcount.energy.rapl import HostPowerTrace
from wattcount.energy.trace import PowerTrace
from wattcount.engines import registry
from wattcount.errors import NotStartedError, WattcountError, one_line
from wattcount.records import intake, packing, schema
from wattcount.records.intake import DamagedError
from wattcount.records.schema import OLDEST_SCHEMA_VERSION, RECORD_SCHEMA_VERSION, RunInfo

Made = TypeVar("Made")

RAW_FILES = tuple(schema.TABLES)
"""Names of the files of raw observations: each has its hash in `run.json`."""


class Record:
    """A run record. `run.json` is read at once, the tables when they are asked for, and then kept.

    path, info   the folder and the content of `run.json`
    power        a `PowerTrace` with every GPU of the run, also those without an observation
    host_power   a `HostPowerTrace`; without a reading where the host had none, or the record is an old one
    host         table of `HOST_SCHEMA`; without a row where the record is an old one
    requests, steps   tables of `REQUESTS_SCHEMA` and `STEPS_SCHEMA`
    metrics      the content of `metrics.json` as it is now, or None
    """

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info
        self._made: dict[Hashable, Any] = {}

    @classmethod
    def open(cls, path: str | Path) -> Record:
        """Raises `WattcountError` for a folder that is no record, is damaged, or is of another version.

        A record is data that anybody may have written: links and odd files in it are refused, and so is a `run.json`
        whose keys have other types than ours. Raw files that are missing or have another size than was written are
        found here; whether their content is the same tells `check_files`.
        """
        folder = Path(path)
        file = folder / schema.RUN_JSON
        try:
            content = intake.read_bytes(file)
        except FileNotFoundError:
            what = (
                "does not exist" if not folder.exists() else f"is no run record (it has no {schema.RUN_JSON})"
            )
            raise WattcountError(f"{folder} {what}") from None
        except DamagedError as error:
            if isinstance(error.__cause__, NotADirectoryError):
                raise WattcountError(f"{folder} is a file; a run record is a folder") from None
            raise
        data = intake.parse_json(content, file)
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise DamagedError(f"{file} is no run record: it has no schema_version")
        if not OLDEST_SCHEMA_VERSION <= version <= RECORD_SCHEMA_VERSION:
            raise WattcountError(
                f"{folder} is a record of schema version {version}, this wattcount reads versions "
                f"{OLDEST_SCHEMA_VERSION} to {RECORD_SCHEMA_VERSION}: "
                + ("pip install -U wattcount" if version > RECORD_SCHEMA_VERSION else "measure again")
            )
        try:
            info = RunInfo.from_json(upgraded(data))
        except KeyError as error:
            raise DamagedError(f"{file} is damaged: the key {error} is missing") from error
        except ValueError as error:
            raise DamagedError(f"{file} is damaged: {one_line(error)}") from error
        record = cls(folder, info)
        record._check_sizes()
        return record

    def once(self, what: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` finds in this record, found once; `what` names it."""
        if what not in self._made:
            self._made[what] = make()
        return cast(Made, self._made[what])

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of `run.json` and of each raw file as they are now, by name: what `metrics.json` is made of."""
        found = {}
        for name in (schema.RUN_JSON, *self.raw_files):
            try:
                found[name] = intake.sha256(self.path / name)
            except FileNotFoundError:
                raise self._missing(name) from None
        return found

    def check_files(self) -> None:
        """Compares the raw files with what was written. Raises `DamagedError`.

        Records without `files`, of early versions, have nothing to be compared with.
        """
        for name, facts in self.info.files.items():
            if name in self.digests and self.digests[name] != facts.sha256:
                raise DamagedError(
                    f"{self.path / name} is not what was measured: its SHA-256 differs from run.json's"
                )

    def files(self) -> list[Path]:
        """The files of the record in the order of their names. Raises `DamagedError` for links, folders and odd files."""
        found = []
        for file in sorted(self.path.iterdir()):
            with intake.opened(file):
                found.append(file)
        return found

    @property
    def _packed(self) -> bool:
        return self.info.schema_version >= schema.PACKED_SCHEMA_VERSION

    @property
    def raw_files(self) -> list[str]:
        """Names of the files with the observations, in an order that is always the same."""
        return [n for n in RAW_FILES if not self._may_lack(n) or os.path.lexists(self.path / n)]

    def _check_sizes(self) -> None:
        for name in {*self.raw_files, *self.info.files}:
            file, facts = self.path / name, self.info.files.get(name)
            try:
                with intake.opened(file) as stream:
                    size = stream.seek(0, 2)
            except FileNotFoundError:
                raise self._missing(name) from None
            if facts is not None and size != facts.bytes:
                raise DamagedError(f"{file} is damaged: it has {size} bytes, {facts.bytes} were written")

    def _may_lack(self, name: str) -> bool:
        """Whether there need not be this file: the host had no counters, or the record is an old one."""
        old = name == schema.TOKENS_PARQUET and not self._packed
        return name not in self.info.files and (old or name in schema.OPTIONAL_FILES)

    def _missing(self, name: str) -> DamagedError:
        return DamagedError(f"{self.path} is damaged: {name} is missing")

    def rows(self, name: str) -> int:
        """How many rows a raw file has; nothing of it is decoded."""
        return intake.count_rows(self.path / name)

    @cached_property
    def power_table(self) -> pa.Table:
        """The rows of `power`."""
        return self._table(schema.POWER_PARQUET, schema.POWER_SCHEMA)

    @cached_property
    def power(self) -> PowerTrace:
        uuids = [str(gpu["uuid"]) for gpu in self.info.gpus if gpu.get("uuid")]
        try:
            return PowerTrace.from_arrow(
                self.power_table, uuids or None, clock_bound_ns=self.info.clock_bound_ns
            )
        except ValueError as error:
            raise DamagedError(f"{self.path / schema.POWER_PARQUET}: {one_line(error)}") from error

    @cached_property
    def requests(self) -> pa.Table:
        if not self._packed:
            return self._table(schema.REQUESTS_PARQUET, schema.REQUESTS_SCHEMA)
        rows = self._table(schema.REQUESTS_PARQUET, schema.REQUEST_ROWS_SCHEMA)
        try:
            return packing.joined(rows, self._tokens)
        except ValueError as error:
            raise DamagedError(
                f"{self.path / schema.TOKENS_PARQUET} is damaged: {one_line(error)}"
            ) from error

    @cached_property
    def _tokens(self) -> pa.Table:
        """Arrivals of tokens, where they do not lie in `requests.parquet`."""
        return self._table(schema.TOKENS_PARQUET, schema.TOKENS_SCHEMA)

    @cached_property
    def steps(self) -> pa.Table:
        return self._table(schema.STEPS_PARQUET, schema.STEPS_SCHEMA)

    @cached_property
    def host_power(self) -> HostPowerTrace:
        return HostPowerTrace.from_arrow(self.info.host.get("rapl"), self.host_power_table)

    @property
    def metrics(self) -> dict[str, Any] | None:
        file = self.path / schema.METRICS_JSON
        try:
            data = intake.parse_json(intake.read_bytes(file), file)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            raise DamagedError(f"{error}; wattcount metrics {self.path} makes it afresh") from error
        if not isinstance(data, dict):
            raise DamagedError(f"{file} is damaged: wattcount metrics {self.path} makes it afresh")
        return data

    def verify(self) -> None:
        """Reads every raw file whole and compares it with what was written. Raises `DamagedError`."""
        self.check_files()
        for table, name in (
            (self.host_power_table, schema.HOST_POWER_PARQUET),
            (self.host, schema.HOST_PARQUET),
            (self.power.events, schema.POWER_PARQUET),
            (self.requests, schema.REQUESTS_PARQUET),
            (self._tokens, schema.TOKENS_PARQUET),
            (self.steps, schema.STEPS_PARQUET),
        ):
            if name in self.info.files and len(table) != self.info.files[name].rows:
                raise DamagedError(f"{self.path / name} is not what was measured: rows are missing")

    @cached_property
    def host(self) -> pa.Table:
        return self._table(schema.HOST_PARQUET, schema.HOST_SCHEMA)

    @cached_property
    def host_power_table(self) -> pa.Table:
        """The rows of `host_power`."""
        return self._table(schema.HOST_POWER_PARQUET, schema.HOST_POWER_SCHEMA)

    def _table(self, name: str, columns: pa.Schema) -> pa.Table:
        """A table with exactly `columns`; further ones, of later versions, are left out. No row where there need not be a file."""
        if name not in self.raw_files:
            return columns.empty_table()
        lie = packing.stored_schema(columns) if self._packed else columns
        try:
            table = intake.read_table(self.path / name, lie, schema.ADDED_LATER)
        except FileNotFoundError:
            raise self._missing(name) from None
        return packing.unpacked(table, columns) if self._packed else table


# -- what records of earlier versions left unsaid, written out as they are read; files are never changed


def upgraded(info: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as this version would have written it; `info` itself is left as it is.

    Keys that were added since with what runs did before as their default need no line here. What an engine's settings
    meant then, its plug-in knows (`EnginePlugin.upgraded`). Each run of version 1 had an engine of its own.
    """
    config = info.get("config")
    if not isinstance(config, Mapping):
        return dict(info)
    told = info.get("engine")
    details = told.get("details") if isinstance(told, Mapping) else None
    groups = {
        "scenario": _scenario(config.get("scenario")),
        "engine": _engine(config.get("engine"), details if isinstance(details, Mapping) else {}),
    }
    alone = {"session": {"id": info["run_id"], "number": 1}} if "run_id" in info else {}
    return {
        **alone,
        **info,
        "config": {**config, **{name: groups[name] for name in groups if name in config}},
    }


def _scenario(scenario: Any) -> Any:
    """The scenario without the kind of rehearsal, which could be chosen for a short while. A warm-up without a limit was of fixed length."""
    if not isinstance(scenario, Mapping):
        return scenario
    found = {key: value for key, value in scenario.items() if key != "rehearsal"}
    if "warmup_s" in found:
        found.setdefault("warmup_limit_s", found["warmup_s"])
    return found


def _engine(engine: Any, details: Mapping[str, Any]) -> Any:
    """The engine's settings with what was left to it. Before there was `unset`, prefix caching was off where nobody had asked for it."""
    if not isinstance(engine, Mapping):
        return engine
    try:
        found = registry.plugin(str(engine.get("name"))).upgraded(engine, details)
    except NotStartedError:  # of an engine that is not installed here
        found = engine
    return {
        "unset": ["enable_prefix_caching"] if found.get("enable_prefix_caching") is False else [],
        **found,
    }
