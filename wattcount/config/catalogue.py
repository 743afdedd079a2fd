"""What there is to choose from: the packaged options of the groups, and how option files are read, without Hydra."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from omegaconf._utils import get_yaml_loader

from wattcount.config.loader import GROUPS, Kind, kind_of, load
from wattcount.config.packaged import packaged
from wattcount.config.schema import GpuConfig, ModelConfig, Weights
from wattcount.errors import NotStartedError, one_line

Kinds = tuple[Kind, ...]
"""What a value may be: any of them; none: not known, or anything."""

_FOLDER_BEGINS = ("/", "./", "../", "~/")
"""Begins of `model=TEXT` that name a folder."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""A hub id, `ORG/NAME`."""
_TEXT, _NULL, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_SWEPT = (("hydra", "sweeper", "params"), ("hydra", "sweeper", "cases"))
"""Nodes of a file with `@package _global_` whose keys are overrides."""


def gpu_catalogue() -> dict[str, GpuConfig]:
    """The packaged options of the group `gpu` but `auto`, by name."""
    found = {file.stem: _gpu(file) for file in sorted(packaged("gpu").glob("*.yaml"))}
    return {name: gpu for name, gpu in found.items() if gpu.nvml_names}


def model_catalogue() -> dict[str, ModelConfig]:
    """The packaged options of the group `model` but `auto` and `custom`, by name."""
    found = {file.stem: _model(file) for file in sorted(packaged("model").glob("*.yaml"))}
    return {name: model for name, model in found.items() if model.hf_config}


def catalogued_model(name: str) -> ModelConfig | None:
    """One option of `model_catalogue`; None where there is none of that name."""
    file = packaged("model") / f"{name}.yaml"
    model = _model(file) if file.parent.name == "model" and file.is_file() else None
    return model if model is not None and model.hf_config else None


def model_named(text: str) -> dict[str, Any] | None:
    """The values of `model=TEXT` where the text is a folder or a hub id, as people write them; None: it is neither.

    A folder is written with a slash in front, or `./`, `../`, `~/`; so is one that is there and holds a `config.json`. Another text of two
    parts, `ORG/NAME`, is a hub id. One that a packaged model has stands for that option, and is the same point.
    """
    folder = Path(text).expanduser() if "/" in text or text in (".", "..") else None
    if folder is None:
        return None
    if text.startswith(_FOLDER_BEGINS) or text == ".." or (folder / "config.json").is_file():
        path = folder.resolve()
        return {"name": path.name or "model", "path": str(path), "weights": Weights.path.value}
    if _HUB_ID.fullmatch(text) is None:
        return None
    if (option := _option_of_hub_id(text)) is not None:
        return _values(option, "model")
    return {"name": text.rpartition("/")[2], "hf_id": text}


def _option_of_hub_id(hf_id: str) -> Path | None:
    """The file of the packaged model with this hub id, whatever is upper case; found without reading the others as YAML."""
    line = re.compile(rf"^hf_id: *{re.escape(hf_id)} *$", re.MULTILINE | re.IGNORECASE)
    files = sorted(packaged("model").glob("*.yaml"))
    return next((file for file in files if line.search(read_yaml(file))), None)


@functools.cache
def _gpu(file: Path) -> GpuConfig:
    return load(GpuConfig, _values(file, "gpu"), f"gpu={file.stem}")


@functools.cache
def _model(file: Path) -> ModelConfig:
    return load(ModelConfig, _values(file, "model"), f"model={file.stem}")


def _values(file: Path, group: str) -> dict[str, Any]:
    """What an option's file says, read without Hydra, which takes a tenth of a second for each."""
    values = load_yaml(read_yaml(file), group, str(file))
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


def read_yaml(file: Path) -> str:
    """The text of a file, without the byte order mark that some editors put first.

    Raises `NotStartedError` with the file's name where it cannot be read.
    """
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotStartedError(f"{file}: is not UTF-8 text: byte {error.start}: save it as UTF-8") from None
    except OSError as error:
        raise NotStartedError(f"{file}: cannot be read: {error.strerror}") from None


def load_yaml(text: str, described: str, name: str) -> dict[Any, Any]:
    """The values of a file as `OmegaConf.load` reads its text, in which a key that holds text keeps what was typed.

    YAML 1.1 reads unquoted `1e3`, `1_0`, `010`, `1:30`, `yes` and `2026_11_24` as numbers and booleans. Where the schema
    says that a key holds text, the words of the file are taken instead. `null` and `~` stay null.

    described  the dotted key of what the file describes; "" for all of the configuration
    name       of the file

    Raises `NotStartedError` for what is no YAML or no group of keys.
    """
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is None:
            return {}
        if node.id != "mapping":
            raise NotStartedError(f"{name}: must hold a group of keys, a line for each: KEY: VALUE")
        kinds = _present(kind_of(described))
        values: dict[Any, Any] = loader.construct_document(_kept(node, kinds, None if described else ()))
        return values
    except RecursionError:
        raise NotStartedError(f"{name}: holds itself: an alias (*) inside of what it stands for") from None
    except Exception as error:  # of PyYAML, which comes with OmegaConf and is not imported here
        if type(error).__module__.partition(".")[0] != "yaml":
            raise
        raise NotStartedError(f"{name}: {_words(error)}") from None


_loader = functools.cache(get_yaml_loader)
"""The class that reads YAML as OmegaConf does: each call of theirs makes a new one."""


def _words(error: Exception) -> str:
    """One line: what is wrong, and in which line of the file."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None)
    if mark is None or what is None:
        return one_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {what}"


def _kept(node: Any, kinds: Kinds, path: tuple[str, ...] | None) -> Any:
    """A YAML node with the words of text keys; `path`: from the configuration's root, None where it does not matter."""
    value: Any
    if node.id == "mapping":
        value = [(key, _kept(inner, *_below(key, kinds, path))) for key, inner in node.value]
        return type(node)(node.tag, value, node.start_mark, node.end_mark, node.flow_style)
    if node.id == "sequence":
        value = [_kept(item, children(kinds, ""), path) for item in node.value]
        return type(node)(node.tag, value, node.start_mark, node.end_mark, node.flow_style)
    if hold_text(kinds) and node.style is None and node.tag not in (_TEXT, _NULL):
        return type(node)(_TEXT, node.value, node.start_mark, node.end_mark)
    return node


def _below(key: Any, kinds: Kinds, path: tuple[str, ...] | None) -> tuple[Kinds, tuple[str, ...] | None]:
    if key.tag == _MERGE:
        return kinds, path
    name = str(key.value)
    if path in _SWEPT:
        return override_kinds(name), None
    return children(kinds, name), None if path is None else (*path, name)


def override_kinds(key: str) -> Kinds:
    """The types of what an override with this key sets. Of a group that may be the name of an option, which is text."""
    name = key.lstrip("+~").partition("@")[0]
    kinds = _present(kind_of(name))
    return (Kind(str), Kind(list, item=Kind(str)), *kinds) if name in GROUPS else kinds


def children(kinds: Kinds, name: str) -> Kinds:
    """The types of one entry of a node, by its key; by its index, or no name, of a list."""
    return tuple(child for kind in kinds if (child := kind.child(name)) is not None)


def hold_text(kinds: Kinds) -> bool:
    return any(kind.of is str for kind in kinds)


def _present(kind: Kind | None) -> Kinds:
    return () if kind is None else (kind,)
