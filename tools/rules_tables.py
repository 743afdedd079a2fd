"""The tables of docs/rules.md: every rule of the validator, as the code declares them."""

from __future__ import annotations

from collections.abc import Callable

from wattcount.dataset.checks import FAMILIES, RULES
from wattcount.dataset.verdict_text import limit_of
from wattcount.report.units import markdown


def rules_of(family: str) -> Callable[[], str]:
    """A table of the rules of one family; those about a whole bundle say so."""

    def table() -> str:
        return markdown(
            ["rule", "severity", "what must hold", "limit"],
            [
                [
                    f"`{rule.code}`",
                    rule.severity.value,
                    _clause(rule.clause, rule.scope),
                    limit_of(rule) or "-",
                ]
                for rule in RULES.values()
                if rule.family == family
            ],
        )

    return table


def tables() -> dict[str, Callable[[], str]]:
    return {f"rules-{family}": rules_of(family) for family in FAMILIES}


def _clause(clause: str, scope: str) -> str:
    return clause if scope == "record" else f"{clause} (Of the bundle as a whole.)"
