"""The groups, and the type that the schema gives to a key, written with dots as in an override."""

from __future__ import annotations

import types
import typing
from typing import Any

from wattcount.config.plain import SCENARIOS, field_types
from wattcount.config.schema import (
    BatchConfig,
    EngineConfig,
    GpuConfig,
    ModelConfig,
    PowerConfig,
    RunConfig,
    ServerConfig,
    TrackingConfig,
)

GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"model_schema": ModelConfig},
    "gpu": {"gpu_schema": GpuConfig},
    "scenario": {"batch_schema": BatchConfig, "server_schema": ServerConfig},
    "engine": {"engine_schema": EngineConfig},
    "power": {"power_schema": PowerConfig},
    "tracking": {"tracking_schema": TrackingConfig},
}
GROUPS = (*GROUP_SCHEMAS, "experiment")

Kind = Any
"""A type of the schema: `str`, `list[str]`, a dataclass, ...; a tuple: any of them; None: not known, or anything."""


def kind_of(key: str, start: Kind = RunConfig) -> Kind:
    """The type at a dotted key below `start`; None where the schema names none. Of `X | None` it is X."""
    kind = start
    for name in key.split("."):
        kind = child_kind(kind, name)
    return kind


def child_kind(kind: Kind, name: str) -> Kind:
    """The type of one entry of a node of type `kind`, by its key; by its index, or no name, of a list."""
    if kind is RunConfig and name == "scenario":
        return tuple(SCENARIOS.values())
    for one in kind if isinstance(kind, tuple) else (kind,):
        origin: Any = typing.get_origin(one)
        if origin is dict or (origin is list and (not name or name.isdigit())):
            return _not_none(typing.get_args(one)[-1])
        hint = field_types(one).get(name) if isinstance(one, type) else None
        if hint is not None:
            return _not_none(hint)
    return None


def is_text(kind: Kind) -> bool:
    return kind is str or (isinstance(kind, tuple) and str in kind)


def override_kind(key: str) -> Kind:
    """The type of what an override with this key sets. Of a group that may be the name of an option, which is text."""
    name = key.lstrip("+~").partition("@")[0]
    kind = kind_of(name)
    if name not in GROUPS:
        return kind
    return (str, list[str], *(kind if isinstance(kind, tuple) else (kind,)))


def _not_none(hint: Kind) -> Kind:
    origin: Any = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        (hint,) = (option for option in typing.get_args(hint) if option is not type(None))
    return None if hint is Any else hint
