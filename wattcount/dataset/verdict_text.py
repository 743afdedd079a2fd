"""A verdict for people: as a table of 80 columns, and as one page of HTML. What records say in it is shown as text."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from wattcount.dataset.rules import RULES, Rule, Severity
from wattcount.dataset.validate import Broken, Decision, Verdict
from wattcount.text import WIDTH, printable

MOST_SHOWN = 50
"""Records whose breaches are shown one by one in a terminal: more than a screen of them says nothing that `--json` does not say
better."""
INDENT = " " * 11
"""Before what is said of a record: as wide as its decision and two blanks."""


def as_text(verdict: Verdict) -> str:
    """Lines of at most 80 columns: what is wrong, record by record, then the decision."""
    lines = list(_breaches(verdict))
    return "\n".join([*lines, *([""] if lines else []), *_end(verdict)]) + "\n"


def _breaches(verdict: Verdict) -> Iterator[str]:
    decisions = verdict.decisions
    serious = [item for item in verdict.broken if item.severity is not Severity.warn]
    broken_by = [folder for folder in dict.fromkeys(item.record for item in serious) if folder is not None]
    for folder in broken_by[:MOST_SHOWN]:
        yield from _wrapped(f"{decisions[folder].value:<10} ", folder)
        for item in serious:
            if item.record == folder:
                yield from _line(item)
    if (more := len(broken_by) - MOST_SHOWN) > 0:
        yield f"{more} more records are rejected or flagged: --json has them all"
    for item in serious:
        if item.record is None:
            yield from _wrapped(f"{_word(item):<10} ", "the bundle as a whole")
            yield from _line(item)
    # What changes nothing is told once a rule.
    warned = [item for item in verdict.broken if item.severity is Severity.warn]
    for rule, count in Counter(item.rule for item in warned).items():
        first = next(item for item in warned if item.rule == rule)
        where = "the bundle" if first.record is None else first.record if count == 1 else f"{count} records"
        yield from _wrapped(f"{'warning':<10} ", where)
        yield from _line(first, "" if count == 1 else " (the first of them)")


def _line(item: Broken, more: str = "") -> Iterator[str]:
    yield from _wrapped(INDENT, f"{item.rule}: {item.message}{figures(item)}{more}")


def _word(item: Broken) -> str:
    return {Severity.reject: "rejected", Severity.flag: "flagged", Severity.warn: "warning"}[item.severity]


def figures(item: Broken) -> str:
    """` [3 us, limit 1 us]`; empty where the rule is about no number."""
    unit = "" if item.unit is None else f" {item.unit}"
    found = [] if item.figure is None else [f"{item.figure:.6g}{unit}"]
    found += [] if item.limit is None else [f"limit {item.limit:.6g}{unit}"]
    return f" [{', '.join(found)}]" if found else ""


def _wrapped(begin: str, text: str) -> list[str]:
    return textwrap.wrap(
        printable(text, lines=False),
        WIDTH,
        initial_indent=begin,
        subsequent_indent=INDENT if not begin.strip() else " " * len(begin),
        break_on_hyphens=False,
    ) or [begin.rstrip()]


def _end(verdict: Verdict) -> Iterator[str]:
    if (told := verdict.manifest) is not None:
        cohort = "" if told.cohort is None else f", cohort {told.cohort}"
        yield from _wrapped("", f"submitted by {told.handle} under {told.licence}{cohort}")
    yield from _wrapped("", f"{_counts(verdict)}, by {len(RULES)} rules (docs/rules.md)")
    yield f"{verdict.decision.value}: {_meaning(verdict.decision)}"


def _counts(verdict: Verdict) -> str:
    counts = Counter(verdict.decisions.values())
    total = len(verdict.records)
    parts = ", ".join(f"{counts[decision]} {decision.value}" for decision in Decision if counts[decision])
    return f"{total} record{'s' if total != 1 else ''}: {parts}"


def _meaning(decision: Decision) -> str:
    return {
        Decision.accepted: "the data set takes it",
        Decision.flagged: "a person will look at it before the data set takes it",
        Decision.rejected: "the data set does not take it as it is",
    }[decision]


# The page, without scripts, so that a stranger's text has nothing to run.
PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ border-top: 1px solid #8886; padding: .3rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }}
td.number {{ white-space: nowrap; text-align: right; }}
.accepted {{ color: #1a7f37; }} .flagged, .flag {{ color: #9a6700; }} .rejected, .reject {{ color: #cf222e; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd; }} }}
</style>
<h1>{title}</h1>
<p><strong class="{decision}">{decision}</strong>: {meaning}.</p>
<p>{counts}</p>
{breaches}
<h2>Records</h2>
<table>
<tr><th>record<th>run<th>setting<th>verdict
{records}
</table>
<h2>Rules</h2>
<table>
<tr><th>rule<th>severity<th>what must hold<th>limit
{rules}
</table>
</html>
"""


def as_html(verdict: Verdict) -> str:
    """One page without scripts, links or pictures."""
    decisions = verdict.decisions
    told = verdict.manifest
    counts = _counts(verdict)
    if told is not None:
        cohort = "" if told.cohort is None else f", cohort {told.cohort}"
        counts += f"; submitted by {told.handle} under {told.licence}{cohort}"
    return PAGE.format(
        title=_cell(verdict.source),
        decision=verdict.decision.value,
        meaning=_cell(_meaning(verdict.decision)),
        counts=_cell(counts),
        breaches=_table(verdict.broken),
        records="\n".join(
            f"<tr><td>{_cell(folder)}<td>{_cell(known.get('run_id', '-'))}<td>{_cell(str(known.get('setting_key', '-'))[:12])}"
            f'<td class="{decisions[folder].value}">{decisions[folder].value}'
            for folder, known in verdict.records.items()
        ),
        rules="\n".join(
            f"<tr><td>{_cell(rule.code)}<td>{rule.severity.value}<td>{_cell(rule.clause)}"
            f'<td class="number">{_cell(limit_of(rule))}'
            for rule in RULES.values()
        ),
    )


def _table(broken: Sequence[Broken]) -> str:
    if not broken:
        return "<p>No rule is broken.</p>"
    rows = "\n".join(
        f'<tr><td class="{item.severity.value}">{item.severity.value}<td>{_cell(item.rule)}<td>{_cell(item.record or "all")}'
        f"<td>{_cell(item.message + figures(item))}"
        for item in broken
    )
    return f"<h2>What was found</h2>\n<table>\n<tr><th>severity<th>rule<th>record<th>what was found\n{rows}\n</table>"


def limit_of(rule: Rule) -> str:
    """`3 us`; empty where the rule is about no number, or has none of its own."""
    return "" if rule.limit is None else f"{rule.limit:g} {rule.unit or ''}".strip()


def _cell(text: object) -> str:
    return html.escape(printable(str(text), lines=False))
