"""What a sweep declares, as the points it means: `params` swept against each other, in each of its `cases`.

    params: {model: "a,b", repeat: range(5)}
    cases: [{}, {engine.enforce_eager: true}, {gpu: "v100,t4", model.dtype: float16}]

is two models and five repeats as they are, the same eager, and the same in 16 bit on two other GPUs: a baseline and
one change at a time, which no product of axes could say. What the command line sets goes before both. Where cases
list values of a key, the command line chooses among them: each case keeps those it lists, and what none lists goes
to the first one that has the key.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from wattcount.errors import NotStartedError

Axes = dict[str, list[str]]
"""By key, in order, the overrides that set it, one a value."""


def expand(
    params: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]],
    arguments: Sequence[str],
    parser: OverridesParser,
) -> list[tuple[str, ...]]:
    """Every point's overrides, in the order declared; none twice. `arguments` are the command line's overrides.

    Raises `NotStartedError` for a sweep that is none of a list, `choice`, `range` or `glob`.
    """
    declared = _axes([f"{key}={to_override(value)}" for key, value in params.items()], parser)
    asked = _axes(arguments, parser)
    each = [
        _axes([f"{key}={to_override(value)}" for key, value in case.items()], parser) for case in cases
    ] or [{}]
    points: dict[tuple[str, ...], None] = {}
    for index in range(len(each)):
        axes = declared | each[index]
        for key, texts in asked.items():
            axes[key] = _chosen(each, index, key, texts) if key in each[index] else texts
        points |= dict.fromkeys(itertools.product(*axes.values()))
    return list(points)


def to_override(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it on the right of `=`; text stays as it is and may sweep."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{to_override(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(to_override(inner) for inner in value) + "]"
    return str(value)


def _chosen(cases: Sequence[Axes], index: int, key: str, texts: Sequence[str]) -> list[str]:
    having = [number for number, case in enumerate(cases) if key in case]
    listed = {text for number in having for text in cases[number][key]}
    return [
        text for text in texts if text in cases[index][key] or (text not in listed and index == having[0])
    ]


def _axes(texts: Sequence[str], parser: OverridesParser) -> Axes:
    return {override.get_key_element(): _values(override) for override in parser.parse_overrides(list(texts))}


def _values(override: Override) -> list[str]:
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        assert override.value_type is not None
        raise NotStartedError(
            f"{key}: {override.value_type.name.lower()} is no list of values; write KEY=A,B or KEY=range(5)"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
