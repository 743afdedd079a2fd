"""Composition with Hydra: groups under `conf/`, the dataclasses as their schemas, users' own folders.

Importing this module registers the schemas (`model/model_schema`, `scenario/batch_schema`, ...), the
resolver `${wattcount.home:SUBPATH}` and the sweeper's name; all of it may be done more than once.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, Node, OmegaConf, flag_override

from wattcount.config import paths, sources
from wattcount.config.catalogue import conf_path
from wattcount.config.hydra_errors import plain_errors
from wattcount.config.overrides import keep_text
from wattcount.config.plain import from_json
from wattcount.config.schema import (
    EngineConfig,
    ModelConfig,
    RunConfig,
    SweepConfig,
    TrackingConfig,
)
from wattcount.config.schema_types import GROUP_SCHEMAS
from wattcount.config.validation import validate
from wattcount.masking import concealed_argument, has_secret

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
SWEEPER_TARGET = "hydra_plugins.wattcount.PointSweeper"
"""The name that `sweep.sweeper` goes by in Hydra's config."""

OPEN_NODES = {
    EngineConfig: ("args",),
    TrackingConfig: ("tags",),
    ModelConfig: ("hf_config",),
    SweepConfig: ("placement",),
}
"""Fields whose keys are not ours to know: `engine.args.NAME=VALUE` works without Hydra's `+`."""


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
    sources.register()
    store = ConfigStore.instance()
    for group, schemas in GROUP_SCHEMAS.items():
        for name, cls in schemas.items():
            store.store(group=group, name=name, node=_schema(cls), provider="wattcount")
    root = OmegaConf.structured(RunConfig)
    # The option's own schema types this node; merged over a default it would inherit foreign keys.
    root.scenario = "???"
    root.records_dir = "???"
    nodes = {
        "model": ModelConfig,
        "engine": EngineConfig,
        "tracking": TrackingConfig,
        "sweep": SweepConfig,
    }
    for name, field in nodes.items():
        root[name] = _schema(field)
    store.store(name="run_schema", node=root, provider="wattcount")
    store.store(
        group="hydra/sweeper",
        name="wattcount",
        node={"_target_": SWEEPER_TARGET, "max_batch_size": None, "params": None, "cases": None},
        provider="wattcount",
    )
    OmegaConf.register_new_resolver("wattcount.home", _home, replace=True)


def _schema(cls: type) -> DictConfig:
    node = OmegaConf.structured(cls)
    assert isinstance(node, DictConfig)
    for name in OPEN_NODES.get(cls, ()):
        OmegaConf.set_struct(node[name], False)
    return node


def _home(subpath: str | None = None) -> str:
    home = paths.data_home()
    return str(home / subpath) if subpath else str(home)


def from_hydra(cfg: DictConfig) -> RunConfig:
    """The dataclasses that a composed configuration stands for, validated."""
    with plain_errors():
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    plain.pop("experiment", None)
    run = from_json({str(key): value for key, value in plain.items()})
    validate(run)
    return run


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
        elif isinstance(child, Node) and isinstance(text := child._value(), str) and has_secret(text):
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
