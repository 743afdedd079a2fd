"""Composition with Hydra: groups under `conf/`, the schema's types, users' own folders. `loader` reads what comes of it.

Importing this module registers the schemas (`model/model_schema`, `scenario/batch_schema`, ...), the
resolver `${wattcount.home:SUBPATH}` and the sweeper's name; all of it may be done more than once.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import (
    BooleanNode,
    DictConfig,
    EnumNode,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
    ValueNode,
    flag_override,
)

from wattcount.config import paths
from wattcount.config.catalogue import conf_path
from wattcount.config.fields import MISSING, Node
from wattcount.config.hydra_errors import plain_errors
from wattcount.config.hydra_input import keep_text, register_sources
from wattcount.config.loader import GROUPS, SCENARIOS, Kind, from_json, kinds, plain
from wattcount.config.schema import RunConfig
from wattcount.config.validation import validate
from wattcount.masking import concealed_argument, has_secret

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
SWEEPER_TARGET = "hydra_plugins.wattcount.PointSweeper"
"""The name that `sweep.sweeper` goes by in Hydra's config."""
_SCALAR_NODES: dict[Any, Any] = {str: StringNode, int: IntegerNode, float: FloatNode, bool: BooleanNode}


@contextmanager
def initialized() -> Iterator[None]:
    """Hydra ready to compose, also within one of its own jobs, whose state it gets back."""
    where = conf_path()
    state = GlobalHydra.instance()
    outer, state.hydra = state.hydra, None
    try:
        context: Any
        if where.startswith("pkg://"):
            context = initialize_config_module(where.removeprefix("pkg://"), version_base=VERSION_BASE)
        else:
            context = initialize_config_dir(where, version_base=VERSION_BASE)
        with context:
            yield
    finally:
        state.hydra = outer


def register() -> None:
    register_sources()
    store = ConfigStore.instance()
    for name, kind in kinds(RunConfig).items():
        for cls in kind.classes if name in GROUPS else ():
            option = next((scenario for scenario, of in SCENARIOS.items() if of is cls), name)
            store.store(group=name, name=f"{option}_schema", node=hydra_schema(cls), provider="wattcount")
    root = hydra_schema(RunConfig)
    root.records_dir = MISSING
    store.store(name="run_schema", node=root, provider="wattcount")
    store.store(
        group="hydra/sweeper",
        name="wattcount",
        node={"_target_": SWEEPER_TARGET, "max_batch_size": None, "params": None, "cases": None},
        provider="wattcount",
    )
    OmegaConf.register_new_resolver("wattcount.home", _home, replace=True)


def hydra_schema(cls: type[Node]) -> DictConfig:
    """A group with its defaults as Hydra is to compose it: its keys are all there are, and their types are the schema's."""
    node = DictConfig({})
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        node[item.name] = _hydra_node(kinds(cls)[item.name], default)
    OmegaConf.set_struct(node, True)
    return node


def _hydra_node(kind: Kind, default: Any) -> Any:
    if kind.classes:
        # Of a scenario the option's own schema types the node; merged over another it would inherit foreign keys.
        return hydra_schema(kind.classes[0]) if len(kind.classes) == 1 else MISSING
    if kind.of is list:
        return ListConfig(plain(default), element_type=_item_type(kind))
    if kind.of is dict:
        # Its keys are not ours to know: `engine.args.NAME=VALUE` works without Hydra's `+`.
        return DictConfig(plain(default), element_type=_item_type(kind), flags={"struct": False})
    if isinstance(kind.of, type) and issubclass(kind.of, Enum):
        return EnumNode(kind.of, default, is_optional=kind.optional)
    return _SCALAR_NODES[kind.of](default, is_optional=kind.optional)


def _item_type(kind: Kind) -> Any:
    return kind.item.of if kind.item is not None else Any


def _home(subpath: str | None = None) -> str:
    home = paths.data_home()
    return str(home / subpath) if subpath else str(home)


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The dataclasses that a composed configuration stands for, validated."""
    run = from_json(container(cfg))
    validate(run)
    return run


def container(cfg: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """What Hydra composed as plain values; `resolve`: with what its interpolations stand for."""
    with plain_errors():
        values = OmegaConf.to_container(cfg, resolve=resolve, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key not in ("hydra", "experiment")}


def concealed_config(cfg: DictConfig) -> DictConfig:
    """A copy in which every text that holds a password or a token is masked, and URIs are known to `masking.reveal`."""
    copied = copy.deepcopy(cfg)
    with flag_override(copied, ["readonly", "struct"], [False, False]):
        _conceal_node(copied)
    return copied


def _conceal_node(node: DictConfig | ListConfig) -> None:
    if node._is_none() or node._is_missing() or node._is_interpolation():
        return
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        child = node._get_node(key)
        if isinstance(child, DictConfig | ListConfig):
            _conceal_node(child)
        elif isinstance(child, ValueNode) and isinstance(text := child._value(), str) and has_secret(text):
            child._set_value(concealed_argument(text))


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> RunConfig:
    """The point that `python -m wattcount OVERRIDES` would run, validated; `auto` is left as it is.

    `config_dir` is a folder with the user's own groups, as `--config-dir`. Raises `NotStartedError`
    with one line that names the key.
    """
    return from_hydra(compose_hydra(overrides, config_dir))


def compose_hydra(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """As `compose`, but what Hydra made of it, not yet checked for sense."""
    overrides = [keep_text(override) for override in overrides]
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(config_dir)}]")  # noqa: PTH100
    with plain_errors(), initialized():
        return hydra_compose(CONFIG_NAME, overrides)


def options(group: str, config_dir: str | None = None) -> list[str]:
    """The options of a group, sorted."""
    with initialized():
        names = set(GlobalHydra.instance().config_loader().get_group_options(group))
    if config_dir is not None:
        names |= {file.stem for file in (Path(config_dir) / group).glob("*.yaml")}
    return sorted(names)


def entangled(search_path: Sequence[str]) -> bool:
    """Whether what one group's option brings may depend on the option of another group.

    `search_path`: URLs as Hydra has them. It may where a defaults list names an option by an interpolation, or where
    an option of a group other than `experiment` writes outside its group. Says yes where it cannot tell.
    """
    for url in search_path:
        scheme, _, place = url.partition("://")
        if scheme == "structured" or url in ("pkg://hydra.conf", "pkg://wattcount.conf"):
            continue  # neither has such a file
        if scheme != "file":
            return True
        if place != conf_path() and any(
            _entangles(file, Path(place)) for file in Path(place).rglob("*.yaml")
        ):
            return True
    return False


def _entangles(file: Path, folder: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    if "@package" in text and file.relative_to(folder).parts[0] != "experiment":
        return True
    return (
        "defaults" in text and re.search(r"^[^#\n]*(?:-|defaults:)[^\n]*\$\{", text, re.MULTILINE) is not None
    )


register()
