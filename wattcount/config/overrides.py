"""Overrides (`KEY=VALUE`) in which a key that holds text keeps what was typed.

Hydra's grammar reads `1e3`, `12e4567`, `1_1_1` and `TRUE` as numbers and booleans whatever the key, and makes text of
them only afterwards: `1000.0`, `inf`, `111`, `True`. Here such a value is quoted, where the key's type is text, before
Hydra sees it. `yaml_text` does the same for YAML files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hydra._internal.grammar.functions import Functions
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, ValueType
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser

from wattcount.config.schema_types import Kind, child_kind, is_text, override_kind

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NO_TEXT = ("null", "true", "false", "nan", "inf")
"""Words that Hydra's grammar reads as a value that is no text."""


def keep_text(override: str) -> str:
    """`override` with quotes round what a key of type text would lose; one that cannot be read is left alone."""
    try:
        parsed = TextParser.create().parse_override(override)
    except HydraException:
        return override  # Hydra will say what is wrong with it
    return parsed.input_line or override


class TextParser(OverridesParser):
    """Hydra's parser, which keeps the text of keys that hold text. Such an override's `input_line` has the quotes."""

    def parse_rule(self, s: str, rule_name: str) -> Any:
        """See `OverridesParser.parse_rule`; raises `HydraException`."""
        parsed = super().parse_rule(s, rule_name)
        if not isinstance(parsed, Override):
            return parsed
        kind = override_kind(parsed.key_or_group)
        value = parsed._value
        if isinstance(value, ChoiceSweep):
            self._keep_choices(parsed, value, kind, s)
        elif parsed.value_type is ValueType.ELEMENT and kind is not None and _may_lose_text(value):
            text = _merged(kind, value, _quoted(s, self.functions)._value)
            if text != value:
                parsed._value = text
                parsed.input_line = f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"
        return parsed

    def _keep_choices(self, parsed: Override, value: ChoiceSweep, kind: Kind, s: str) -> None:
        texts = value.list
        if kind is not None and _may_lose_text(texts):
            try:
                quoted = _quoted(s, self.functions)._value
            except HydraException:
                return  # a function that wants numbers, such as sort()
            assert isinstance(quoted, ChoiceSweep)
            texts = [_merged(kind, *pair) for pair in zip(value.list, quoted.list, strict=True)]
        if not value.simple_form:  # Hydra's functions take the quotes off
            texts = [_quoted_again(text) for text in texts]
        if texts == value.list:
            return
        value.list = texts
        if not (value.shuffle or value.tags):
            words = ",".join(Override._get_value_element_as_str(text) for text in texts)
            words = words if value.simple_form else f"choice({words})"
            parsed.input_line = f"{parsed.get_key_element()}={words}"


def _may_lose_text(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_may_lose_text(inner) for inner in value.values())
    if isinstance(value, list):
        return any(_may_lose_text(inner) for inner in value)
    return isinstance(value, bool | int | float)


def _merged(kind: Kind, value: Any, quoted: Any) -> Any:
    """`value`, with `quoted`'s text wherever the schema wants text."""
    if isinstance(value, dict) and isinstance(quoted, dict):
        pairs = zip(value.items(), quoted.values(), strict=True)
        return {key: _merged(child_kind(kind, str(key)), inner, text) for (key, inner), text in pairs}
    if isinstance(value, list) and isinstance(quoted, list):
        return [_merged(child_kind(kind, ""), *pair) for pair in zip(value, quoted, strict=True)]
    if not is_text(kind) or not isinstance(value, bool | int | float):
        return value
    return quoted if isinstance(quoted, QuotedString) else QuotedString(str(quoted), Quote.single)


def _quoted_again(value: Any) -> Any:
    """Text that would be read as something else without quotes gets them."""
    if not isinstance(value, str) or (_WORD.fullmatch(value) and value.lower() not in _NO_TEXT):
        return value
    return QuotedString(value, Quote.single)


class _QuotingVisitor(HydraOverrideVisitor):
    """Reads every number and boolean as the text that it is written with."""

    def visitPrimitive(self, ctx: Any) -> Any:  # noqa: N802 - the name that ANTLR's visitors look for
        value = super().visitPrimitive(ctx)
        if isinstance(value, bool | int | float):
            return QuotedString(ctx.getText().strip(), Quote.single)
        return value


def _quoted(override: str, functions: Functions) -> Override:
    """An override that Hydra's parser has read without an error, with all its numbers and booleans as text."""
    parser = OverrideParser(CommonTokenStream(OverrideLexer(InputStream(override))))
    found = _QuotingVisitor(functions).visit(parser.override())  # type: ignore[no-untyped-call]
    assert isinstance(found, Override)
    return found
