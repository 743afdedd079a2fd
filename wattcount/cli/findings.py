"""What `wattcount doctor` finds: lines with a state, and what to do about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wattcount.terminal import console

OK, NOTE, MISSING = "ok", "note", "missing"
"""States of a finding: in order, worth knowing, and in the way of measuring here."""


@dataclass(frozen=True)
class Finding:
    """One line of the report. `missing` means that measuring here does not work until `fix` is done."""

    state: str
    topic: str
    text: str
    fix: str | None = None


@dataclass
class Report:
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """The same for machines, `--json`."""

    def add(self, state: str, topic: str, text: str, fix: str | None = None) -> None:
        self.findings.append(Finding(state, topic, text, fix))

    @property
    def ok(self) -> bool:
        return all(finding.state != MISSING for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            **self.facts,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
        }


def show(report: Report, conclusion: str) -> None:
    """A table of three columns, and a line under it; 80 columns of plain text where stdout is no terminal."""
    from rich.table import Table
    from rich.text import Text

    styles = {OK: "green", NOTE: "yellow", MISSING: "bold red"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding, first in _with_first_of_topic(report.findings):
        text = Text(finding.text)
        if finding.fix is not None:
            text.append(f"\n-> {finding.fix}", style="cyan")
        table.add_row(Text(finding.state, styles[finding.state]), finding.topic if first else "", text)
    out = console()
    with out.capture() as captured:
        out.print(table)
        out.print(conclusion, style="bold", soft_wrap=True)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _with_first_of_topic(findings: Iterable[Finding]) -> Iterator[tuple[Finding, bool]]:
    previous = None
    for finding in findings:
        yield finding, finding.topic != previous
        previous = finding.topic
