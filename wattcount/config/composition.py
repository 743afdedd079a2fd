"""Composition with Hydra: groups under `conf/`, the dataclasses as their schemas, users' own folders.

Importing this module registers the schemas (`model/model_schema`, `scenario/batch_schema`, ...), the
resolver `${wattcount.home:SUBPATH}` and the sweeper's name; all of it may be done more than once.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from wattcount.config import paths
from wattcount.config.hydra_errors import plain_errors
from wattcount.config.plain import from_json, from_plain_group
from wattcount.config.schema import (
    BatchConfig,
    EngineConfig,
    GpuConfig,
    ModelConfig,
    PowerConfig,
    RunConfig,
    ServerConfig,
    SweepConfig,
    TrackingConfig,
)
from wattcount.config.validation import validate

T = TypeVar("T", GpuConfig, ModelConfig)

CONFIG_NAME = "config"
VERSION_BASE = "1.3"
SWEEPER_TARGET = "hydra_plugins.wattcount.PointSweeper"
"""The name that `sweep.sweeper` goes by in Hydra's config."""

GROUP_SCHEMAS: dict[str, dict[str, type]] = {
    "model": {"model_schema": ModelConfig},
    "gpu": {"gpu_schema": GpuConfig},
    "scenario": {"batch_schema": BatchConfig, "server_schema": ServerConfig},
    "engine": {"engine_schema": EngineConfig},
    "power": {"power_schema": PowerConfig},
    "tracking": {"tracking_schema": TrackingConfig},
}
GROUPS = (*GROUP_SCHEMAS, "experiment")

OPEN_NODES = {
    EngineConfig: ("args",),
    TrackingConfig: ("tags",),
    ModelConfig: ("hf_config",),
    SweepConfig: ("placement",),
}
"""Fields whose keys are not ours to know: `engine.args.NAME=VALUE` works without Hydra's `+`."""


def conf_path() -> str:
    """Where the groups are, as Hydra's search path has it.

    The package `wattcount.conf`; in a checkout that is not installed the folder `conf` beside the package.
    """
    if importlib.util.find_spec("wattcount.conf") is not None:
        return "pkg://wattcount.conf"
    return str(Path(__file__).resolve().parents[2] / "conf")


@contextmanager
def _initialized() -> Iterator[None]:
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


def compose(overrides: Sequence[str] = (), config_dir: str | None = None) -> RunConfig:
    """The point that `python -m wattcount OVERRIDES` would run, validated; `auto` is left as it is.

    `config_dir` is a folder with the user's own groups, as `--config-dir`. Raises `NotStartedError`
    with one line that names the key.
    """
    return from_hydra(compose_hydra(overrides, config_dir))


def compose_hydra(overrides: Sequence[str] = (), config_dir: str | None = None) -> DictConfig:
    """As `compose`, but what Hydra made of it, not yet checked for sense."""
    overrides = list(overrides)
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[file://{os.path.abspath(config_dir)}]")  # noqa: PTH100
    with plain_errors(), _initialized():
        return hydra_compose(CONFIG_NAME, overrides)


def options(group: str, config_dir: str | None = None) -> list[str]:
    """The options of a group, sorted, without the schemas."""
    with _initialized():
        names = set(GlobalHydra.instance().config_loader().get_group_options(group))
    if config_dir is not None:
        names |= {file.stem for file in (Path(config_dir) / group).glob("*.yaml")}
    return sorted(name for name in names if not name.endswith("_schema"))


def gpu_catalogue() -> dict[str, GpuConfig]:
    """The packaged options of the group `gpu` but `auto`, by name."""
    return {name: gpu for name, gpu in _catalogue("gpu", GpuConfig).items() if gpu.nvml_names}


def model_catalogue() -> dict[str, ModelConfig]:
    """The packaged options of the group `model` but `auto` and `custom`, by name."""
    return {name: model for name, model in _catalogue("model", ModelConfig).items() if model.hf_config}


@functools.cache
def catalogued_model(name: str) -> ModelConfig | None:
    """One option of `model_catalogue`, to be read only; None where there is none of that name."""
    file = _packaged("model") / f"{name}.yaml"
    model = _option(file, "model", ModelConfig) if file.parent.name == "model" and file.is_file() else None
    return model if model is not None and model.hf_config else None


def _catalogue(group: str, cls: type[T]) -> dict[str, T]:
    """The packaged options of a group by name, each a value of its own that may be changed."""
    return {file.stem: _option(file, group, cls) for file in sorted(_packaged(group).glob("*.yaml"))}


def _packaged(group: str) -> Path:
    spec = importlib.util.find_spec("wattcount.conf")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else Path(conf_path())
    return folder / group


def _option(file: Path, group: str, cls: type[T]) -> T:
    return from_plain_group(cls, copy.deepcopy(_values(file)), f"{group}={file.stem}")


@functools.cache
def _values(file: Path) -> dict[str, Any]:
    """What an option's file says, read without Hydra, which takes a tenth of a second for each."""
    values = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(values, dict)
    values.pop("defaults", None)
    return {str(key): value for key, value in values.items()}


def match_gpu(found_name: str) -> GpuConfig | None:
    """The packaged option for a device name as NVML gives it; of several the most specific one."""
    matches = [
        gpu
        for gpu in gpu_catalogue().values()
        if any(re.fullmatch(pattern, found_name) for pattern in gpu.nvml_names)
    ]
    return max(matches, key=lambda gpu: len(gpu.name), default=None)


register()
