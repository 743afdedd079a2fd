"""A result in a few lines, as a run prints it at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from wattcount.metrics.metrics_json import FINDINGS, NULL_REASONS, spec
from wattcount.report.labels import MAIN_FIGURES, caveats, describe, evidence_label
from wattcount.report.units import count, quantity, scale_for, significant
from wattcount.result.host_part import PER_TOKEN
from wattcount.terminal import console
from wattcount.text import printable

if TYPE_CHECKING:
    from wattcount.result import Result


_HIDDEN_WHEN = {"no_slo", "not_a_batch", "batch_has_no_rate"}
"""Reasons for null for which a row is left out, as it does not apply. For all other reasons the row is shown with the reason."""


def summary(result: Result) -> RenderableType:
    """A table of the main figures, with the verdict and notes below it."""
    values, why = result.metrics, result.null_reasons
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("value", no_wrap=True)
    missing: dict[str, None] = {}
    for label, keys in MAIN_FIGURES:
        if not any(key in values or key in why for key in keys):
            continue
        reasons = [why[key] for key in keys if key in why]
        if not _HIDDEN_WHEN.isdisjoint(reasons):
            continue
        missing |= dict.fromkeys(reasons)
        text = _values(keys, values)
        if keys[0] in ("energy/gpu_j", PER_TOKEN) and (value := values.get(keys[0])):
            # The window's energy is this run's alone; energy per token is what people compare settings by.
            u95 = result.u95(keys[0]) if keys[0] != PER_TOKEN else result.u95_setting(keys[0])
            text += f" ± {100 * u95 / value:.2g} %" if u95 else ""
        if len(keys) == 1 and (interval := result.interval(keys[0])) is not None:
            low, high = (quantity(bound, spec(keys[0]).unit, 3) for bound in interval)
            text += f" ({low} to {high})"
        table.add_row(label, text)
    parts: list[RenderableType] = [Text(describe(result), style="bold"), *_head(result)]
    if any(value is not None for value in values.values()):
        parts.append(table)
    if missing and table in parts:
        text = "; ".join(NULL_REASONS.get(code, code.replace("_", " ")) for code in missing)
        parts.append(Text(f"-: {text}", style="dim"))
    if result.energy_basis:
        parts.append(Text(f"Energy from {', '.join(result.energy_basis)}.{_how_sure(result)}", style="dim"))
    parts += [Text(line, style=style) for line, style in _findings(result)]
    return Group(*parts)


def _how_sure(result: Result) -> str:
    """The parts of the intervals of the energy, and of the energy per token."""
    joules, method, sensor = (
        result.value(f"energy/gpu_j{part}") for part in ("", "_u95_method", "_u95_sensor")
    )
    if not joules or method is None or sensor is None:
        return ""
    text = (
        f"\n±: 95 %; {100 * method / joules:.2g} % method, {100 * sensor / joules:.2g} % the board's sensor "
        "(all its runs share that)"
    )
    if (scatter := result.scatter(PER_TOKEN)) is None:
        return f"{text}."
    return (
        f"{text}; per token also {100 * scatter.u95_share:.2g} % host: starts of an engine scatter by {100 * scatter.sd:.2g} % (sd, "
        f"{result.load_kind}, {scatter.freedom} degrees of freedom)."
    )


def _values(keys: tuple[str, ...], values: Mapping[str, Any]) -> str:
    """`34.10 / 40.20 / - ms`: values of one unit have one prefix, and the unit stands once."""
    units = {spec(key).unit for key in keys}
    if len(keys) > 1 and len(units) == 1 and units != {"1"}:
        known = [values.get(key) for key in keys]
        scale, name = scale_for(known, units.pop())
        texts = ["-" if value is None else significant(value / scale) for value in known]
        return f"{' / '.join(texts)} {'' if set(texts) == {'-'} else name}".strip()
    shown = [quantity(values.get(key), spec(key).unit) for key in keys]
    units = {text.partition(" ")[2] for text in shown if text != "-"}
    if len(units) != 1:
        return " / ".join(shown)
    unit = units.pop()
    return f"{' / '.join(text.partition(' ')[0] for text in shown)} {unit}".strip()


def _head(result: Result) -> list[Text]:
    """Whether the numbers may be used, what they rest on, and what belongs to every one of them."""
    remarks = len(result.mild_messages)
    if result.valid:
        verdict, style = f"VALID, {count(remarks, 'remark')}" if remarks else "VALID", "bold green"
    else:
        why = ", ".join(dict.fromkeys(result.reasons))
        verdict, style = f"INVALID: do not use these numbers ({why})", "bold red"
    evidence = evidence_label(result.evidence, result.origin, result.weights)
    lines = [
        (f"{verdict}; {evidence}", style),
        *((text, "yellow") for text in caveats(result.evidence, result.weights)),
    ]
    return [Text(printable(text, lines=False), style=style) for text, style in lines]


def _findings(result: Result) -> list[tuple[str, str]]:
    """What went wrong, then remarks, each with what to do about it; then notes."""
    to_do = {
        finding.message: FINDINGS[finding.code].to_do
        for finding in (*result.findings, *result.remarks)
        if finding.code in FINDINGS
    }
    lines: list[tuple[str, str]] = []
    wrong = () if result.valid else result.messages or result.reasons
    for messages, style in ((wrong, "red"), (result.mild_messages, "yellow")):
        for message in messages:
            lines.append((f"- {message}", style))
            if advice := to_do.get(message):
                lines.append((f"  To do: {advice}.", "dim"))
    lines += [(f"- {text}", "dim") for text in result.notes]
    return [(printable(text, lines=False), style) for text, style in lines]


def print_summary(result: Result, to: Console | None = None) -> None:
    (to or console()).print(summary(result))
