"""A point's one identity: the hash of what is measured, whatever the order or the place it is written in.

In it: the dataclass fields marked as identity (model and weights, the GPU as found, scenario, engine
and its settings, vLLM's minor version, evidence). Out of it: seed, repeat, paths, tracking, display. Fields
equal to their default are left out, so that a new option with a default changes no old hash.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection
from enum import Enum
from typing import Any

from wattcount.config.schema import ALWAYS, IDENTITY, LEFT_OUT, Device, RunConfig, Weights
from wattcount.errors import NotStartedError


def point_id(cfg: RunConfig) -> str:
    """SHA-256 of `canonical_json(cfg)`, 64 hexadecimal digits.

    Raises `NotStartedError` where `cfg` is not resolved: `model=auto`, `engine.device=auto`, a GPU whose
    name is not known yet, or a key that is still to be given.
    """
    return hashlib.sha256(canonical_json(cfg).encode()).hexdigest()


def canonical_json(cfg: RunConfig) -> str:
    """The identity as JSON: keys sorted, no spaces, numbers as Python writes them, text in ASCII."""
    _refuse_unresolved(cfg)
    return json.dumps(
        identity_fields(cfg), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def identity_fields(cfg: RunConfig) -> dict[str, Any]:
    """The identity fields that differ from their defaults, nested as in the configuration."""
    fields = differing(cfg)
    if cfg.model.weights is not Weights.random:
        # Real weights bring their own config.json; what conf/ says of it is only for the fit arithmetic.
        fields.get("model", {}).pop("hf_config", None)
    return fields


def differing(node: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """The identity fields of a dataclass that differ from their defaults; `without` names fields to leave out."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(node):
        if not item.metadata.get(IDENTITY) or item.name in without:
            continue
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            nested = differing(value, without)
            if nested:
                found[item.name] = nested
        elif item.metadata.get(ALWAYS) or value not in _left_out(item):
            found[item.name] = plain_value(value)
    return found


def _left_out(item: dataclasses.Field[Any]) -> tuple[Any, ...]:
    """The values that are no part of a hash."""
    default = item.default
    if item.default_factory is not dataclasses.MISSING:
        default = item.default_factory()
    return (default, *item.metadata.get(LEFT_OUT, ()))


def plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 500000.0 and 500000 are one value, whoever wrote it
    if isinstance(value, dict):
        return {str(key): plain_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    return value


def _refuse_unresolved(cfg: RunConfig) -> None:
    unresolved = []
    if cfg.model.name in ("auto", "???"):
        unresolved.append(f"model.name={cfg.model.name}")
    if cfg.gpu.found_name is None:
        unresolved.append("gpu.found_name=null")
    if cfg.engine.device is Device.auto:
        unresolved.append("engine.device=auto")
    if cfg.evidence is None:
        unresolved.append("evidence=null")
    if cfg.model.weights is Weights.path and cfg.model.path_fingerprint is None:
        unresolved.append("model.path_fingerprint=null")
    if unresolved:
        raise NotStartedError(
            f"the point has no identity yet: {', '.join(unresolved)}; preflight fills these in"
        )
