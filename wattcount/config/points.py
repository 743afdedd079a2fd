"""Checks the points of a big sweep without composing each: Hydra takes 80 ms a point, the dataclasses 0.2 ms.

Each option of a group is composed once. A point is then put together from its options' nodes, its single
values are set, and the result is checked as any configuration is. That is sound where an option changes
its own node only, which is verified; anything out of the ordinary (`+`, `~`, packages, whole nodes as
values, options that write elsewhere) is composed in full. So is every point that seems wrong: what the
person reads is always what Hydra would have said.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from wattcount.config.plain import from_json
from wattcount.config.validation import validate
from wattcount.errors import NotStartedError

Compose = Callable[[Sequence[str]], DictConfig]
"""Overrides to a composed configuration; raises `NotStartedError`."""
Point = Sequence[str]


def problems_of_points(
    batch: Sequence[Point], compose: Compose, check: Callable[[DictConfig], Any], groups: Sequence[str]
) -> dict[str, str]:
    """The distinct problems of a sweep's points, each with the first point that has it.

    `check` raises `NotStartedError` for a composed configuration that makes no sense.
    """
    seems_right = _quick_check(batch, compose, groups) if len(batch) > 2 else lambda _point: None
    problems: dict[str, str] = {}
    confirmed: set[str] = set()
    for point in batch:
        suspicion = seems_right(point)
        if suspicion == "" or (suspicion is not None and suspicion in confirmed):
            continue
        try:
            check(compose(point))
        except NotStartedError as error:
            problems.setdefault(str(error), " ".join(point))
            if suspicion is not None:
                confirmed.add(suspicion)
    return problems


def _quick_check(
    batch: Sequence[Point], compose: Compose, groups: Sequence[str]
) -> Callable[[Point], str | None]:
    """A function of a point: empty where it is right, what seems wrong with it, None where it cannot tell."""
    parser = OverridesParser.create()
    parsed: dict[str, Override] = {}
    for point in batch:
        for text in point:
            if text not in parsed:
                parsed[text] = parser.parse_override(text)
    chooses = {text: override.key_or_group in groups for text, override in parsed.items()}
    if not all(chooses[text] or _is_plain_value(override) for text, override in parsed.items()):
        return lambda _point: None
    first = [text for text in batch[0] if chooses[text]]
    nodes: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    try:
        base = _plain(compose(first))
        for text in (text for text in chooses if chooses[text]):
            try:
                nodes[text] = _node(text, parsed, first, base, compose)
            except NotStartedError as error:
                wrong[text] = str(error)
    except (NotStartedError, _WritesElsewhereError):
        return lambda _point: None

    def seems_right(point: Point) -> str | None:
        data = copy.deepcopy(base)
        for text in point:
            if text in wrong:
                return wrong[text]
            if chooses[text]:
                data[parsed[text].key_or_group] = copy.deepcopy(nodes[text])
        for text in point:
            if not chooses[text] and not _set(data, parsed[text]):
                return None
        try:
            validate(from_json(data))
        except NotStartedError as error:
            return str(error)
        return ""

    return seems_right


class _WritesElsewhereError(Exception):
    """An option changes more than its own node."""


def _is_plain_value(override: Override) -> bool:
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.key_or_group.startswith("hydra")
        and not isinstance(override.value(), dict | list)
        and "${" not in str(override.value())
    )


def _node(
    text: str, parsed: dict[str, Override], first: Sequence[str], base: dict[str, Any], compose: Compose
) -> Any:
    override = parsed[text]
    if override.type is not OverrideType.CHANGE or override.package is not None:
        raise _WritesElsewhereError
    group = override.key_or_group
    others = [other for other in first if parsed[other].key_or_group != group]
    composed = _plain(compose([*others, text]))
    if any(composed[key] != base[key] for key in base if key != group) or group not in composed:
        raise _WritesElsewhereError
    return composed[group]


def _plain(cfg: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    return {str(key): value for key, value in plain.items()}


def _set(data: dict[str, Any], override: Override) -> bool:
    *path, last = override.key_or_group.split(".")
    node: Any = data
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return False
    node[last] = override.value()
    return True
