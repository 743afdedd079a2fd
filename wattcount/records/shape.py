"""What `run.json` must look like before anything else reads it: each key that the program uses, and its type.

Keys that are not named here are passed over: they are a later version's, or only shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wattcount.config.loader import from_json
from wattcount.config.schema import RunConfig
from wattcount.errors import WattcountError
from wattcount.masking import masked

MOST_PHASES = 1000
MOST_GPUS = 1024
MOST_LINES = 10_000
LONGEST_PHASE_NS = 31 * 86_400 * 10**9
"""A phase of more than a month [ns] is an error of its stamps."""
TEXT_LIMIT = 100_000
"""Most characters of one text."""

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class Word(str):
    """Stands for a text that may be part of a file's name: letters, digits and `. _ -`, at most 128 of them."""

    __slots__ = ()


@dataclass(frozen=True)
class Group:
    """A JSON object with some keys that must be there and some that may be."""

    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)


_NUMBER = (float, None)
_COUNT = (int, None)
_TEXT = (str, None)
_BOOK = Group(optional={"calls": int, "errors": int, "rate_hz": _NUMBER, "lateness_p99_ns": _NUMBER})
_SAMPLER = Group(
    optional={
        **dict.fromkeys(
            ("cpu_ns", "wall_ns", "missed_deadlines", "dropped_events", "ring_overflows"), _COUNT
        ),
        "sources": {str: _BOOK},
    }
)
_DOMAIN = Group({"name": str, "kind": str, "error": _TEXT, "max_energy_range_uj": int})
_HOST = Group(
    optional={"hostname": _TEXT, "rapl": (Group(optional={"state": str, "domains": [_DOMAIN]}), None)}
)
_GPU = Group(
    optional={
        **dict.fromkeys(("uuid", "name", "architecture", "compute_capability"), _TEXT),
        **dict.fromkeys(("index", "mig_mode", "virtualization_mode"), _COUNT),
        **dict.fromkeys(("power_limit_enforced_mw", "power_limit_mw", "max_sm_clock_mhz"), _COUNT),
    }
)
_WARMUP = Group(
    optional={
        "settled": bool,
        "seconds": float,
        "limit_s": float,
        "unsettled": {str: _NUMBER},
        "needed_s": _NUMBER,
    }
)
_CONFIG = Group(
    {
        "model": Group({"name": str, "weights": str}),
        "scenario": Group({"kind": str}),
        "engine": Group({"name": str}),
        "gpu": Group({"name": str}),
    }
)
_RUN = Group(
    {
        "evidence": str,
        "schema_version": int,
        "run_id": Word,
        "point_id": Word,
        "origin": str,
        "instrument": str,
        "seed": int,
        "repeat": int,
        "config": _CONFIG,
        "started_utc": str,
        "clock_pairs": [Group({"monotonic_ns": int, "utc_ns": int})],
        "host": _HOST,
        "gpus": [_GPU],
        "nvml": Group(optional={"path": _TEXT, "driver_version": _TEXT}),
        "versions": {str: _TEXT},
        "engine": Group(optional={"details": (Group(), None)}),
        "sensors": {str: Group()},
        "sampler": {str: (_SAMPLER, None)},
        "phases": [Group({"phase": str, "start_ns": int, "end_ns": _COUNT})],
        "validity": Group({"valid": bool}, {"reasons": [str], "messages": [str]}),
    },
    {
        "notes": [str],
        "log_tail": [str],
        "complete": bool,
        "attempt": int,
        "timing": {str: _NUMBER},
        "length_changes": {str: int},
        "asked": Group(),
        "warmup": _WARMUP,
        **dict.fromkeys(("characterisation", "rehearsal", "gpu_settings", "cooldown"), Group()),
        "files": {Word: Group({"bytes": int, "rows": int, "sha256": str})},
    },
)


_METRICS = Group(
    {
        "metrics_version": int,
        "evidence": str,
        "energy": {str: Group({"basis": _TEXT, "value_j": _NUMBER, "reasons": [str]})},
        "validity": Group(
            {
                "valid": bool,
                "reasons": [str],
                "findings": [
                    Group(
                        {"code": str, "figure": float, "limit": float, "unit": str}
                        | {"message": str, "invalidates": bool}
                    )
                ],
            }
        ),
        "metrics": {str: _NUMBER},
        "null_reasons": {str: str},
    }
)


def check_metrics(data: Any) -> None:
    """Raises KeyError or ValueError for what is no content of `metrics.json`."""
    _check(data, _METRICS, "")


def check_run(data: Any) -> RunConfig:
    """The configuration in a `run.json`. Raises KeyError for a key that is missing, ValueError for one that is not what it
    must be."""
    _check(data, _RUN, "")
    for name, most in (("phases", MOST_PHASES), ("gpus", MOST_GPUS), ("notes", MOST_LINES)):
        if len(data.get(name, ())) > most:
            raise ValueError(f"{name} has more than {most} entries")
    if data["repeat"] < 0:
        raise ValueError("repeat must not be negative")
    for number, span in enumerate(data["phases"]):
        start_ns, end_ns = span["start_ns"], span["end_ns"]
        if start_ns < 0 or (end_ns is not None and not 0 <= end_ns - start_ns <= LONGEST_PHASE_NS):
            raise ValueError(f"phases[{number}] ends before it begins, or lasts for more than a month")
    return typed_config(data["config"])


def typed_config(config: Mapping[str, Any]) -> RunConfig:
    """A record's configuration with its types; keys of later versions are passed over. Raises ValueError."""
    try:
        return from_json(_without_password(config), later_keys=True)
    except WattcountError as error:
        raise ValueError(f"config: {error}") from error


def _without_password(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config` with a masked `tracking.uri`: this process would take a password in it for the one to connect with."""
    tracking = config.get("tracking")
    if not isinstance(tracking, Mapping) or not isinstance(uri := tracking.get("uri"), str):
        return config
    return {**config, "tracking": {**tracking, "uri": masked(uri)}}


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, tuple):
        if value is not None:
            _check(value, shape[0], where)
    elif isinstance(shape, Group):
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'it'} must be a group of keys")
        for name in shape.required:
            if name not in value:
                raise KeyError(f"{where}.{name}" if where else name)
        for name, inner in (*shape.required.items(), *shape.optional.items()):
            if name in value:
                _check(value[name], inner, f"{where}.{name}" if where else name)
    elif isinstance(shape, dict):
        ((key_shape, inner),) = shape.items()
        if not isinstance(value, dict):
            raise ValueError(f"{where} must be a group of keys")
        for name, item in value.items():
            _check(name, key_shape, f"a key of {where}")
            _check(item, inner, f"{where}.{name[:100]}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        for number, item in enumerate(value):
            _check(item, shape[0], f"{where}[{number}]")
    else:
        _check_scalar(value, shape, where)


def _check_scalar(value: Any, kind: type, where: str) -> None:
    if kind in (str, Word):
        if not isinstance(value, str):
            raise ValueError(f"{where} must be text")
        if len(value) > TEXT_LIMIT:
            raise ValueError(f"{where} has more than {TEXT_LIMIT:,} characters")
        if kind is Word and not _WORD.fullmatch(value):
            raise ValueError(f"{where} must be letters, digits and . _ - only")
    elif kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{where} must be true or false")
    elif isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        raise ValueError(f"{where} must be {'a whole number' if kind is int else 'a number'}")
