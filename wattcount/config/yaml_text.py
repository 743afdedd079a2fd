"""YAML files of the configuration, in which a key that holds text keeps what was typed.

YAML 1.1 reads unquoted `1e3`, `1_0`, `010`, `1:30`, `yes` and `2026_11_24` as numbers and booleans. Where the schema
says that a key holds text, the words of the file are taken instead. `null` and `~` stay null.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import Container, OmegaConf
from omegaconf._utils import get_yaml_loader

from wattcount.config.schema import RunConfig
from wattcount.config.schema_types import Kind, child_kind, is_text, override_kind
from wattcount.errors import NotStartedError, one_line

_TEXT, _NULL, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_SWEPT = (("hydra", "sweeper", "params"), ("hydra", "sweeper", "cases"))
"""Nodes of a file with `@package _global_` whose keys are overrides."""


def read_yaml(file: Path) -> str:
    """The text of a file, without the byte order mark that some editors put first.

    Raises `NotStartedError` with the file's name where it cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotStartedError(f"{file}: is not UTF-8 text: byte {error.start}: save it as UTF-8") from None
    except OSError as error:
        raise NotStartedError(f"{file}: cannot be read: {error.strerror}") from None


def load_yaml(text: str, kind: Kind, name: str) -> Container:
    """As `OmegaConf.load` reads the text of a file; `kind` is the type of what the file describes, `name` its name.

    Raises `NotStartedError` for what is no YAML or no group of keys.
    """
    try:
        loader = get_yaml_loader()(text)
        node = loader.get_single_node()
        if node is None:
            return OmegaConf.create()
        if node.id != "mapping":
            raise NotStartedError(f"{name}: must hold a group of keys, a line for each: KEY: VALUE")
        values = loader.construct_document(_kept(node, kind, () if kind is RunConfig else None))
    except RecursionError:
        raise NotStartedError(f"{name}: holds itself: an alias (*) inside of what it stands for") from None
    except Exception as error:  # of PyYAML, which comes with OmegaConf and is not imported here
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise NotStartedError(f"{name}: {_words(error)}") from None
    config: Container = OmegaConf.create(values)
    return config


def _words(error: Exception) -> str:
    """One line: what is wrong, and in which line of the file."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None)
    if mark is None or what is None:
        return one_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _kept(node: Any, kind: Kind, path: tuple[str, ...] | None) -> Any:
    """A YAML node with the words of text keys; `path`: from the configuration's root, None where it does not matter."""
    value: Any
    if node.id == "mapping":
        value = [(key, _kept(inner, *_below(key, kind, path))) for key, inner in node.value]
        return type(node)(node.tag, value, node.start_mark, node.end_mark, node.flow_style)
    if node.id == "sequence":
        value = [_kept(item, child_kind(kind, ""), path) for item in node.value]
        return type(node)(node.tag, value, node.start_mark, node.end_mark, node.flow_style)
    if is_text(kind) and node.style is None and node.tag not in (_TEXT, _NULL):
        return type(node)(_TEXT, node.value, node.start_mark, node.end_mark)
    return node


def _below(key: Any, kind: Kind, path: tuple[str, ...] | None) -> tuple[Kind, tuple[str, ...] | None]:
    if key.tag == _MERGE:
        return kind, path
    name = str(key.value)
    if path in _SWEPT:
        return override_kind(name), None
    return child_kind(kind, name), None if path is None else (*path, name)
