"""A version of a data set as one file: Parquet, JSON, or CSV in the 15 columns of Watt Counts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wattcount.dataset import rows
from wattcount.dataset.references import fetched, references
from wattcount.dataset.store import Dataset
from wattcount.dataset.version import Version
from wattcount.energy.events import Source
from wattcount.errors import WattcountError
from wattcount.importers import watt_counts
from wattcount.metrics.observations import ends_in, held
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.text import printable

CSV_COLUMNS = ("", *watt_counts.COLUMNS)
"""Watt Counts' own, in its order: an unnamed index first. Energy in J, power in W, times in s; the last four hold lists."""
_OF_THE_RECORD = CSV_COLUMNS[7:]
"""Columns that only the record tells."""


def to_parquet(dataset: Dataset, version: Version, target: Path) -> int:
    """Returns the number of rows."""
    table = dataset.table(version)
    rows.write(table, target)
    return len(table)


def to_json(dataset: Dataset, version: Version, target: Path) -> int:
    """A list of objects; what is null is left out, and what is JSON in the rows is no text. Returns the number of rows."""
    found = []
    for row in dataset.table(version).to_pylist():
        for name in ("setting", "findings", "null_reasons"):
            row[name] = None if row[name] is None else json.loads(row[name])
        found.append({key: value for key, value in row.items() if value is not None})
    target.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return len(found)


def to_csv(
    dataset: Dataset, version: Version, target: Path, say: Callable[[str], None] = lambda _: None
) -> int:
    """Watt Counts' columns, of valid results. The records are fetched for the power and the lists; where there is none, those
    cells are empty. Returns the number of rows.

    say   is told which record cannot be had
    """
    of_records: dict[str, Mapping[str, Any]] = {}
    table = dataset.table(version)
    valid = {
        row[rows.ID] for row in table.select([rows.ID, "status"]).to_pylist() if row["status"] == "valid"
    }
    wanted = [item for item in references(dataset, version) if item.result_id in valid]
    with fetched(dataset, version, wanted) as records:
        for reference, record in records:
            if isinstance(record, WattcountError):
                say(str(record))
                continue
            try:
                of_records[reference.result_id] = of_record(Record.open(record))
            except WattcountError as error:
                say(str(error))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    number = 0
    for row in table.to_pylist():
        if row["status"] != "valid":
            continue
        known = of_records.get(row[rows.ID], {})
        facts = (
            _text(row["model"]),
            _text((row["gpus"] or [row["gpu"]])[0]),
            row["rate_rps"],
            None if row["tokens_output"] is None else round(row["tokens_output"]),
            row["window_duration_s"] or row["window_s"],
            row["energy_gpu_j"],
        )
        values = [number, *facts, *(known.get(name) for name in _OF_THE_RECORD)]
        if values[7] is None and len(row["gpus"] or ()) == 1:
            values[7] = row["power_gpu_mean_w"]
        writer.writerow(["" if value is None else value for value in values])
        number += 1
    target.write_text(text.getvalue(), encoding="utf-8")
    return number


def of_record(record: Record) -> dict[str, Any]:
    """The cells of Watt Counts' columns that need the record: power of the first GPU as `nvmlDeviceGetPowerUsage` told it in
    the window, and a number for each request that was sent in it and completed. A batch has one end-to-end latency, that of
    all, and no time to first token."""
    seen = Observed(record)
    if seen.window is None:
        return {}
    found: dict[str, Any] = {}
    for source in (Source.POWER_USAGE, Source.POWER_AVERAGE):
        power_mw, held_ns = held(record.power, 0, source, seen.window)
        if len(power_mw):
            mean = float(np.average(power_mw, weights=held_ns))
            deviation = float(np.sqrt(np.average((power_mw - mean) ** 2, weights=held_ns)))
            values = (mean, power_mw.min(), power_mw.max(), deviation)
            names = CSV_COLUMNS[7:11]
            found |= {name: round(float(value) / 1e3, 3) for name, value in zip(names, values, strict=True)}
            break
    requests = seen.requests
    chosen = np.flatnonzero(requests.sent_in(seen.window) & requests.completed)
    if seen.is_batch:
        chosen = np.flatnonzero(requests.completed & ends_in(requests.last_token_ns, seen.window))
    sent = requests.actual_send_ns[chosen]
    ttft_s = (requests.first_token_ns[chosen] - sent) / 1e9
    e2e_s = (requests.last_token_ns[chosen] - sent) / 1e9
    if seen.is_batch:
        whole = [seen.window.duration_s]
        found |= {CSV_COLUMNS[11]: _list([]), CSV_COLUMNS[12]: _list(whole)}
    else:
        found |= {CSV_COLUMNS[11]: _list(ttft_s), CSV_COLUMNS[12]: _list(e2e_s)}
    found[CSV_COLUMNS[13]] = _list(requests.output_tokens[chosen])
    found[CSV_COLUMNS[14]] = _list(requests.input_tokens[chosen])
    return found


def _list(values: Any) -> str:
    return json.dumps([round(float(v), 9) if isinstance(v, float | np.floating) else int(v) for v in values])


def _text(value: str | None) -> str | None:
    """Made harmless: spreadsheets take it for no formula, terminals for no command."""
    if value is None:
        return None
    text = printable(value, lines=False)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
