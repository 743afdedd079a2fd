"""Reads a record. Needs NumPy and PyArrow only; raises `WattcountError` where a file is not what it should be."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wattcount.errors import WattcountError
from wattcount.power.rapl import HostPowerTrace
from wattcount.power.trace import PowerTrace
from wattcount.record import schema
from wattcount.record.schema import RECORD_SCHEMA_VERSION, RunInfo
from wattcount.record.upgrade import upgraded


class Record:
    """A run record. `run.json` is read at once, the tables when they are asked for, and then kept.

    path, info   the folder and the content of `run.json`
    power        a `PowerTrace` with every GPU of the run, also those without an observation
    host_power   a `HostPowerTrace`; without a reading where the host had none, or the record is an old one
    requests, steps   tables of `REQUESTS_SCHEMA` and `STEPS_SCHEMA`
    metrics      the content of `metrics.json` as it is now, or None
    """

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path = path
        self.info = info

    @classmethod
    def open(cls, path: str | Path) -> Record:
        """Raises `WattcountError` for a folder that is no record, is damaged, or is of another version."""
        folder = Path(path)
        file = folder / schema.RUN_JSON
        try:
            data = json.loads(file.read_bytes())
        except FileNotFoundError:
            what = (
                "does not exist" if not folder.exists() else f"is no run record (it has no {schema.RUN_JSON})"
            )
            raise WattcountError(f"{folder} {what}") from None
        except NotADirectoryError:
            raise WattcountError(f"{folder} is a file; a run record is a folder") from None
        except OSError as error:
            raise WattcountError(f"{file} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise WattcountError(f"{file} is damaged: {_one_line(error)}") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise WattcountError(f"{file} is no run record: it has no schema_version")
        if version != RECORD_SCHEMA_VERSION:
            raise WattcountError(
                f"{folder} is a record of schema version {version}, this wattcount reads version "
                f"{RECORD_SCHEMA_VERSION}: "
                + ("pip install -U wattcount" if version > RECORD_SCHEMA_VERSION else "measure again")
            )
        try:
            info = RunInfo.from_json(upgraded(data))
        except KeyError as error:
            raise WattcountError(f"{file} is damaged: the key {error} is missing") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise WattcountError(f"{file} is damaged: {_one_line(error)}") from error
        return cls(folder, info)

    @cached_property
    def power(self) -> PowerTrace:
        table = self._table(schema.POWER_PARQUET, schema.POWER_SCHEMA)
        uuids = [str(gpu["uuid"]) for gpu in self.info.gpus if gpu.get("uuid")]
        try:
            return PowerTrace.from_arrow(table, uuids or None)
        except ValueError as error:
            raise WattcountError(f"{self.path / schema.POWER_PARQUET}: {_one_line(error)}") from error

    @cached_property
    def requests(self) -> pa.Table:
        return self._table(schema.REQUESTS_PARQUET, schema.REQUESTS_SCHEMA)

    @cached_property
    def steps(self) -> pa.Table:
        return self._table(schema.STEPS_PARQUET, schema.STEPS_SCHEMA)

    @cached_property
    def host_power(self) -> HostPowerTrace:
        return HostPowerTrace.from_arrow(self.info.host.get("rapl"), self._host_power)

    @property
    def metrics(self) -> dict[str, Any] | None:
        file = self.path / schema.METRICS_JSON
        try:
            data = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise WattcountError(
                f"{file} is damaged ({_one_line(error)}): wattcount metrics {self.path} makes it afresh"
            ) from error
        if not isinstance(data, dict):
            raise WattcountError(f"{file} is damaged: wattcount metrics {self.path} makes it afresh")
        return data

    def verify(self) -> None:
        """Reads every raw file whole and compares it with what was written. Raises `WattcountError`."""
        for name, facts in self.info.files.items():
            file = self.path / name
            try:
                with file.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
            except OSError as error:
                raise WattcountError(f"{file} cannot be read: {error.strerror}") from error
            if digest != facts.sha256:
                raise WattcountError(f"{file} is not what was measured: its SHA-256 differs from run.json's")
        for table, name in (
            (self._host_power, schema.HOST_POWER_PARQUET),
            (self.power.events, schema.POWER_PARQUET),
            (self.requests, schema.REQUESTS_PARQUET),
            (self.steps, schema.STEPS_PARQUET),
        ):
            if name in self.info.files and len(table) != self.info.files[name].rows:
                raise WattcountError(f"{self.path / name} is not what was measured: rows are missing")

    @cached_property
    def _host_power(self) -> pa.Table:
        name = schema.HOST_POWER_PARQUET
        if name not in self.info.files and not (self.path / name).exists():
            return schema.HOST_POWER_SCHEMA.empty_table()
        return self._table(name, schema.HOST_POWER_SCHEMA)

    def _table(self, name: str, columns: pa.Schema) -> pa.Table:
        """A table with exactly `columns`; further ones, of later versions, are left out."""
        file = self.path / name
        try:
            facts = self.info.files.get(name)
            if facts is not None and file.stat().st_size != facts.bytes:
                raise WattcountError(
                    f"{file} is damaged: it has {file.stat().st_size} bytes, {facts.bytes} were written"
                )
            table = pq.read_table(file, partitioning=None, page_checksum_verification=True)
            missing = [item for item in columns if item.name not in table.column_names]
            if lost := [item.name for item in missing if item.name not in schema.ADDED_LATER]:
                raise WattcountError(f"{file} is damaged: it has no column {', '.join(lost)}")
            for item in missing:
                table = table.append_column(item, pa.nulls(len(table), item.type))
            return table.select(columns.names).cast(columns)
        except FileNotFoundError:
            raise WattcountError(f"{self.path} is damaged: {name} is missing") from None
        except (OSError, pa.ArrowException) as error:
            raise WattcountError(f"{file} is damaged: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
