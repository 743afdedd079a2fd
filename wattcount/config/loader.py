"""The one reader of the configuration: plain values (JSON, or what Hydra composed) to the dataclasses of `schema`, and back.

The type of each key, its range and its choices are read from the schema's annotations. Needs no Hydra.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

from wattcount.config import schema
from wattcount.config.fields import MISSING, Node, Rule
from wattcount.config.schema import (
    BatchConfig,
    CapacityConfig,
    ConcurrencyConfig,
    RunConfig,
    Scenario,
    ScenarioKind,
    ServerConfig,
)
from wattcount.errors import NotStartedError

N = typing.TypeVar("N", bound=Node)
"""Any group of the configuration."""

SCENARIOS: dict[str, type[Scenario]] = {
    ScenarioKind.batch.value: BatchConfig,
    ScenarioKind.server.value: ServerConfig,
    ScenarioKind.concurrency.value: ConcurrencyConfig,
    ScenarioKind.capacity.value: CapacityConfig,
}
"""The class of a scenario, by its `kind`."""

GROUPS = ("model", "gpu", "scenario", "engine", "power", "tracking", "experiment")
"""What options can be chosen of."""

NOT_GIVEN = "must be given"
"""What is said of a key that has no default and no value."""

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
"""Words for the plain types, in messages."""


@dataclass(frozen=True)
class Kind:
    """The type of a key.

    of         a scalar type, an enum, a class of `schema`, `list`, `dict`, `schema.Scenario`, or `Any`
    optional   it may be null
    rules      what its value must be beside that
    item       of each entry of a list or a dict
    """

    of: Any
    optional: bool = False
    rules: tuple[Rule, ...] = ()
    item: Kind | None = None

    def child(self, name: str) -> Kind | None:
        """The kind of one entry: of a group by its key, of a list by its index or no name. None: the schema has none there."""
        if self.of is list:
            return self.item if not name or name.isdigit() else None
        if self.of is dict:
            return self.item
        for cls in self.classes:
            if (kind := kinds(cls).get(name)) is not None:
                return kind
        return None

    @property
    def classes(self) -> tuple[type[Node], ...]:
        """The classes of `schema` that a group of this kind may be: of `scenario` each of them."""
        if self.of == Scenario:
            return tuple(SCENARIOS.values())
        return (self.of,) if isinstance(self.of, type) and issubclass(self.of, Node) else ()


def kinds(cls: type[Node]) -> Mapping[str, Kind]:
    """The type of each key of a class of `schema`."""
    return _kinds(
        typing.cast(Any, cls)
    )  # mypy takes a class whose instances have a hash for one that has none


@functools.cache
def _kinds(cls: Any) -> Mapping[str, Kind]:
    hints = typing.get_type_hints(cls, vars(schema), include_extras=True)
    return {item.name: _kind(hints[item.name]) for item in dataclasses.fields(cls)}


def kind_of(key: str) -> Kind | None:
    """The type at a dotted key of `RunConfig`, as an override names it; of the whole, without a key."""
    kind: Kind | None = Kind(RunConfig)
    for name in key.split(".") if key else ():
        kind = kind.child(name) if kind is not None else None
    return kind


def _kind(hint: Any) -> Kind:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind = _kind(arguments[0])
        return dataclasses.replace(kind, rules=(*kind.rules, *arguments[1:]))
    if origin in (types.UnionType, typing.Union) and type(None) in arguments:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return dataclasses.replace(_kind(inner), optional=True)
    if origin in (list, dict):
        return Kind(origin, item=_kind(arguments[-1]))
    return Kind(hint)


def from_json(data: Mapping[str, Any], *, later_keys: bool = False) -> RunConfig:
    """The inverse of `to_json`. Unknown keys and wrong types raise `NotStartedError`, naming the key.

    Keys that are not there take their defaults, so records of older versions can be read. `later_keys`: unknown keys
    are passed over, so records of later versions can be read, too.
    """
    return load(RunConfig, data, later_keys=later_keys)


def load(cls: type[N], data: Any, where: str = "", *, later_keys: bool = False) -> N:
    """One group from plain values, as `from_json`; `where` begins the messages. Ranges are not looked at (`field_problems`)."""
    if not isinstance(data, Mapping):
        raise NotStartedError(f"{where or 'the configuration'}: must be a group of keys, not {data!r}")
    known, values = kinds(cls), {}
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if key in known:
            values[key] = _value(known[key], value, path, later_keys)
        elif not later_keys:
            named = where or "the configuration"
            hint = did_you_mean(str(key), known) or f"; {named} has: {', '.join(sorted(known))}"
            raise NotStartedError(f"{path}: no such key{hint}")
    return cls(**values)


def _value(kind: Kind, value: Any, where: str, later_keys: bool) -> Any:
    of = kind.of
    if of is Any or (value is None and kind.optional):
        return value
    if of in _SCALARS:
        return _scalar(of, value, where)
    if kind.classes:
        cls = kind.classes[0] if len(kind.classes) == 1 else _scenario(value, where)
        return load(cls, value, where, later_keys=later_keys)
    if of is list:
        assert kind.item is not None
        if not isinstance(value, list | tuple):
            raise NotStartedError(f"{where}: must be a list, not {value!r}")
        return [_value(kind.item, item, f"{where}[{i}]", later_keys) for i, item in enumerate(value)]
    if of is dict:
        assert kind.item is not None
        if not isinstance(value, Mapping):
            raise NotStartedError(f"{where}: must be a group of keys, not {value!r}")
        return {
            str(key): _value(kind.item, item, f"{where}.{key}", later_keys) for key, item in value.items()
        }
    return _enum(of, value, where)


def _scenario(data: Any, where: str) -> type[Node]:
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind in (None, MISSING):
        raise NotStartedError(f"{where}.kind: must be given, one of {', '.join(SCENARIOS)}")
    return SCENARIOS[_enum(ScenarioKind, kind, f"{where}.kind").value]


def _enum(of: type[Enum], value: Any, where: str) -> Enum:
    if isinstance(value, of):
        return value
    for member in of:
        if value in (member.value, member.name):
            return member
    allowed = [member.value for member in of]
    raise NotStartedError(
        f"{where}: {value!r} is not one of {', '.join(allowed)}{did_you_mean(str(value), allowed)}"
    )


def _scalar(of: type, value: Any, where: str) -> Any:
    if of is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, of) and not (of is int and isinstance(value, bool)):
        return value
    raise NotStartedError(f"{where}: must be {_SCALARS[of]}, not {value!r}")


def to_json(cfg: Node) -> dict[str, Any]:
    """`cfg` as dicts, lists, strings, numbers, booleans and None; an enum by its value."""
    found = plain(cfg)
    assert isinstance(found, dict)
    return found


def plain(value: Any) -> Any:
    """A value of the configuration, or a part of it, as `to_json` has it."""
    if isinstance(value, Node):
        return {name: plain(getattr(value, name)) for name in kinds(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def changed(node: N, values: Mapping[str, Any]) -> N:
    """`node` with other values, by dotted key: `{"gpu.devices": ["GPU-1"]}`. Values are as the dataclasses hold them."""
    nested: dict[str, dict[str, Any]] = {}
    own: dict[str, Any] = {}
    for key, value in values.items():
        name, _, rest = key.partition(".")
        if rest:
            nested.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    for name, inner in nested.items():
        own[name] = changed(own.get(name, getattr(node, name)), inner)
    return dataclasses.replace(node, **own)  # type: ignore[type-var]


def asked_otherwise(asked: Any, resolved: Any, where: str = "") -> dict[str, Any]:
    """Plain values in `asked`, by dotted key, of every field in which `resolved`, of the same class, differs."""
    found: dict[str, Any] = {}
    for name in kinds(type(resolved)):
        path = f"{where}.{name}" if where else name
        before, after = getattr(asked, name), getattr(resolved, name)
        if isinstance(after, Node) and type(before) is type(after):
            found |= asked_otherwise(before, after, path)
        elif before != after:
            found[path] = plain(before)
    return found


def check_fields(node: Node, where: str) -> None:
    """Raises `NotStartedError` for the first of `field_problems`, but for keys that are still to be given."""
    for problem in field_problems(node, where):
        if not problem.endswith(NOT_GIVEN):
            raise NotStartedError(problem)


@functools.lru_cache(maxsize=4096)
def field_problems(node: Node, where: str = "") -> tuple[str, ...]:
    """What is wrong with single values of `node`, one line each: not given, not finite, out of range, no choice there is."""
    return tuple(_problems_of(node, where))


def _problems_of(node: Node, where: str) -> Iterator[str]:
    for name, kind in kinds(type(node)).items():
        path = f"{where}.{name}" if where else name
        value = getattr(node, name)
        if isinstance(value, Node):
            yield from field_problems(value, path)
        elif value is not None:
            yield from _problems(kind, value, path)


def _problems(kind: Kind, value: Any, where: str) -> Iterator[str]:
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            path = f"{where}.{key}" if isinstance(value, dict) else f"{where}[{key}]"
            yield from _problems(kind.item or Kind(Any), item, path)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: must be a finite number, not {value}"
    elif value == MISSING:
        yield f"{where}: {NOT_GIVEN}"
    else:
        problems = (rule.problem(value) for rule in kind.rules)
        yield from (f"{where}: {problem}" for problem in problems if problem is not None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing. Upper case and what joins words make no difference: `H100` is `h100`."""
    plain = {_plain_word(name): name for name in known}
    close = difflib.get_close_matches(_plain_word(word), list(plain), n=1, cutoff=0.6)
    return f"; did you mean '{plain[close[0]]}'?" if close else ""


def _plain_word(word: str) -> str:
    return re.sub(r"[-_.\s]+", "_", word.casefold())
