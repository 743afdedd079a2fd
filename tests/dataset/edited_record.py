"""Real records, copied and edited as a submitter could edit his own: hashes and figures are made anew, so only rules can tell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.synthetic_record import hash_files
from wattcount.dataset.checks import RULES
from wattcount.dataset.confined import check_record
from wattcount.metrics import write
from wattcount.records import Record, packing, schema

DATA = Path(__file__).resolve().parents[2] / "data"
BATCH = DATA / "h100/records/68f4c1df475d/r0-20261127-065408-111-9482b1"
SERVER = DATA / "h200/records/4c2d3c97a486/r0-20261123-204334-186-9f77ed"
"""Its warm-up went on for longer than it had to."""


def copied(record: Path, to: Path) -> Path:
    return Path(shutil.copytree(record, to / record.name))


def edit_run(record: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes `run.json` in place."""
    file = record / schema.RUN_JSON
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))


def edit_requests(record: Path, **columns: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes columns of the requests that have no nulls, each by a function of its values."""
    requests = Record.open(record).requests
    for name, change in columns.items():
        where = requests.schema.get_field_index(name)
        values = requests[name].combine_chunks()
        known = np.asarray(values.is_valid())
        changed = change(np.asarray(values.fill_null(0).to_numpy()).copy())
        column = pa.array(changed, requests.schema.field(where).type, mask=~known)
        requests = requests.set_column(where, requests.schema.field(where), column)
    _write_requests(record, requests)


def keep_requests(record: Path, keep: Callable[[list[str]], list[bool]]) -> None:
    """Leaves requests out, by their ids."""
    requests = Record.open(record).requests
    _write_requests(record, requests.filter(pa.array(keep(requests["request_id"].to_pylist()))))


def _write_requests(record: Path, requests: pa.Table) -> None:
    rows, tokens = packing.split(requests)
    packing.write(record / schema.REQUESTS_PARQUET, schema.REQUEST_ROWS_SCHEMA, [rows])
    packing.write(record / schema.TOKENS_PARQUET, schema.TOKENS_SCHEMA, [tokens])
    hash_files(record)


def figures_anew(record: Path) -> None:
    """What a forger would do: figures of the edited files."""
    write(record)


def broken(record: Path, *, in_bundle: bool = False, cohort: str | None = None) -> dict[str, list[str]]:
    """Messages of the breaches of a record by rule, without those that old records have for their point."""
    found = check_record(
        {"path": str(record), "folder": "records/x", "in_bundle": in_bundle, "cohort": cohort}
    )
    messages: dict[str, list[str]] = {}
    for breach in found["breaches"]:
        if (breach["severity"] or RULES[breach["rule"]].severity) != "warn":
            messages.setdefault(breach["rule"], []).append(breach["message"])
    return messages
