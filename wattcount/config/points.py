"""Builds the points of a big sweep without composing each: Hydra takes 80 ms a point, this some 0.1 ms.

What all points have in common is composed once, and each option of a group once on top of it. A point is then put
together from its options' dataclasses, its single values are set, and the result is checked as any configuration
is. That is sound under these conditions, each of which is checked:

* an option changes its own node only;
* no value refers to another key (`${scenario.num_requests}`): it would be that of the common part;
* no override sets what another one of the same point sets too, because then their order matters;
* no configuration of the user chooses an option by the names of others (`server_db: ${server}_${db}`).

A point that breaks one of them, or has anything out of the ordinary that others do not have (`+`, `~`, packages,
whole nodes as values), is composed in full. So is every point that seems wrong: what the person reads is always
what Hydra would have said.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from wattcount.config.composition import container
from wattcount.config.loader import from_json
from wattcount.config.schema import RunConfig
from wattcount.config.validation import validate
from wattcount.errors import NotStartedError

Compose = Callable[[Sequence[str]], DictConfig]
"""Overrides to a composed configuration; raises `NotStartedError`."""
Point = Sequence[str]

_CONSTANT = re.compile(r"(?<!\\)\$\{\s*(?:wattcount\.home|oc\.env|oc\.decode)\s*:")
"""How an interpolation begins that has one value for all points: it depends on the environment alone."""


def build_points(
    batch: Sequence[Point],
    compose: Compose,
    check: Callable[[DictConfig], RunConfig],
    groups: Sequence[str],
    *,
    entangled: bool = False,
) -> tuple[list[RunConfig | None], dict[str, str]]:
    """Every point's configuration, and the distinct problems, each with the first point that has it.

    `check` makes the dataclasses of a composed configuration, and raises `NotStartedError` for one that makes no
    sense. `entangled`: what one group's option brings may depend on another group's (see
    `composition.entangled`). Points that are wrong are None. Configurations share their nodes: copy one before
    changing it.
    """
    quick = _Quick(batch, compose, groups, entangled) if len(batch) > 2 else lambda _point: None
    built: list[RunConfig | None] = []
    problems: dict[str, str] = {}
    confirmed: set[str] = set()
    for point in batch:
        guess = quick(point)
        if isinstance(guess, RunConfig):
            built.append(guess)
            continue
        run = None
        if guess is None or guess not in confirmed:
            try:
                run = check(compose(point))
            except NotStartedError as error:
                problems.setdefault(str(error), " ".join(point))
                if guess is not None:
                    confirmed.add(guess)
        built.append(run)
    return built, problems


class _NotQuickError(Exception):
    """The point has to be composed in full: see the module's conditions."""


@dataclasses.dataclass
class _Base:
    """What all points that choose options of the same groups have in common."""

    first: list[str]
    """What is common, and the options that the first such point chooses."""
    data: dict[str, Any]
    run: RunConfig
    options: dict[str, dict[str, Any] | NotStartedError | None]
    """The node that each override makes; None: it writes elsewhere."""
    parts: dict[tuple[str, ...], Any]
    """Values of keys, as dataclasses or scalars, by the overrides that each key depends on."""


class _Quick:
    """A function of a point: its configuration, what seems wrong with it, or None where it cannot tell."""

    def __init__(
        self, batch: Sequence[Point], compose: Compose, groups: Sequence[str], entangled: bool
    ) -> None:
        self._compose = compose
        self._entangled = entangled
        parser = OverridesParser.create()
        texts = dict.fromkeys(text for point in batch for text in point)
        self._parsed: dict[str, Override] = {text: parser.parse_override(text) for text in texts}
        self._common = set(batch[0]).intersection(*batch)
        self._chooses = {text: parsed.key_or_group in groups for text, parsed in self._parsed.items()}
        self._top = {text: parsed.key_or_group.split(".")[0] for text, parsed in self._parsed.items()}
        self._strange = {
            text
            for text, parsed in self._parsed.items()
            if text not in self._common
            and not (_is_plain_choice(parsed) if self._chooses[text] else _is_plain_value(parsed))
        }
        self._paths = {
            text: tuple(parsed.key_or_group.split("."))
            for text, parsed in self._parsed.items()
            if not self._chooses[text]
        }
        self._common_paths = [path for text, path in self._paths.items() if text in self._common]
        self._bases: dict[tuple[str, ...], _Base | NotStartedError | None] = {}
        self._right: set[tuple[str, ...]] = set()

    def __call__(self, point: Point) -> RunConfig | str | None:
        own = [text for text in point if text not in self._common]
        if not self._strange.isdisjoint(own) or self._order_matters(own):
            return None
        if self._entangled and sum(self._chooses[text] for text in own) > 1:
            return None
        try:
            base = self._base(point, own)
            by_top: dict[str, list[str]] = {}
            for text in own:
                by_top.setdefault(self._top[text], []).append(text)
            parts: dict[str, Any] = {}
            for top, texts in by_top.items():
                key = tuple(texts)
                if key not in base.parts:
                    base.parts[key] = self._part(base, top, texts)
                parts[top] = base.parts[key]
            run = dataclasses.replace(base.run, **parts)
            self._check(run, own)
        except NotStartedError as error:
            return str(error)
        except _NotQuickError:
            return None
        return run

    def _order_matters(self, own: Sequence[str]) -> bool:
        """Whether two overrides of a point, one of them its own, set the same key or one within the other's."""
        before = list(self._common_paths)
        for path in (self._paths[text] for text in own if text in self._paths):
            if any(_within(path, other) or _within(other, path) for other in before):
                return True
            before.append(path)
        return False

    def _composed(self, overrides: Sequence[str]) -> dict[str, Any]:
        """A composition with the values that it has in every point. Raises `_NotQuickError` where it has others."""
        cfg = self._compose(overrides)
        if any(_varies(value) for value in _texts(container(cfg, resolve=False))):
            raise _NotQuickError
        return container(cfg)

    def _base(self, point: Point, own: Sequence[str]) -> _Base:
        signature = tuple(self._top[text] for text in own if self._chooses[text])
        if signature not in self._bases:
            first = [text for text in point if text in self._common or self._chooses[text]]
            made: _Base | NotStartedError | None = None
            try:
                data = self._composed(first)
                made = _Base(first, data, from_json(data), {}, {})
            except NotStartedError as error:
                made = error
            except _NotQuickError:
                pass
            self._bases[signature] = made
        found = self._bases[signature]
        if found is None:
            raise _NotQuickError
        if isinstance(found, NotStartedError):
            raise found
        return found

    def _part(self, base: _Base, top: str, texts: Sequence[str]) -> Any:
        node: Any = base.data.get(top)
        for text in texts:
            if self._chooses[text]:
                node = self._option(base, top, text)
        data = {top: copy.deepcopy(node)}
        for text in texts:
            if not self._chooses[text] and not _set(data, self._parsed[text]):
                raise _NotQuickError
        return getattr(from_json(data), top)

    def _option(self, base: _Base, group: str, text: str) -> dict[str, Any]:
        if text not in base.options:
            others = [other for other in base.first if self._parsed[other].key_or_group != group]
            try:
                composed = self._composed([*others, text])
                own_node_only = group in composed and (
                    _without(composed, group) == _without(base.data, group)
                )
                base.options[text] = composed[group] if own_node_only else None
            except NotStartedError as error:
                base.options[text] = error
            except _NotQuickError:
                base.options[text] = None
        found = base.options[text]
        if isinstance(found, NotStartedError):
            raise found
        if found is None:
            raise _NotQuickError
        return found

    def _check(self, run: RunConfig, own: Sequence[str]) -> None:
        """Whether it makes sense; neither seed nor repeat has to do with anything else."""
        alone = [text for text in own if self._top[text] in ("seed", "repeat")]
        whole = tuple(text for text in own if self._top[text] not in ("seed", "repeat"))
        if whole in self._right and all((text,) in self._right for text in alone):
            return
        validate(run)
        self._right.add(whole)
        self._right.update((text,) for text in alone)


def _is_plain_choice(override: Override) -> bool:
    return override.type is OverrideType.CHANGE and override.package is None


def _is_plain_value(override: Override) -> bool:
    return (
        override.type is OverrideType.CHANGE
        and override.package is None
        and not override.key_or_group.startswith("hydra")
        and not isinstance(override.value(), dict | list)
        and "${" not in str(override.value())
    )


def _without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name != key}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _varies(text: str) -> bool:
    """Whether it holds an interpolation that need not be the same in all points."""
    return text.count("${") > len(_CONSTANT.findall(text))


def _within(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return path[: len(other)] == other


def _set(data: dict[str, Any], override: Override) -> bool:
    *path, last = override.key_or_group.split(".")
    node: Any = data
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return False
    node[last] = override.value()
    return True
