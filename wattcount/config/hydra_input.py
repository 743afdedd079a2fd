"""What Hydra reads, overrides (`KEY=VALUE`) and files, less some faults of how it does.

* A key that holds text keeps what was typed. Hydra's grammar reads `1e3`, `12e4567`, `1_1_1` and `TRUE` as numbers and
  booleans whatever the key, and makes text of them only afterwards: `1000.0`, `inf`, `111`, `True`. Here such a value is
  quoted, where the key's type is text, before Hydra sees it. `catalogue.load_yaml` does the same for files.
* A byte order mark does not hide a file's `# @package` line.
* The schemas (`model/model_schema`, ...) can be named in a defaults list, but are no options to choose or to list.
* A file that cannot be read is told by its name.
* Each engine that is registered is an option of the group `engine`, without a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from hydra._internal.grammar.functions import Functions
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.overrides_visitor import HydraOverrideVisitor
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString, ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.grammar.gen.OverrideLexer import (  # type: ignore[attr-defined]
    CommonTokenStream,
    InputStream,
    OverrideLexer,
)
from hydra.grammar.gen.OverrideParser import OverrideParser
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource

from wattcount.config.catalogue import Kinds, children, hold_text, load_yaml, override_kinds, read_yaml
from wattcount.config.loader import GROUPS
from wattcount.engines import registry
from wattcount.errors import NotStartedError

# Hydra's search for plugins executes their modules once more and so defines every class anew.
Plugins.instance()

from hydra._internal.core_plugins import (  # noqa: E402
    file_config_source,
    importlib_resources_config_source,
    structured_config_source,
)
from hydra._internal.sources_registry import SourcesRegistry  # noqa: E402

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
        kinds = override_kinds(parsed.key_or_group)
        value = parsed._value
        if isinstance(value, ChoiceSweep):
            self._keep_choices(parsed, value, kinds, s)
        elif parsed.value_type is ValueType.ELEMENT and kinds and _may_lose_text(value):
            text = _merged(kinds, value, _quoted(s, self.functions)._value)
            if text != value:
                parsed._value = text
                parsed.input_line = f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"
        return parsed

    def _keep_choices(self, parsed: Override, value: ChoiceSweep, kinds: Kinds, s: str) -> None:
        texts = value.list
        if kinds and _may_lose_text(texts):
            try:
                quoted = _quoted(s, self.functions)._value
            except HydraException:
                return  # a function that wants numbers, such as sort()
            assert isinstance(quoted, ChoiceSweep)
            texts = [_merged(kinds, *pair) for pair in zip(value.list, quoted.list, strict=True)]
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


def _merged(kinds: Kinds, value: Any, quoted: Any) -> Any:
    """`value`, with `quoted`'s text wherever the schema wants text."""
    if isinstance(value, dict) and isinstance(quoted, dict):
        pairs = zip(value.items(), quoted.values(), strict=True)
        return {key: _merged(children(kinds, str(key)), inner, text) for (key, inner), text in pairs}
    if isinstance(value, list) and isinstance(quoted, list):
        return [_merged(children(kinds, ""), *pair) for pair in zip(value, quoted, strict=True)]
    if not hold_text(kinds) or not isinstance(value, bool | int | float):
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


# The classes have the names of Hydra's own: under another one, Hydra would refuse to register its own beside them.


class FileConfigSource(file_config_source.FileConfigSource):
    """`file://FOLDER`. As in every group, a user's file does not take the place of an option of ours."""

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group == "engine" and name in registry.PACKAGED:
            return False
        found: bool = super().is_config(config_path)
        return found

    def load_config(self, config_path: str) -> ConfigResult:
        file = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not file.is_file():
            raise ConfigLoadError(f"Config not found : {file}")
        return _result(self, config_path, read_yaml(file), str(file))


class ImportlibResourcesConfigSource(importlib_resources_config_source.ImportlibResourcesConfigSource):
    """`pkg://PACKAGE`."""

    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        file = resources.files(self.path).joinpath(name)
        if not file.is_file():
            raise ConfigLoadError(f"Config not found : {name}")
        return _result(self, config_path, file.read_bytes().decode("utf-8-sig"), name)


class StructuredConfigSource(structured_config_source.StructuredConfigSource):
    """`structured://`, the schemas, and an option of the group `engine` for each engine that is registered."""

    def is_config(self, config_path: str) -> bool:
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        if group == "engine" and not name.endswith("_schema"):
            # Those of other distributions are looked for only where one is asked for: that takes a tenth of a second.
            self._offer_engines([name] if name in registry.PACKAGED else registry.names())
        found: bool = super().is_config(config_path)
        return found

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        group = config_path.strip("/")
        if group == "engine":
            self._offer_engines(registry.names())
        names = super().list(config_path, results_filter)
        return [name for name in names if group not in GROUPS or not name.endswith("_schema")]

    def _offer_engines(self, names: Iterable[str]) -> None:
        for name in names:
            option = {"defaults": ["engine_schema", "_self_"], "name": name}
            self.store.store(group="engine", name=name, node=option, provider="wattcount")


def _result(source: ConfigSource, config_path: str, text: str, name: str) -> ConfigResult:
    try:
        header = ConfigSource._get_header_dict(text[:512])
    except ValueError:
        raise NotStartedError(
            f"{name}: a line that begins with # @ must be: # @package PACKAGE, as in # @package _global_"
        ) from None
    config = load_yaml(text, _described(config_path, header["package"]), name)
    return ConfigResult(config=config, path=source.full_path(), provider=source.provider, header=header)


def _described(config_path: str, package: str | None) -> str:
    """The key of what a file describes: its package, which is its group where its header names none."""
    group = config_path.rpartition("/")[0].replace("/", ".")
    where = package if package is not None else group
    return where.replace("_group_", group).removeprefix("_global_").strip(".")


def register_sources() -> None:
    """Makes Hydra use these sources; may be called more than once."""
    types = SourcesRegistry.instance().types
    for source in (FileConfigSource, ImportlibResourcesConfigSource, StructuredConfigSource):
        types[source.scheme()] = source
