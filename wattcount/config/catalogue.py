"""What there is to choose from: the packaged options of the groups, read without Hydra."""

from __future__ import annotations

import copy
import functools
import importlib.util
import re
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from wattcount.config.plain import from_plain_group
from wattcount.config.schema import GpuConfig, ModelConfig
from wattcount.config.schema_types import kind_of
from wattcount.config.yaml_text import load_yaml, read_yaml

T = TypeVar("T", GpuConfig, ModelConfig)


def conf_path() -> str:
    """Where the groups are, as Hydra's search path has it.

    The package `wattcount.conf`; in a checkout that is not installed the folder `conf` beside the package.
    """
    if importlib.util.find_spec("wattcount.conf") is not None:
        return "pkg://wattcount.conf"
    return str(Path(__file__).resolve().parents[2] / "conf")


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
    return from_plain_group(cls, copy.deepcopy(_values(file, group)), f"{group}={file.stem}")


@functools.cache
def _values(file: Path, group: str) -> dict[str, Any]:
    """What an option's file says, read without Hydra, which takes a tenth of a second for each."""
    values = OmegaConf.to_container(load_yaml(read_yaml(file), kind_of(group), str(file)))
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
