"""Markdown tables from records, for `tools/make_docs.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wattcount.config.levers import levers
from wattcount.metrics import compute
from wattcount.records import Record

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Entry:
    """A record of a real GPU, what it is called in tables, and its metrics."""

    name: str
    record: Record
    metrics: dict[str, float | None]
    findings: tuple[str, ...]
    valid: bool

    @property
    def config(self) -> dict[str, Any]:
        return self.record.info.config

    @property
    def scenario(self) -> dict[str, Any]:
        scenario: dict[str, Any] = self.config["scenario"]
        return scenario

    @property
    def model(self) -> str:
        name: str = self.config["model"]["name"]
        return name

    @property
    def levers(self) -> list[str]:
        return levers(self.config)

    @property
    def gpus(self) -> int:
        """How many the run used; energy and power are totals over them."""
        return len(self.record.info.gpus)

    @property
    def board(self) -> str:
        """`8d2e`, or `3733+8d2e` of a run on two: the first digits of their UUIDs."""
        return "+".join(sorted(gpu["uuid"].removeprefix("GPU-")[:4] for gpu in self.record.info.gpus))

    def value(self, key: str) -> float:
        value = self.metrics[key]
        assert value is not None, (self.name, key)
        return value


def name_of(config: dict[str, Any]) -> str:
    """`llama3_8b, batch of 512, fp8`; lengths only where they are not those of `batch` and `server`."""
    scenario = config["scenario"]
    rate, lengths = scenario.get("rate_rps"), scenario["lengths"]
    load = f"batch of {scenario['num_requests']}" if rate is None else f"server, {rate:g} requests/s"
    if lengths["output_tokens"] != (256 if rate is None else 128):
        load += f", {lengths['input_tokens']} in, {lengths['output_tokens']} out"
    return ", ".join([config["model"]["name"], load, *levers(config)])


@cache
def entries(gpu: str) -> tuple[Entry, ...]:
    """All of `data/<gpu>/records`, batches first, then by rate; none where there is no such folder."""
    found = []
    for path in sorted((ROOT / "data" / gpu / "records").glob("*/*/run.json")):
        record = Record.open(path.parent)
        content = compute(record)
        name, validity = name_of(record.info.config), content["validity"]
        codes = tuple(finding["code"] for finding in validity["findings"])
        entry = Entry(name, record, content["metrics"], codes, validity["valid"])
        rate = entry.scenario.get("rate_rps") or 0.0
        found.append(((rate, name, record.info.started_utc, record.info.run_id), entry))
    return tuple(entry for _, entry in sorted(found, key=lambda item: item[0]))


def is_of_many_shapes(entry: Entry) -> bool:
    """Whether it belongs to the study `architectures`."""
    return entry.scenario["name"] in ("batch_short", "server_short")


def records(gpu: str) -> list[tuple[str, Record, dict[str, float | None]]]:
    """(name, record, metrics) of all of a GPU but those of many shapes."""
    return [(e.name, e.record, e.metrics) for e in entries(gpu) if not is_of_many_shapes(e)]


def number(value: float | None, digits: int = 3) -> str:
    """With so many significant digits; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
