"""Markdown tables from records, for `tools/make_docs.py`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from wattcount.config.levers import levers
from wattcount.metrics import compute
from wattcount.record import Record

ROOT = Path(__file__).resolve().parent.parent
H200 = ROOT / "data" / "h200"


@dataclass(frozen=True)
class Entry:
    """A record of data/h200, what it is called in tables, and its metrics."""

    name: str
    record: Record
    metrics: dict[str, float | None]
    findings: tuple[str, ...]
    valid: bool

    @property
    def scenario(self) -> dict:
        return self.record.info.config["scenario"]

    @property
    def levers(self) -> list[str]:
        return levers(self.record.info.config)

    @property
    def board(self) -> str:
        (gpu,) = self.record.info.gpus
        return gpu["uuid"][4:8]

    def value(self, key: str) -> float:
        value = self.metrics[key]
        assert value is not None, (self.name, key)
        return value


def entries() -> list[Entry]:
    """All of them, batches first, then by rate."""
    found = []
    for path in sorted(H200.glob("records/*/*/run.json")):
        record = Record.open(path.parent)
        config, content = record.info.config, compute(record)
        scenario = config["scenario"]
        rate = scenario.get("rate_rps")
        load = f"batch of {scenario['num_requests']}" if rate is None else f"server, {rate:g} requests/s"
        lengths = scenario["lengths"]
        usual = 256 if rate is None else 128
        if lengths["output_tokens"] != usual:
            load += f", {lengths['input_tokens']} in, {lengths['output_tokens']} out"
        name = ", ".join([config["model"]["name"], load, *levers(config)])
        validity = content["validity"]
        findings = tuple(finding["code"] for finding in validity["findings"])
        entry = Entry(name, record, content["metrics"], findings, validity["valid"])
        found.append(((rate or 0.0, name, record.info.started_utc), entry))
    return [entry for _, entry in sorted(found, key=lambda item: item[0])]


def is_of_many_shapes(entry: Entry) -> bool:
    """Whether it belongs to the study `architectures`."""
    return entry.scenario["name"] in ("batch_short", "server_short")


def records() -> list[tuple[str, Record, dict[str, float | None]]]:
    """(name, record, metrics) of all but those of many shapes."""
    return [(e.name, e.record, e.metrics) for e in entries() if not is_of_many_shapes(e)]


def number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "-"
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
