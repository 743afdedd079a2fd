"""The configuration as plain JSON and back, checked strictly and without Hydra."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Hashable, Mapping
from enum import Enum
from typing import Any

from wattcount.config import schema
from wattcount.config.schema import BatchConfig, RunConfig, ScenarioConfig, ScenarioKind, ServerConfig
from wattcount.errors import NotStartedError

T = typing.TypeVar("T")

SCENARIOS: dict[ScenarioKind, type[ScenarioConfig]] = {
    ScenarioKind.batch: BatchConfig,
    ScenarioKind.server: ServerConfig,
}


def to_json(cfg: RunConfig) -> dict[str, Any]:
    """`cfg` as dicts, lists, strings, numbers, booleans and None; an enum by its value."""
    plain = _to_plain(cfg)
    assert isinstance(plain, dict)
    return plain


def from_json(data: Mapping[str, Any], *, later_keys: bool = False) -> RunConfig:
    """The inverse of `to_json`. Unknown keys and wrong types raise `NotStartedError`, naming the key.

    Keys that are not there take their defaults, so records of older versions can be read. `later_keys`: unknown keys
    are passed over, so records of later versions can be read, too.
    """
    return _build(RunConfig, _known_part(RunConfig, data) if later_keys else data, "")


def asked_otherwise(asked: Any, resolved: Any, where: str = "") -> dict[str, Any]:
    """By dotted key, the plain value in `asked` of every field in which `resolved`, of the same class, differs."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(resolved):
        path = f"{where}.{item.name}" if where else item.name
        before, after = getattr(asked, item.name), getattr(resolved, item.name)
        if dataclasses.is_dataclass(after) and type(before) is type(after):
            found |= asked_otherwise(before, after, path)
        elif before != after:
            found[path] = _to_plain(before)
    return found


def from_plain_group(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """One group's dataclass from plain values, checked as `from_json` checks; `where` begins the messages."""
    return _build(cls, data, where)


def did_you_mean(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value


def field_types(cls: type) -> Mapping[str, Any]:
    """The type of each field of a dataclass of the schema, by name; empty for any other class."""
    return _hints(cls) if dataclasses.is_dataclass(cls) else {}


@functools.cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(cls, vars(schema))


def _build(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, Mapping):
        raise NotStartedError(f"{where or 'the configuration'}: must be a group of keys, not {data!r}")
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in names:
            path = f"{where}.{key}" if where else str(key)
            hint = (
                did_you_mean(str(key), names)
                or f"; {where or 'the configuration'} has: {', '.join(sorted(names))}"
            )
            raise NotStartedError(f"{path}: no such key{hint}")
    hints = _hints(typing.cast(Hashable, cls))
    values = {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else key
        if cls is RunConfig and key == "scenario":
            values[key] = _scenario(value, path)
        else:
            values[key] = _convert(hints[key], value, path)
    return cls(**values)


def _known_part(cls: Any, data: Any) -> Any:
    """`data` without the keys that the dataclass does not have, in its groups too."""
    if not isinstance(data, Mapping):
        return data
    hints = _hints(cls)
    known = {}
    for key, value in data.items():
        if key not in hints:
            continue
        inner = hints[key]
        if cls is RunConfig and key == "scenario":
            kind = value.get("kind") if isinstance(value, Mapping) else None
            inner = next((scenario for name, scenario in SCENARIOS.items() if kind == name.value), None)
        known[key] = _known_part(inner, value) if dataclasses.is_dataclass(inner) else value
    return known


def _scenario(data: Any, where: str) -> ScenarioConfig:
    if not isinstance(data, Mapping) or data.get("kind") in (None, "???"):
        raise NotStartedError(f"{where}.kind: must be given, one of {', '.join(k.value for k in SCENARIOS)}")
    kind = _convert(ScenarioKind, data["kind"], f"{where}.kind")
    return _build(SCENARIOS[kind], data, where)


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        (inner,) = (option for option in options if option is not type(None))
        return _convert(inner, value, where)
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return _build(hint, value, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(hint, value, where)
    if origin is list:
        (item,) = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise NotStartedError(f"{where}: must be a list, not {value!r}")
        return [_convert(item, entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if origin is dict:
        _, item = typing.get_args(hint)
        if not isinstance(value, Mapping):
            raise NotStartedError(f"{where}: must be a group of keys, not {value!r}")
        return {str(key): _convert(item, entry, f"{where}.{key}") for key, entry in value.items()}
    return _scalar(hint, value, where)


def _enum(hint: type[Enum], value: Any, where: str) -> Enum:
    if isinstance(value, hint):
        return value
    for member in hint:
        if value in (member.value, member.name):
            return member
    allowed = [member.value for member in hint]
    raise NotStartedError(
        f"{where}: {value!r} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}"
    )


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    kind = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]
    raise NotStartedError(f"{where}: must be {kind}, not {value!r}")
